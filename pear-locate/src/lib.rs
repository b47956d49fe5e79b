//! Finding the attention heads that keep a language model from its context.
//!
//! The model reads random tokens twice ([`pear_core::proxy`]). At the last position whose next token it can know, one head's
//! output at a time is replaced by an uninformative one, and the logit `π` of the right token becomes `π̃`. The score of a head
//! is `mean(π̃) / mean(π) − 1`, averaged over lengths: heads with the highest scores *suppress* the context, since the model
//! predicts better without them ([arXiv 2409.19745](https://arxiv.org/abs/2409.19745), section 3.1). [`LocateOptions`] has
//! the variations.
//!
//! [`locate`] (or a [`Locator`], which can be watched and interrupted) replaces all heads in one pass over the layers, which computes nothing twice; [`naive`] is the definition run
//! literally, for comparison.
//!
//! # Example
//!
//! A model of one layer without norms and MLPs, written against the traits, and its heads:
//!
//! ```
//! use burn::prelude::*;
//! use burn::tensor::Distribution;
//! use pear_core::{Attention, AttentionConfig, DecoderLayer, DecoderModel, ModelShape, Positions, ProxyTask};
//! use pear_locate::{LocateOptions, Metric, locate, proxy_batches};
//!
//! struct OneLayer {
//!     attention: Attention,
//!     embedding: Tensor<2>,
//! }
//!
//! impl DecoderModel for OneLayer {
//!     type Layer<'a> = &'a Self;
//!     fn shape(&self) -> ModelShape {
//!         ModelShape::new("one-layer", 1, 6)
//!     }
//!     fn hidden_size(&self) -> usize {
//!         24
//!     }
//!     fn vocab_size(&self) -> usize {
//!         100
//!     }
//!     fn device(&self) -> Device {
//!         self.embedding.device()
//!     }
//!     fn embed(&self, tokens: Tensor<2, Int>, _: Positions) -> Tensor<3> {
//!         burn::tensor::module::embedding(self.embedding.clone(), tokens)
//!     }
//!     fn layer(&self, _: usize) -> pear_core::Result<&Self> {
//!         Ok(self)
//!     }
//!     fn logits(&self, residual: Tensor<3>) -> Tensor<3> {
//!         residual.matmul(self.embedding.clone().transpose().unsqueeze())
//!     }
//! }
//!
//! impl DecoderLayer for OneLayer {
//!     type Attention = Attention;
//!     fn attention(&self) -> &Attention {
//!         &self.attention
//!     }
//!     fn attention_input(&self, residual: Tensor<3>) -> Tensor<3> {
//!         residual
//!     }
//!     fn output(&self, residual: Tensor<3>, attention_output: Tensor<3>) -> Tensor<3> {
//!         residual + attention_output
//!     }
//! }
//!
//! let device = Device::flex();
//! let model = OneLayer {
//!     attention: AttentionConfig::new(24, 6).init(&device)?,
//!     embedding: Tensor::random([100, 24], Distribution::Normal(0.0, 1.0), &device),
//! };
//! let batches = proxy_batches(&ProxyTask::new(100, &[0], 7)?, &[(10, 4), (5, 8)])?;
//! let options = LocateOptions { metric: Metric::LogitDiff, ..LocateOptions::default() };
//! let report = locate(&model, &batches, &options)?;
//!
//! assert_eq!(report.scores.heads().len(), 6);
//! assert!(report.scores.heads()[0].score >= report.scores.heads()[5].score);
//! // Random weights cannot copy, and the report says so.
//! assert!(report.warnings().next().is_some());
//! # Ok::<(), pear_locate::Error>(())
//! ```
#![deny(missing_docs)]

mod attribution;
mod budget;
mod clean;
mod devices;
mod error;
mod locator;
pub mod metric;
pub mod naive;
mod options;
mod patch_site;
mod patched;
mod progress;
mod readings;
mod report;
mod scores;
mod stability;
mod sweep;
mod warning;

pub use error::Error;
pub use locator::{Event, Locator, Outcome, locate, patched_logits};
pub use options::LocateOptions;
pub use patched::{Normalizers, PatchedLogits};
pub use progress::Progress;
pub use report::{LengthReport, Report};
pub use scores::{
    Ablation, Gap, HeadScore, LengthScores, Method, Metric, Mode, Overlap, Rounding, ScoreSettings,
    Scores, Stability,
};
pub use stability::{rank_correlation, stability};
pub use warning::Warning;

use pear_core::ProxyTask;
use pear_core::proxy::ProxyBatch;

/// The result of everything here that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The paper's lengths n for Llama-2-7B, each with its number of sequences.
pub const PAPER_LENGTHS: [(usize, usize); 4] = [(50, 20), (25, 40), (15, 80), (10, 100)];

/// Draws sequences: for each `(n, samples)`, a batch of `samples` sequences of n tokens repeated.
///
/// # Errors
/// [`Error::Core`] for n below 2 or no sequences.
pub fn proxy_batches(task: &ProxyTask, lengths: &[(usize, usize)]) -> Result<Vec<ProxyBatch>> {
    lengths
        .iter()
        .map(|&(n, samples)| Ok(task.batch(n, 0..samples)?))
        .collect()
}
