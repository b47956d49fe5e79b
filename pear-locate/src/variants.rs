//! The residual streams of all variants of the sequences that run together.

use burn::prelude::*;
use pear_core::DecoderLayer;
use pear_core::proxy::ProxyBatch;

use crate::patch_site::PatchSite;

/// The residual streams of all variants so far, in chunks `[1, variants * samples, hidden]` of which all but the last are full.
pub(crate) struct Variants {
    chunks: Vec<Tensor<3>>,
    samples: usize,
    /// Variants in a full chunk: as many rows as the clean run has.
    limit: usize,
}

impl Variants {
    pub(crate) fn new(batch: &ProxyBatch) -> Self {
        Self {
            chunks: Vec::new(),
            samples: batch.len(),
            limit: batch.seq_len(),
        }
    }

    /// Variants that still go into the last chunk, or into a new one.
    fn room(&self) -> usize {
        match self.chunks.last().map(|rows| rows.dims()[1] / self.samples) {
            Some(variants) if variants < self.limit => self.limit - variants,
            _ => self.limit,
        }
    }

    /// Adds a variant for each of `heads`, replaced by its own of `vectors`, `[samples or 1, heads, head_dim]`.
    pub(crate) fn join<L: DecoderLayer>(
        &mut self,
        site: &PatchSite<'_, L>,
        mut heads: &[usize],
        vectors: &Tensor<3>,
    ) {
        while !heads.is_empty() {
            let (joining, rest) = heads.split_at(self.room().min(heads.len()));
            self.push(site.replace(joining, vectors));
            heads = rest;
        }
    }

    fn push(&mut self, rows: Tensor<3>) {
        match self.chunks.pop() {
            Some(last) if last.dims()[1] < self.limit * self.samples => {
                self.chunks.push(Tensor::cat(vec![last, rows], 1))
            }
            full => self.chunks.extend(full.into_iter().chain([rows])),
        }
    }

    pub(crate) fn map(&mut self, through: impl Fn(Tensor<3>) -> Tensor<3>) {
        // By value, so that a chunk's old rows are freed before the next one moves.
        self.chunks = std::mem::take(&mut self.chunks)
            .into_iter()
            .map(through)
            .collect();
    }

    /// Those of a state that was saved; `None` if they are not `count` variants of these sequences.
    pub(crate) fn restored(
        batch: &ProxyBatch,
        chunks: Vec<Tensor<3>>,
        hidden: usize,
        count: usize,
    ) -> Option<Self> {
        let rows = |rows: &Tensor<3>| rows.dims()[1];
        let fits = |rows: &Tensor<3>| {
            let [one, rows, width] = rows.dims();
            one == 1 && width == hidden && rows % batch.len() == 0
        };
        let total: usize = chunks.iter().map(rows).sum();
        (chunks.iter().all(fits) && total == count * batch.len()).then(|| Self {
            chunks,
            ..Self::new(batch)
        })
    }

    /// In the order in which they joined.
    pub(crate) fn chunks(&self) -> &[Tensor<3>] {
        &self.chunks
    }

    /// All of them, in the order in which they joined.
    pub(crate) fn into_chunks(self) -> Vec<Tensor<3>> {
        self.chunks
    }
}
