#![doc = include_str!("../README.md")]
//!
//! # Modules
//!
//! | module | what it is |
//! | --- | --- |
//! | [`model`] | the traits that a model implements |
//! | [`mod@forward`] | the forward pass built on them, with or without a cache |
//! | [`attention`] | grouped-query attention whose heads can be re-weighted, in two halves with the heads between |
//! | [`position`] | rotary, ALiBi, learned, sinusoidal, relative and no position embedding behind one interface |
//! | [`norm`] | root mean square and mean-and-variance norms, as the families round them |
//! | [`kernels`] | the operations of a layer, fast on the CPU |
//! | [`edit`] | capturing, replacing and scaling head outputs |
//! | [`coefficients`] | the learned numbers: fixed or trainable, applied to heads or folded into weights |
//! | [`reparam`] | the same coefficients attached to the output projection of *any* burn model |
//! | [`proxy`] | random tokens repeated twice: the task on which heads are found and coefficients learned |
//! | [`files`] | profiles as JSON |
//!
//! A *head output* is always `softmax(q kᵀ) v` of one query head, **before** the output projection, where heads are still
//! heads: `[batch, heads, seq, head_dim]`.
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
pub mod norm;
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
pub use norm::{Norm, NormConfig};
pub use position::Positions;
pub use proxy::ProxyTask;
pub use score_config::AttentionScoreConfig;

/// The result of everything here that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;
