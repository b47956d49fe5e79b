//! The forward pass, written once for every model: whole sequences, cached chunks, and a self-test of a model's two halves.

use std::ops::Range;

use burn::prelude::*;

use crate::attend::{attend, attend_padded};
use crate::cache::KvCache;
use crate::edit::HeadEdit;
use crate::model::{DecoderModel, HeadAttention, Qkv};
use crate::position::Positions;
use crate::{Error, Result};

/// # Errors
/// [`Error::TooLong`] if the model has no positions for `length` tokens.
pub fn check_length<M: DecoderModel>(model: &M, length: usize) -> Result<()> {
    match model.max_positions() {
        Some(max_positions) if length > max_positions => Err(Error::TooLong {
            length,
            max_positions,
        }),
        _ => Ok(()),
    }
}

/// Token ids as the tensor `[batch, seq]` that [`DecoderModel::embed`] takes.
///
/// # Panics
/// If the rows are not all of the same length.
pub fn token_tensor(rows: &[impl AsRef<[u32]>], device: &Device) -> Tensor<2, Int> {
    let seq = rows.first().map_or(0, |row| row.as_ref().len());
    let ids: Vec<i32> = rows
        .iter()
        .flat_map(|row| row.as_ref().iter().map(|&id| id as i32))
        .collect();
    Tensor::from_data(TensorData::new(ids, [rows.len(), seq]), device)
}

/// Runs `layers` on a residual stream `[batch, seq, hidden]`, with `edit` between the halves of each attention.
///
/// With a cache the tokens follow those that it holds; the caller [advances](KvCache::advance) it after the last layer.
pub fn run_layers<M: DecoderModel>(
    model: &M,
    mut residual: Tensor<3>,
    layers: Range<usize>,
    mut cache: Option<&mut KvCache>,
    edit: &mut impl HeadEdit,
) -> Tensor<3> {
    let padding = cache
        .as_ref()
        .map_or(Vec::new(), |cache| cache.padding().to_vec());
    let positions = Positions::after(cache.as_ref().map_or(0, |c| c.len()), residual.dims()[1])
        .padded(&padding);
    for layer in layers {
        residual = run_layer(
            model,
            residual,
            layer,
            positions,
            cache.as_deref_mut(),
            edit,
        );
    }
    residual
}

/// Runs one layer on a residual stream `[batch, seq, hidden]` whose tokens stand at `positions`; see [`run_layers`].
pub fn run_layer<M: DecoderModel>(
    model: &M,
    residual: Tensor<3>,
    layer: usize,
    positions: Positions,
    cache: Option<&mut KvCache>,
    edit: &mut impl HeadEdit,
) -> Tensor<3> {
    let attention = model.attention(layer);
    let Qkv {
        query,
        mut key,
        mut value,
    } = attention.project_qkv(model.attention_input(layer, residual.clone()), positions);
    if let Some(cache) = cache {
        (key, value) = cache.append(layer, key, value);
    }
    let heads = edit.edit(
        layer,
        attend_padded(attention, query, key, value, positions.padding),
    );
    model.block_output(layer, residual, attention.output_projection(heads))
}

/// The residual stream after the last layer for whole sequences: `[batch, seq]` to `[batch, seq, hidden]`.
pub fn residual<M: DecoderModel>(
    model: &M,
    tokens: Tensor<2, Int>,
    edit: &mut impl HeadEdit,
) -> Tensor<3> {
    let embedded = model.embed(tokens.clone(), Positions::first(tokens.dims()[1]));
    run_layers(model, embedded, 0..model.shape().num_layers, None, edit)
}

/// The logits of whole sequences: `[batch, seq]` to `[batch, seq, vocab]`.
pub fn logits<M: DecoderModel>(
    model: &M,
    tokens: Tensor<2, Int>,
    edit: &mut impl HeadEdit,
) -> Tensor<3> {
    model.logits(residual(model, tokens, edit))
}

/// Reads the next tokens `[batch, seq]` after those in the cache and returns the residual stream after the last layer,
/// `[batch, seq, hidden]`. A prompt may come in one piece, in chunks, or token by token.
pub fn residual_cached<M: DecoderModel>(
    model: &M,
    tokens: Tensor<2, Int>,
    cache: &mut KvCache,
    edit: &mut impl HeadEdit,
) -> Tensor<3> {
    let seq = tokens.dims()[1];
    let embedded = model.embed(
        tokens,
        Positions::after(cache.len(), seq).padded(cache.padding()),
    );
    let residual = run_layers(
        model,
        embedded,
        0..model.shape().num_layers,
        Some(cache),
        edit,
    );
    cache.advance(seq);
    residual
}

/// What each head adds to the residual stream: `[batch, heads, seq, hidden]`, from head outputs `[batch, heads, seq, head_dim]`.
///
/// The output projection is linear, so these and its bias sum to the attention's output.
pub fn head_contributions<A: HeadAttention>(attention: &A, heads: Tensor<4>) -> Tensor<4> {
    let [_, num_heads, _, _] = heads.dims();
    let bias = attention.output_projection(heads.zeros_like());
    let contributions = (0..num_heads)
        .map(|head| {
            let alone = only(heads.clone(), head);
            (attention.output_projection(alone) - bias.clone()).unsqueeze_dim(1)
        })
        .collect();
    Tensor::cat(contributions, 1)
}

/// A self-test of a model's two halves: how far head contributions and bias are from summing to the attention's output, relative
/// to the largest entry of that output, over all layers. Rounding alone leaves about 1e-6 in f32.
///
/// A large value means that [`output_projection`](HeadAttention::output_projection) is not the output projection of separate heads: the
/// most frequent mistake is to take the tensor *after* W_O for head outputs.
pub fn additivity_error<M: DecoderModel>(model: &M, tokens: Tensor<2, Int>) -> f32 {
    let mut residual = model.embed(tokens.clone(), Positions::first(tokens.dims()[1]));
    let positions = Positions::first(tokens.dims()[1]);
    let mut worst = 0f32;
    for layer in 0..model.shape().num_layers {
        let attention = model.attention(layer);
        let qkv = attention.project_qkv(model.attention_input(layer, residual.clone()), positions);
        let heads = attend(attention, qkv.query, qkv.key, qkv.value);
        let output = attention.output_projection(heads.clone());
        let bias = attention.output_projection(heads.zeros_like());
        let [batch, _, seq, hidden] = [output.dims()[0], 0, output.dims()[1], output.dims()[2]];
        let sum = head_contributions(attention, heads)
            .sum_dim(1)
            .reshape([batch, seq, hidden])
            + bias;
        let error: f32 = (sum - output.clone()).abs().max().into_scalar();
        let largest: f32 = output.clone().abs().max().into_scalar();
        worst = worst.max(error / largest.max(f32::MIN_POSITIVE));
        residual = model.block_output(layer, residual, output);
    }
    worst
}

/// Head outputs with every head but one set to zero.
fn only(heads: Tensor<4>, head: usize) -> Tensor<4> {
    let [batch, _, seq, head_dim] = heads.dims();
    let place = [0..batch, head..head + 1, 0..seq, 0..head_dim];
    heads
        .zeros_like()
        .slice_assign(place.clone(), heads.slice(place))
}
