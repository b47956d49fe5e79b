//! The half of attention that every model shares: head outputs from queries, keys and values.

use std::ops::Range;

use burn::prelude::*;

use crate::kernels::{causal_attention, check_attention, holds_few_scores};
use crate::model::HeadAttention;
use crate::score_config::AttentionScoreConfig;

/// Scores that may be in memory at once; larger attention is computed a tile of queries at a time.
const SCORES_IN_MEMORY: usize = 1 << 25;
/// Queries in a tile: a causal tile skips the keys after it, so that smaller tiles also do less
/// work.
const QUERY_TILE: usize = 256;

/// Causal softmax attention, the first half of a layer: head outputs `[batch, heads, queries,
/// head_dim]`.
///
/// `query` is `[batch, heads, queries, head_dim]`; `key` and `value` are `[batch, key_value_heads,
/// keys, head_dim]`, all of the same type. The queries are the last ones of the `keys` positions,
/// so that a cache may precede them. Keys and values are shared between the query heads of a group
/// without being copied, on every backend and under autodiff alike; softmax is taken in f32.
///
/// Long sequences are computed a tile of queries at a time, so that `[heads, queries, keys]` is
/// never in memory at once. burn's `attention` is not used: fused, it multiplies in f16 whatever
/// the type and supports no grouped queries, ALiBi, windows or caps; elsewhere it holds all scores.
///
/// # Panics
/// If the shapes do not match, the key/value heads do not divide the query heads, there are more
/// queries than keys, or the types differ; if the attention's window is 0, or its score bias is not
/// f32 or does not broadcast to `[batch, heads, queries, keys]`.
pub fn attend<A: HeadAttention>(
    attention: &A,
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
) -> Tensor<4> {
    attend_padded(attention, query, key, value, &[])
}

/// As [`attend`], in a batch of sequences of different lengths: the first `padding[row]` positions
/// of a row are masked (left padding).
///
/// # Panics
/// As [`attend`], and if there is padding for another number of rows than the batch has.
pub fn attend_padded<A: HeadAttention>(
    attention: &A,
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    padding: &[usize],
) -> Tensor<4> {
    let config = attention.score_config();
    check_attention(&query, &key, &value, config);
    let [batch, heads, queries, head_dim] = query.dims();
    assert!(
        padding.is_empty() || padding.len() == batch,
        "attend: `padding` of {} rows for `query` of shape {:?}",
        padding.len(),
        query.dims()
    );
    let keys = key.dims()[2];
    let fits = (SCORES_IN_MEMORY / (batch * heads * keys).max(1)).max(1);
    // An autodiff graph keeps every tile: tiling saves no memory then, but still work.
    let tile = QUERY_TILE.min(fits);
    let is_one_kernel =
        || holds_few_scores(&query, &key, &value) && attention.score_bias(0..1, 0..1).is_none();
    if queries <= tile || is_one_kernel() {
        return attend_span(attention, config, query, key, value, 0..keys, padding);
    }
    let tiles = (0..queries)
        .step_by(tile)
        .map(|start| {
            let len = tile.min(queries - start);
            let end = keys - queries + start + len;
            let first = config
                .window
                .map_or(0, |window| (end - len + 1).saturating_sub(window));
            let in_span = |x: &Tensor<4>| x.clone().narrow(2, first, end - first);
            let query = query
                .clone()
                .slice([0..batch, 0..heads, start..start + len, 0..head_dim]);
            let (key, value) = (in_span(&key), in_span(&value));
            attend_span(attention, config, query, key, value, first..end, padding)
        })
        .collect();
    Tensor::cat(tiles, 2)
}

/// `span`: the positions of the keys; the queries are its last ones.
fn attend_span<A: HeadAttention>(
    attention: &A,
    config: AttentionScoreConfig,
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    span: Range<usize>,
    padding: &[usize],
) -> Tensor<4> {
    let first_query = span.end - query.dims()[2];
    let mut bias = attention.score_bias(first_query..span.end, span.clone());
    if padding.iter().any(|&padded| padded > span.start) {
        let mask = padding_mask(padding, span, &query.device());
        bias = Some(match bias {
            Some(bias) => bias + mask,
            None => mask,
        });
    }
    causal_attention(query, key, value, bias, config)
}

/// A score bias that masks padding for every query, `[batch, 1, 1, keys]`. It is finite: of a
/// padded query all keys are masked, and with −∞ its softmax would be NaN.
fn padding_mask(padding: &[usize], keys: Range<usize>, device: &Device) -> Tensor<4> {
    let mask_row = |&padded: &usize| {
        keys.clone()
            .map(move |key| if key < padded { -1e30 } else { 0.0 })
    };
    let mask: Vec<f32> = padding.iter().flat_map(mask_row).collect();
    Tensor::from_data(
        TensorData::new(mask, [padding.len(), 1, 1, keys.len()]),
        device,
    )
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::*;
    use crate::AttentionConfig;

    fn attend_ones(query: [usize; 4], key: [usize; 4], value: [usize; 4], padding: &[usize]) {
        let device = Device::flex();
        let attention = AttentionConfig::new(48, 6).init(&device).unwrap();
        let [query, key, value] = [query, key, value].map(|shape| Tensor::ones(shape, &device));
        attend_padded(&attention, query, key, value, padding);
    }

    #[test]
    #[should_panic = "attend: `key` must have shape [2, 2, 5, 8] where `query` has shape [2, 6, 3, 8]"]
    fn keys_of_another_width_are_rejected() {
        attend_ones([2, 6, 3, 8], [2, 2, 5, 4], [2, 2, 5, 4], &[]);
    }

    #[test]
    #[should_panic = "attend: `value` must have shape [2, 2, 300, 8]"]
    fn too_few_values_are_rejected() {
        attend_ones([2, 6, 300, 8], [2, 2, 300, 8], [2, 2, 299, 8], &[]);
    }

    #[test]
    #[should_panic = "attend: `query` of shape [2, 6, 300, 8] has more positions than `key`"]
    fn more_queries_than_keys_are_rejected() {
        attend_ones([2, 6, 300, 8], [2, 2, 299, 8], [2, 2, 299, 8], &[]);
    }

    #[test]
    #[should_panic = "attend: the heads of `key`, of shape [2, 4, 5, 8], do not divide those of `query`"]
    fn heads_that_do_not_divide_are_rejected() {
        attend_ones([2, 6, 3, 8], [2, 4, 5, 8], [2, 4, 5, 8], &[]);
    }

    #[test]
    #[should_panic = "attend: `padding` of 1 rows for `query` of shape [2, 6, 3, 8]"]
    fn padding_of_another_number_of_rows_is_rejected() {
        attend_ones([2, 6, 3, 8], [2, 2, 5, 8], [2, 2, 5, 8], &[1]);
    }
}
