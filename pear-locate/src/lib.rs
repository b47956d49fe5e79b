#![doc = include_str!("../README.md")]
//!
//! # The score
//!
//! Let `π` be the logit of the right token at the last position whose next token the first reading determines, and `π̃` the same logit with
//! one head's output replaced there. The score of a head is `mean(π̃) / mean(π) − 1` over the sequences of one length, averaged over
//! lengths. Heads with the highest scores *suppress* the context: the model predicts better without them
//! ([arXiv 2409.19745](https://arxiv.org/abs/2409.19745), section 3.1). [`LocateOptions`] has the variations.
//!
//! [`locate`] is the short form of a [`Locator`], which can own its model and be watched, cancelled and resumed. Both replace all heads in
//! one pass over the layers. [`naive`] is the definition run literally, for comparison.
#![deny(missing_docs)]

mod anytime;
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
mod selection;
mod separation;
mod stability;
mod step;
mod sweep;
mod sweep_state;
mod variants;
mod warning;

pub use anytime::{AnytimeLocator, Budget, Rounds};
pub use budget::readings_of_layers;
pub use error::Error;
pub use locator::{Event, Locator, Outcome, locate, patched_logits, patched_logits_of};
pub use options::LocateOptions;
pub use patched::{Normalizers, PatchedLogits};
pub use progress::Progress;
pub use report::{LengthReport, Report};
pub use scores::{
    Ablation, AnytimeRecord, Gap, HeadScore, LengthScores, Method, Metric, Mode, Overlap, RankBy,
    Rounding, ScoreSettings, Scores, Stability,
};
pub use stability::{rank_correlation, stability};
pub use sweep_state::remove_sweep_state;
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
