//! How far a sweep is.

use pear_core::proxy::ProxyBatch;
use serde::{Deserialize, Serialize};

use crate::selection::Selection;

/// Part of [`Event::Layer`](crate::Event::Layer). A first pass for batch means, where one is needed, comes before and is not
/// counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Tokens repeated in the sequences at hand.
    pub n: usize,
    /// Work done, over all lengths: positions that went through a layer, which take about the same time each.
    pub done: u64,
    /// Total work.
    pub total: u64,
}

/// Positions that go through `layer` with sequences of `batch`: those of the clean run, and one for each head replaced up to this layer.
pub(crate) fn row_passes(batch: &ProxyBatch, selected: &Selection, layer: usize) -> u64 {
    (batch.len() * (batch.seq_len() + selected.rows(layer))) as u64
}

/// Counts work.
pub(crate) struct Meter {
    num_layers: usize,
    selected: Selection,
    done: u64,
    total: u64,
}

impl Meter {
    pub(crate) fn new(num_layers: usize, selected: Selection, batches: &[ProxyBatch]) -> Self {
        let mut meter = Self {
            num_layers,
            selected,
            done: 0,
            total: 0,
        };
        meter.total = batches.iter().map(|batch| meter.all(batch)).sum();
        meter
    }

    /// The sequences of `batch` have been through `layer`.
    pub(crate) fn layer_done(&mut self, batch: &ProxyBatch, layer: usize) -> Progress {
        self.add(batch, row_passes(batch, &self.selected, layer))
    }

    /// The sequences of `batch` have been through all layers in an earlier run.
    pub(crate) fn batch_done(&mut self, batch: &ProxyBatch) -> Progress {
        self.add(batch, self.all(batch))
    }

    fn add(&mut self, batch: &ProxyBatch, work: u64) -> Progress {
        self.done += work;
        Progress {
            n: batch.n(),
            done: self.done,
            total: self.total,
        }
    }

    fn all(&self, batch: &ProxyBatch) -> u64 {
        (0..self.num_layers)
            .map(|layer| row_passes(batch, &self.selected, layer))
            .sum()
    }
}
