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
    layers: Vec<Estimated>,
}

/// A layer some of whose heads would be replaced.
struct Estimated {
    heads: Vec<usize>,
    /// Added to the head outputs, `[samples, heads, head_dim]`.
    zeros: Tensor<3>,
    /// How replacing changes the head outputs, `[samples, heads, head_dim]`.
    change: Tensor<3>,
}

impl Estimate {
    /// Goes through the layer of `site`; the heads `replaced` would be by `vectors`, `[samples or 1, heads, head_dim]`, if there are any.
    pub(crate) fn through<L: DecoderLayer>(
        &mut self,
        site: &PatchSite<'_, L>,
        replaced: &[usize],
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
            self.layers.push(Estimated {
                heads: replaced.to_vec(),
                zeros,
                change: vectors.clone().expand(clean.dims()) - clean,
            });
        }
        self.rows = Some(site.continued(rows, heads));
    }

    /// What every one of the heads replaced would be read as. `compared` gives the sum of the compared numbers of rows `[1, samples, hidden]`.
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
        for Estimated {
            heads,
            zeros,
            change,
        } in self.layers
        {
            let [samples, num_heads, _] = change.dims();
            // No gradient: nothing above looks at this layer's heads.
            let effects = match zeros.grad(&gradients) {
                Some(gradient) => {
                    to_f32((gradient.cast(DType::F32) * change.cast(DType::F32)).sum_dim(2))
                }
                None => vec![0.0; samples * num_heads],
            };
            readings.extend(heads.into_iter().map(|head| {
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
