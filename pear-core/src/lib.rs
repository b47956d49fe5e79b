//! The pieces that PEAR is made of, on [burn](https://burn.dev) tensors.
//!
//! PEAR ([arXiv 2409.19745](https://arxiv.org/abs/2409.19745)) makes a frozen language model use its context better: it finds
//! the attention heads that suppress what stands there, learns one coefficient for each, and folds the coefficients into the
//! output projections, so that inference costs what it did before. This crate holds what every stage needs:
//!
//! | module | what it is |
//! | --- | --- |
//! | [`model`] | the traits that a model implements |
//! | [`mod@forward`] | the forward pass built on them, with or without a cache |
//! | [`attention`] | grouped-query attention whose heads can be re-weighted, in two halves with the heads between |
//! | [`position`] | rotary, ALiBi, learned, sinusoidal, relative and no position embedding behind one interface |
//! | [`kernels`] | the parts of a layer, fast on the CPU |
//! | [`edit`] | capturing, replacing and scaling head outputs |
//! | [`coefficients`] | the learned numbers: fixed or trainable, applied to heads or folded into weights |
//! | [`reparam`] | the same coefficients attached to the output projection of *any* burn model |
//! | [`proxy`] | random tokens repeated twice: the task on which heads are found and coefficients learned |
//! | [`files`] | profiles as JSON |
//!
//! A *head output* is always `softmax(q kᵀ) v` of one query head, **before** the output projection, where heads are still
//! heads: `[batch, heads, seq, head_dim]`.
//!
//! # Example
//!
//! Attention whose second head counts half, and the same numbers from folded weights:
//!
//! ```
//! use burn::prelude::*;
//! use burn::tensor::Distribution;
//! use pear_core::{AttentionConfig, HeadCoefficients, HeadId, ModelShape, Positions};
//!
//! let device = Device::flex();
//! let plain = AttentionConfig::new(32, 4).with_num_key_value_heads(2).init(&device)?;
//! let head = HeadId::new(0, 1);
//! let coefficients = HeadCoefficients::new(&[(head, 0.5)], &ModelShape::new("mine", 1, 4), &device)?;
//!
//! let reweighted = plain.clone().with_coefficients(coefficients.layer(0).cloned())?;
//! let folded = reweighted.clone().fold();
//!
//! let hidden = Tensor::<3>::random([1, 6, 32], Distribution::Normal(0.0, 1.0), &device);
//! let a = reweighted.forward(hidden.clone(), Positions::first(6));
//! let b = folded.forward(hidden, Positions::first(6));
//! assert!((a - b).abs().max().into_scalar::<f32>() < 1e-5);
//! # Ok::<(), pear_core::Error>(())
//! ```
#![deny(missing_docs)]

mod attend;
pub mod attention;
mod burn_attention;
pub mod cache;
pub mod coefficients;
pub mod edit;
pub mod error;
pub mod files;
pub mod forward;
pub mod head;
pub mod kernels;
pub mod model;
pub mod position;
pub mod proxy;
pub mod reparam;
mod score_config;

/// The framework, in the version that these crates are built on.
pub use burn;

pub use attend::{attend, attend_padded};
pub use attention::{Attention, AttentionConfig, QkNorm};
pub use cache::KvCache;
pub use coefficients::{HeadCoefficients, LayerCoefficients};
pub use edit::{CaptureHeads, HeadEdit, NoEdit, TrackedCoefficients};
pub use error::Error;
pub use files::Profile;
pub use head::{HeadId, LayerRange, ModelShape};
pub use model::{DecoderLayer, DecoderModel, HeadAttention, Qkv};
pub use position::Positions;
pub use proxy::ProxyTask;
pub use score_config::AttentionScoreConfig;

/// The result of everything here that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;
