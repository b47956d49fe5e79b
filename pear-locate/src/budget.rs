//! How much is computed at once.

use std::ops::Range;

use pear_core::DecoderModel;
use pear_core::proxy::ProxyBatch;

/// Sizes of the steps that a batch is worked off in; see
/// [`LocateOptions::DEFAULT_MEMORY_BUDGET`](crate::LocateOptions::DEFAULT_MEMORY_BUDGET) for the estimate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Sequences that run together.
    pub samples: usize,
    /// Positions whose logits over the whole vocabulary are held together.
    pub logit_rows: usize,
}

impl Plan {
    pub(crate) fn new<M: DecoderModel>(model: &M, batch: &ProxyBatch, budget: usize) -> Self {
        let shape = model.shape();
        let hidden = model.hidden_size();
        let position = 32 * hidden + 3 * shape.num_heads * batch.seq_len();
        let sample = 4 * (batch.seq_len() * position + shape.num_layers * shape.num_heads * hidden);
        let fits = (budget / sample).clamp(1, batch.len());
        // Steps of equal size: 60 sequences of which 40 fit go as 30 and 30.
        let samples = batch.len().div_ceil(batch.len().div_ceil(fits));
        Self {
            samples,
            logit_rows: (budget / (16 * model.vocab_size()).max(1)).max(1),
        }
    }

    /// The sequences of each step.
    pub(crate) fn steps(self, batch: &ProxyBatch) -> impl Iterator<Item = Range<usize>> + use<> {
        let len = batch.len();
        (0..len)
            .step_by(self.samples)
            .map(move |start| start..(start + self.samples).min(len))
    }
}
