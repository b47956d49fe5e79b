//! The definition, run literally: one forward pass of the whole model over the whole sequences for each head.
//!
//! Nothing here is shared with the fast sweep but the model. It is what the fast sweep is tested against, and hundreds of times
//! slower on a real model.

use burn::prelude::*;
use burn::tensor::DType;
use pear_core::edit::{ReplaceHead, Replacement};
use pear_core::forward::residual;
use pear_core::proxy::ProxyBatch;
use pear_core::{CaptureHeads, DecoderModel, HeadEdit, HeadId};

use crate::locator::check;
use crate::patched::{Part, PatchedLogits};
use crate::readings::{Performance, Reading, all_logits, at, normalizer, to_f32};
use crate::selection::Selection;
use crate::{Ablation, LocateOptions, Metric, Mode, Result};

/// As [`patched_logits`](crate::patched_logits), head by head and all sequences at once, whatever the memory budget.
///
/// # Errors
/// As [`patched_logits`](crate::patched_logits).
pub fn patched_logits<M: DecoderModel>(
    model: &M,
    batch: &ProxyBatch,
    options: &LocateOptions,
) -> Result<PatchedLogits> {
    check(model, std::slice::from_ref(batch), options)?;
    replaced(
        model,
        batch,
        &Selection::all(&model.shape(), options),
        options,
    )
}

/// As [`patched_logits_of`](crate::patched_logits_of), head by head and all sequences at once, whatever the memory budget.
///
/// # Errors
/// As [`patched_logits_of`](crate::patched_logits_of).
pub fn patched_logits_of<M: DecoderModel>(
    model: &M,
    heads: &[HeadId],
    batch: &ProxyBatch,
    options: &LocateOptions,
) -> Result<PatchedLogits> {
    check(model, std::slice::from_ref(batch), options)?;
    replaced(
        model,
        batch,
        &Selection::of(&model.shape(), heads)?,
        options,
    )
}

fn replaced<M: DecoderModel>(
    model: &M,
    batch: &ProxyBatch,
    selected: &Selection,
    options: &LocateOptions,
) -> Result<PatchedLogits> {
    let tokens = batch.tokens(&model.device());
    let mut clean = CaptureHeads::default();
    let last = residual(model, tokens.clone(), &mut clean)?;
    let mut performance = Performance::default();
    performance.add(model, last.clone(), batch, batch.len() * batch.n());
    let base = read(model, last, batch, options.metric);

    let mut patched = Vec::new();
    for head in selected.iter() {
        let with = replacement(options.ablation, &clean.outputs[head.layer], head, batch);
        let mut replace = ReplaceHead {
            head,
            position: Some(batch.patch_position()),
            with,
        };
        let last = match options.mode {
            Mode::Activation => residual(model, tokens.clone(), &mut replace)?,
            Mode::Path => {
                // Every head keeps what it gave in the clean run, whatever it would give now.
                let mut frozen = Frozen {
                    clean: &clean,
                    replace,
                };
                residual(model, tokens.clone(), &mut frozen)?
            }
        };
        patched.push(read(model, last, batch, options.metric));
    }
    PatchedLogits::collect(
        model,
        batch,
        selected,
        options.metric,
        &[Part { base, patched }],
        performance,
    )
}

/// Replaces a head while all others keep their outputs of the clean run.
struct Frozen<'a> {
    clean: &'a CaptureHeads,
    replace: ReplaceHead,
}

impl HeadEdit for Frozen<'_> {
    fn edit(&mut self, layer: usize, _: Tensor<4>) -> pear_core::Result<Tensor<4>> {
        self.replace.edit(layer, self.clean.outputs[layer].clone())
    }
}

/// `heads`: the outputs of the head's layer in the clean run, `[batch, heads, seq, head_dim]`.
fn replacement(
    ablation: Ablation,
    heads: &Tensor<4>,
    head: HeadId,
    batch: &ProxyBatch,
) -> Replacement {
    let [samples, _, seq, head_dim] = heads.dims();
    let place = |positions| [0..samples, head.head..head.head + 1, positions, 0..head_dim];
    let output = |positions| heads.clone().slice(place(positions)).cast(DType::F32);
    let vector = match ablation {
        Ablation::Zero => return Replacement::Zero,
        Ablation::SequenceMean => output(seq - 2 * batch.n()..seq).mean_dim(2),
        Ablation::BatchMean => output(batch.patch_position()..batch.patch_position() + 1)
            .mean_dim(0)
            .expand([samples, 1, 1, head_dim]),
    };
    Replacement::Vector(vector.reshape([samples, head_dim]).cast(heads.dtype()))
}

/// `last`: the residual stream after the last layer, `[batch, seq, hidden]`.
fn read<M: DecoderModel>(
    model: &M,
    last: Tensor<3>,
    batch: &ProxyBatch,
    metric: Metric,
) -> Reading {
    let [samples, _, hidden] = last.dims();
    let logits = all_logits(
        model,
        last.narrow(1, batch.patch_position(), 1)
            .reshape([1, samples, hidden]),
    );
    let targets: Vec<i32> = batch.targets().map(|id| id as i32).collect();
    let targets = Tensor::<1, Int>::from_data(targets.as_slice(), &model.device());
    Reading {
        logits: to_f32(at(logits.clone(), targets)),
        normalizers: to_f32(normalizer(metric, logits)),
    }
}
