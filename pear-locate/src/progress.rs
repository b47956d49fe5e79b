//! How far a sweep is.

use pear_core::ModelShape;
use pear_core::proxy::ProxyBatch;

/// Handed to the caller's closure after each layer. A first pass for batch means, where one is needed, comes before and is not
/// counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Tokens repeated in the sequences at hand.
    pub n: usize,
    /// Work done, over all lengths: positions that went through a layer, which take about the same time each.
    pub done: u64,
    /// Work there is.
    pub total: u64,
}

/// Counts work and tells about it.
pub(crate) struct Meter<'a> {
    done: u64,
    total: u64,
    report: &'a mut dyn FnMut(Progress),
}

impl<'a> Meter<'a> {
    pub(crate) fn new(shape: &ModelShape, batches: &[ProxyBatch], report: &'a mut dyn FnMut(Progress)) -> Self {
        let work = |batch: &ProxyBatch| (0..shape.num_layers).map(|layer| work(shape, batch, layer)).sum::<u64>();
        Self { done: 0, total: batches.iter().map(work).sum(), report }
    }

    /// The sequences of `batch` have been through `layer`.
    pub(crate) fn layer_done(&mut self, shape: &ModelShape, batch: &ProxyBatch, layer: usize) {
        self.done += work(shape, batch, layer);
        (self.report)(Progress { n: batch.n(), done: self.done, total: self.total });
    }
}

/// Positions that go through `layer`: those of the normal run, and one for each head up to this layer.
fn work(shape: &ModelShape, batch: &ProxyBatch, layer: usize) -> u64 {
    (batch.len() * (batch.seq_len() + shape.num_heads * (layer + 1))) as u64
}
