//! What may be spent, and on which heads.

use pear_core::ModelShape;
use pear_core::proxy::ProxyBatch;

use crate::progress::row_passes;
use crate::selection::Selection;
use crate::{Ablation, Error, LocateOptions, Method, Result};

/// The work that locating may take, and the heads that it is for. See [`Locator::within`](crate::Locator::within).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget {
    /// Number of heads to be found (K).
    pub top_k: usize,
    /// Row passes, at most. A *row pass* takes one position of one sequence through one layer: `seq · layers` a sequence for the run in
    /// which no head is replaced, and `layers − l` more for each replaced head of layer `l`.
    pub row_passes: u64,
    /// The probability with which all heads called settled are on their right side, up to the normal approximation of means.
    pub confidence: f64,
}

impl Budget {
    /// For the `top_k` highest-ranked heads, settled with 95 % confidence.
    pub fn new(top_k: usize, row_passes: u64) -> Self {
        Self {
            top_k,
            row_passes,
            confidence: 0.95,
        }
    }

    /// The row passes of the uniform sweep over these sequences: every head replaced in every one.
    pub fn of_uniform(shape: &ModelShape, options: &LocateOptions, batches: &[ProxyBatch]) -> u64 {
        let selected = Selection::all(shape, options);
        let of_batch = |batch| {
            (0..shape.num_layers)
                .map(|layer| row_passes(batch, &selected, layer))
                .sum::<u64>()
        };
        batches.iter().map(of_batch).sum()
    }

    /// Whether heads can be found so among `heads` of them.
    pub(crate) fn check(
        &self,
        heads: usize,
        options: &LocateOptions,
        batches: &[ProxyBatch],
    ) -> Result<()> {
        if options.ablation == Ablation::BatchMean {
            return Err(Error::NotWithinBudget(
                "batch means are taken over all sequences, of which a budget leaves some out: use sequence means or zero",
            ));
        }
        if options.method == Method::Attribution {
            return Err(Error::NotWithinBudget(
                "attribution patching scores all heads at once, whatever the number",
            ));
        }
        if !(1..heads).contains(&self.top_k) {
            return Err(Error::TopK {
                top_k: self.top_k,
                heads,
            });
        }
        if !(self.confidence > 0.0 && self.confidence < 1.0) {
            return Err(Error::Confidence(self.confidence));
        }
        match batches.iter().find(|batch| batch.len() < 2) {
            Some(batch) => Err(Error::SingleSequence(batch.n())),
            None => Ok(()),
        }
    }
}
