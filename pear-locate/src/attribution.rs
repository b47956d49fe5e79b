//! A first-order estimate of every head's effect from one run up and one gradient down: attribution patching
//! ([Nanda, 2023](https://www.neelnanda.io/mechanistic-interpretability/attribution-patching);
//! [Syed et al., arXiv 2310.10348](https://arxiv.org/abs/2310.10348)).
//!
//! With `g` the gradient of the compared number by a head's output `A` at the patched position, replacing `A` by `v` changes that number by
//! about `g · (v − A)`. Only the patched position is tracked: keys and values of earlier positions do not react to it. The graph holds
//! the keys and values of all layers for the sequences that run together, which the memory budget does not count.

use burn::prelude::*;
use burn::tensor::DType;
use pear_core::DecoderLayer;

use crate::Mode;
use crate::patch_site::PatchSite;
use crate::readings::{Reading, to_f32};

/// The patched position on its way up, tracked from the first layer whose heads are replaced.
#[derive(Default)]
pub(crate) struct Estimate {
    /// `[1, samples, hidden]`.
    rows: Option<Tensor<3>>,
    /// For each layer: zeros added to its head outputs, and how replacing changes these; `[samples, heads, head_dim]`.
    layers: Vec<[Tensor<3>; 2]>,
}

impl Estimate {
    /// Goes through the layer of `site`; its heads would be replaced by `vectors`, `[samples or 1, heads, head_dim]`.
    pub(crate) fn through<L: DecoderLayer>(
        &mut self,
        site: &PatchSite<'_, L>,
        vectors: Option<&Tensor<3>>,
        mode: Mode,
    ) {
        let rows = self.rows.take();
        if rows.is_none() && vectors.is_none() {
            return;
        }
        let clean = site.heads();
        let mut heads = match (&rows, mode) {
            (Some(rows), Mode::Activation) => site.attended(rows.clone()),
            _ => clean.clone(),
        };
        if let Some(vectors) = vectors {
            let zeros = Tensor::<3>::zeros(clean.dims(), (&clean.device(), clean.dtype()))
                .autodiff()
                .require_grad();
            heads = heads + zeros.clone();
            self.layers
                .push([zeros, vectors.clone().expand(clean.dims()) - clean]);
        }
        self.rows = Some(site.continued(rows, heads));
    }

    /// What every head replaced would be read as. `compared` gives the sum of the compared numbers of rows `[1, samples, hidden]`.
    pub(crate) fn finish(
        self,
        base: &Reading,
        compared: impl FnOnce(Tensor<3>) -> Tensor<1>,
    ) -> Vec<Reading> {
        let Some(rows) = self.rows else {
            return Vec::new();
        };
        let gradients = compared(rows).backward();
        let mut readings = Vec::new();
        for [zeros, change] in self.layers {
            let [samples, num_heads, _] = change.dims();
            // No gradient: nothing above looks at this layer's heads.
            let effects = match zeros.grad(&gradients) {
                Some(gradient) => {
                    to_f32((gradient.cast(DType::F32) * change.cast(DType::F32)).sum_dim(2))
                }
                None => vec![0.0; samples * num_heads],
            };
            readings.extend((0..num_heads).map(|head| {
                let effects = effects.iter().skip(head).step_by(num_heads);
                let logits = base
                    .logits
                    .iter()
                    .zip(effects)
                    .map(|(logit, effect)| logit + effect)
                    .collect();
                Reading {
                    logits,
                    normalizers: base.normalizers.clone(),
                }
            }));
        }
        readings
    }
}
