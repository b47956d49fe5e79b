//! The clean run, layer by layer, and the vectors that stand in for heads.

use burn::prelude::*;
use burn::tensor::DType;
use pear_core::proxy::ProxyBatch;
use pear_core::{DecoderLayer, DecoderModel, HeadAttention, Positions, Qkv, attend};

use crate::budget::Plan;
use crate::{Ablation, Error, Result};

/// What one layer's attention does with whole sequences.
pub(crate) struct CleanLayer {
    /// `[batch, key_value_heads, seq, head_dim]`.
    pub key: Tensor<4>,
    /// `[batch, key_value_heads, seq, head_dim]`.
    pub value: Tensor<4>,
    /// `[batch, heads, seq, head_dim]`.
    pub heads: Tensor<4>,
    /// `[batch, seq, hidden]`.
    pub output: Tensor<3>,
}

impl CleanLayer {
    /// Attention of `layer` on the residual stream before it, `[batch, seq, hidden]`.
    pub(crate) fn run<L: DecoderLayer>(layer: &L, residual: &Tensor<3>) -> Result<Self> {
        let attention = layer.attention();
        let positions = Positions::first(residual.dims()[1]);
        let Qkv { query, key, value } =
            attention.project_qkv(layer.attention_input(residual.clone()), positions);
        let heads = attend(attention, query, key.clone(), value.clone());
        let output = attention.output_projection(heads.clone());
        if output.is_autodiff() {
            return Err(Error::Autodiff);
        }
        Ok(Self {
            key,
            value,
            heads,
            output,
        })
    }
}

/// Sequences before the first layer: `[batch, seq, hidden]`.
pub(crate) fn embed<M: DecoderModel>(model: &M, batch: &ProxyBatch) -> Tensor<3> {
    model.embed(
        batch.tokens(&model.device()),
        Positions::first(batch.seq_len()),
    )
}

/// What stands in for each head of a layer at the patched position: `[batch, heads, head_dim]`, or `[1, heads, head_dim]` where
/// it is the same for all sequences. `heads` is `[batch, heads, seq, head_dim]`; `batch_mean` has been computed over more
/// sequences than these, if it is there.
pub(crate) fn intervention(
    ablation: Ablation,
    heads: &Tensor<4>,
    batch: &ProxyBatch,
    batch_mean: Option<&Tensor<3>>,
) -> Tensor<3> {
    let [samples, num_heads, _, head_dim] = heads.dims();
    let dtype = heads.dtype();
    match (ablation, batch_mean) {
        (Ablation::Zero, _) => Tensor::zeros([1, num_heads, head_dim], (&heads.device(), dtype)),
        (Ablation::SequenceMean, _) => {
            // The 2n repeated tokens alone: a BOS before them does not count.
            let positions = 2 * batch.n();
            let of_tokens = heads
                .clone()
                .narrow(2, batch.seq_len() - positions, positions);
            of_tokens
                .cast(DType::F32)
                .mean_dim(2)
                .reshape([samples, num_heads, head_dim])
                .cast(dtype)
        }
        (Ablation::BatchMean, Some(mean)) => mean.clone().cast(dtype),
        (Ablation::BatchMean, None) => (sum_at_patch(heads, batch) / samples as f64).cast(dtype),
    }
}

/// The mean head outputs at the patched position over all sequences of a batch that has to be run in several steps:
/// `[1, heads, head_dim]` for each layer, f32.
pub(crate) fn batch_means<M: DecoderModel>(
    model: &M,
    batch: &ProxyBatch,
    plan: Plan,
) -> Result<Vec<Tensor<3>>> {
    let num_layers = model.shape().num_layers;
    let mut sums: Vec<Tensor<3>> = Vec::with_capacity(num_layers);
    for range in plan.steps(batch) {
        let step = batch.slice(range);
        let mut residual = embed(model, &step);
        for layer in 0..num_layers {
            let this = model.layer(layer)?;
            let clean = CleanLayer::run(&this, &residual)?;
            let sum = sum_at_patch(&clean.heads, &step);
            match sums.get_mut(layer) {
                Some(total) => *total = total.clone() + sum,
                None => sums.push(sum),
            }
            // Nothing is read above the heads of the last layer.
            if layer + 1 < num_layers {
                residual = this.output(residual, clean.output);
            }
        }
    }
    Ok(sums
        .into_iter()
        .map(|sum| sum / batch.len() as f64)
        .collect())
}

/// `[batch, heads, seq, head_dim]` to `[1, heads, head_dim]`, f32.
pub(crate) fn sum_at_patch(heads: &Tensor<4>, batch: &ProxyBatch) -> Tensor<3> {
    let [_, num_heads, _, head_dim] = heads.dims();
    heads
        .clone()
        .narrow(2, batch.patch_position(), 1)
        .cast(DType::F32)
        .sum_dim(0)
        .reshape([1, num_heads, head_dim])
}
