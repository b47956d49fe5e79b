//! The half of attention that every model shares: head outputs from queries, keys and values.

use std::ops::Range;

use burn::prelude::*;
use burn::tensor::DType;

use crate::kernels::{attend_few, cast, causal_softmax, product_dtype};
use crate::model::HeadAttention;
use crate::score_config::AttentionScoreConfig;

/// Scores that may stand in memory at once; larger attention is computed a tile of queries at a time.
const SCORES_IN_MEMORY: usize = 1 << 25;
/// Queries in a tile: a causal tile skips the keys after it, so that smaller tiles also do less work.
const QUERY_TILE: usize = 256;

/// Causal softmax attention, the first half of a layer: head outputs `[batch, heads, queries, head_dim]`.
///
/// `query` is `[batch, heads, queries, head_dim]`; `key` and `value` are `[batch, key_value_heads, keys, head_dim]`. The queries are the last
/// ones of the `keys` positions, so that a cache may stand before them. Keys and values are shared between the query heads of a
/// group without being copied, on every backend and under autodiff alike; softmax is taken in f32.
///
/// Long sequences are computed a tile of queries at a time, so that no `[heads, queries, keys]` stands in memory. burn's `attention` is not
/// used: fused, it multiplies in f16 whatever the type and knows no grouped queries, ALiBi, windows or caps; elsewhere it holds all scores.
pub fn attend<A: HeadAttention>(
    attention: &A,
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
) -> Tensor<4> {
    attend_padded(attention, query, key, value, &[])
}

/// As [`attend`], in a batch of sequences of different lengths: nobody looks at the first `padding[row]` positions of a row.
pub fn attend_padded<A: HeadAttention>(
    attention: &A,
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    padding: &[usize],
) -> Tensor<4> {
    let [batch, heads, queries, head_dim] = query.dims();
    let keys = key.dims()[2];
    let options = attention.score_config();
    let fits = (SCORES_IN_MEMORY / (batch * heads * keys).max(1)).max(1);
    // An autodiff graph keeps every tile, so that tiling would save work but no memory; it does the former all the same.
    let tile = QUERY_TILE.min(fits);
    if queries <= tile {
        return attend_span(attention, options, query, key, value, 0..keys, padding);
    }
    let tiles = (0..queries)
        .step_by(tile)
        .map(|start| {
            let len = tile.min(queries - start);
            let end = keys - queries + start + len;
            let first = options
                .window
                .map_or(0, |window| (end - len + 1).saturating_sub(window));
            let seen = |x: &Tensor<4>| x.clone().narrow(2, first, end - first);
            let query = query
                .clone()
                .slice([0..batch, 0..heads, start..start + len, 0..head_dim]);
            attend_span(
                attention,
                options,
                query,
                seen(&key),
                seen(&value),
                first..end,
                padding,
            )
        })
        .collect();
    Tensor::cat(tiles, 2)
}

/// `span`: the positions of the keys; the queries are its last ones.
fn attend_span<A: HeadAttention>(
    attention: &A,
    options: AttentionScoreConfig,
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    span: Range<usize>,
    padding: &[usize],
) -> Tensor<4> {
    let [batch, heads, queries, head_dim] = query.dims();
    let [_, key_value_heads, keys, _] = key.dims();
    let group = heads / key_value_heads;
    let first_query = span.end - queries;
    let bias = attention.score_bias(first_query..span.end, span.clone());
    let bias = match padding.iter().any(|&empty| empty > span.start) {
        true => {
            let mask = hide_padding(padding, span, &query.device());
            Some(bias.map_or(mask.clone(), |bias| bias + mask))
        }
        false => bias,
    };
    if let Some(heads) = attend_few(&query, &key, &value, bias.as_ref(), options) {
        return heads;
    }
    let (dtype, multiplied) = (query.dtype(), product_dtype(&query));
    let [query, key, value] = [query, key, value].map(|x| cast(x, multiplied));
    let scale = options
        .scale
        .unwrap_or_else(|| (head_dim as f64).sqrt().recip());

    // The query heads of a group are rows against one key head: one batched product, nothing repeated.
    let rows = query.reshape([batch, key_value_heads, group * queries, head_dim]);
    let scores = rows
        .matmul(key.swap_dims(2, 3))
        .reshape([batch, heads, queries, keys]);
    let mut scores = scores.cast(DType::F32) * scale;
    if let Some(cap) = options.soft_cap {
        scores = (scores / cap).tanh() * cap;
    }
    if let Some(bias) = bias {
        scores = scores + bias;
    }
    let weights = causal_softmax(scores, keys - queries, options.window)
        .cast(multiplied)
        .reshape([batch, key_value_heads, group * queries, keys]);
    cast(
        weights
            .matmul(value)
            .reshape([batch, heads, queries, head_dim]),
        dtype,
    )
}

/// What hides empty columns from every query, `[batch, 1, 1, keys]`. Finite: an empty column looks at others, or else it would be no number.
fn hide_padding(padding: &[usize], keys: Range<usize>, device: &Device) -> Tensor<4> {
    let hidden = |&empty: &usize| {
        keys.clone()
            .map(move |key| if key < empty { -1e30 } else { 0.0 })
    };
    let mask: Vec<f32> = padding.iter().flat_map(hidden).collect();
    Tensor::from_data(
        TensorData::new(mask, [padding.len(), 1, 1, keys.len()]),
        device,
    )
}
