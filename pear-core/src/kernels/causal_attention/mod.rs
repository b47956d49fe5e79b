//! Head outputs of queries over the keys and values that they see.

#[cfg(feature = "cpu")]
mod few_queries;
#[cfg(feature = "cpu")]
mod in_single;
#[cfg(feature = "cpu")]
mod kernel;
#[cfg(feature = "cpu")]
mod many_queries;
#[cfg(all(test, feature = "cpu"))]
mod tests;

use burn::prelude::*;
use burn::tensor::DType;

use super::cast::{cast, product_dtype};
use super::check;
use super::softmax::causal_softmax;
use crate::score_config::AttentionScoreConfig;

/// Causal softmax attention, computed at once: `query` is `[batch, heads, queries, head_dim]`,
/// `key` and `value` are `[batch, key_value_heads, keys, head_dim]` of the same type, `bias` is f32
/// and broadcasts to `[batch, heads, queries, keys]`. The queries are the last of the positions
/// that have keys, and see those up to their own.
///
/// # Panics
/// As [`check_arguments`], and if the bias does not fit.
pub(crate) fn causal_attention(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    bias: Option<Tensor<4>>,
    config: AttentionScoreConfig,
) -> Tensor<4> {
    check_arguments(&query, &key, &value, config);
    if let Some(bias) = &bias {
        check_bias(bias, &query, &key);
    }
    #[cfg(feature = "cpu")]
    if kernel::is_supported(&query, &key, &value, bias.as_ref()) {
        return kernel::run(query, key, value, bias, config);
    }
    causal_attention_composed(query, key, value, bias, config)
}

/// Whether [`causal_attention`] of these arguments, without a bias, holds the scores of no more than some
/// queries of each core: then there is no need to cut the queries.
#[cfg(feature = "cpu")]
pub(crate) fn holds_few_scores(query: &Tensor<4>, key: &Tensor<4>, value: &Tensor<4>) -> bool {
    kernel::is_supported(query, key, value, None)
}

/// Composed operations hold those of all queries.
#[cfg(not(feature = "cpu"))]
pub(crate) fn holds_few_scores(_: &Tensor<4>, _: &Tensor<4>, _: &Tensor<4>) -> bool {
    false
}

/// # Panics
/// If the shapes do not match, the key/value heads do not divide the heads, there are more queries
/// than keys, the window is 0, or the types differ.
pub(crate) fn check_arguments(
    query: &Tensor<4>,
    key: &Tensor<4>,
    value: &Tensor<4>,
    config: AttentionScoreConfig,
) {
    const NAME: &str = "attend";
    let (query_dims, key_dims) = (query.dims(), key.dims());
    let [batch, heads, queries, head_dim] = query_dims;
    let [_, key_value_heads, keys, _] = key_dims;
    let expected = [batch, key_value_heads, keys, head_dim];
    check::shape(NAME, ("key", &key_dims), &expected, ("query", &query_dims));
    check::shape(
        NAME,
        ("value", &value.dims()),
        &key_dims,
        ("key", &key_dims),
    );
    assert!(
        key_value_heads > 0 && heads.is_multiple_of(key_value_heads),
        "{NAME}: the heads of `key`, of shape {key_dims:?}, do not divide those of `query`, of shape {query_dims:?}"
    );
    assert!(
        queries <= keys,
        "{NAME}: `query` of shape {query_dims:?} has more positions than `key` of shape {key_dims:?}"
    );
    assert!(
        config.window != Some(0),
        "{NAME}: a window must be at least 1"
    );
    check::same_dtype(
        NAME,
        &[
            ("query", query.dtype()),
            ("key", key.dtype()),
            ("value", value.dtype()),
        ],
    );
}

fn check_bias(bias: &Tensor<4>, query: &Tensor<4>, key: &Tensor<4>) {
    let [batch, heads, queries, _] = query.dims();
    let scores = [batch, heads, queries, key.dims()[2]];
    let broadcasts =
        std::iter::zip(bias.dims(), scores).all(|(bias, len)| bias == len || bias == 1);
    assert!(
        broadcasts,
        "attend: a score bias of shape {:?} does not broadcast to scores of shape {scores:?}",
        bias.dims()
    );
    assert!(
        bias.dtype() == DType::F32,
        "attend: a score bias must be F32, but is {:?}",
        bias.dtype()
    );
}

fn causal_attention_composed(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    bias: Option<Tensor<4>>,
    config: AttentionScoreConfig,
) -> Tensor<4> {
    let [batch, heads, queries, head_dim] = query.dims();
    let [_, key_value_heads, keys, _] = key.dims();
    let group = heads / key_value_heads;
    let (dtype, multiplied) = (query.dtype(), product_dtype(&query));
    let [query, key, value] = [query, key, value].map(|x| cast(x, multiplied));

    // The query heads of a group are rows against one key head: one batched product, nothing
    // repeated.
    let rows = query.reshape([batch, key_value_heads, group * queries, head_dim]);
    let scores = rows
        .matmul(key.swap_dims(2, 3))
        .reshape([batch, heads, queries, keys]);
    let mut scores = scores.cast(DType::F32) * config.scale_for(head_dim);
    if let Some(cap) = config.soft_cap {
        scores = (scores / cap).tanh() * cap;
    }
    if let Some(bias) = bias {
        scores = scores + bias;
    }
    let weights = causal_softmax(scores, config.window)
        .cast(multiplied)
        .reshape([batch, key_value_heads, group * queries, keys]);
    let output = weights
        .matmul(value)
        .reshape([batch, heads, queries, head_dim]);
    cast(output, dtype)
}
