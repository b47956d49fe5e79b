//! Attention with linear biases (Press et al., [arXiv 2108.12409](https://arxiv.org/abs/2108.12409)).

use std::ops::Range;

use burn::prelude::*;
use burn::tensor::bf16;

use super::range_tensor;

/// The slope of each head, all positive.
///
/// For a power of two `n`, head `i` has `2^(-max_bias (i + 1) / n)`. Other numbers of heads take, as the authors' code and every
/// released checkpoint do, the slopes of the next smaller power of two, and then every second one of the next larger.
///
/// ```
/// use pear_core::position::alibi_slopes;
/// assert_eq!(alibi_slopes(3, 8.0), [0.0625, 0.00390625, 0.25]);
/// ```
pub fn alibi_slopes(num_heads: usize, max_bias: f64) -> Vec<f32> {
    let geometric =
        |n: usize| (1..=n).map(move |i| (-max_bias * i as f64 / n as f64).exp2() as f32);
    let larger = num_heads.next_power_of_two();
    if larger == num_heads {
        return geometric(num_heads).collect();
    }
    geometric(larger / 2)
        .chain(geometric(larger).step_by(2))
        .take(num_heads)
        .collect()
}

/// `slope · (key − query)`, at most 0 wherever causal attention looks: `[1, heads, queries, keys]`, f32.
///
/// BLOOM adds `slope · key` instead; the two differ by a constant in each row, which softmax does not see.
pub(super) fn bias(
    slopes: &[f32],
    queries: Range<usize>,
    keys: Range<usize>,
    device: &Device,
) -> Tensor<4> {
    let slopes = Tensor::<1>::from_floats(slopes, device);
    let (num_queries, num_keys) = (queries.len(), keys.len());
    let distance = range_tensor(keys, device).reshape([1, 1, 1, num_keys])
        - range_tensor(queries, device).reshape([1, 1, num_queries, 1]);
    distance * slopes.clone().reshape([1, slopes.dims()[0], 1, 1])
}

/// `slope · key · scale` for every query, slope, key and product rounded to bf16: `[1, heads, 1, keys]`, f32.
pub(super) fn rounded_bias(
    slopes: &[f32],
    scale: f64,
    keys: Range<usize>,
    device: &Device,
) -> Tensor<4> {
    let rounded = |x: f32| bf16::from_f32(x).to_f32();
    let bias = |slope: f32, key: usize| rounded(rounded(slope) * rounded(key as f32));
    let values: Vec<f32> = slopes
        .iter()
        .flat_map(|&slope| keys.clone().map(move |key| bias(slope, key)))
        .collect();
    Tensor::<4>::from_data(
        TensorData::new(values, [1, slopes.len(), 1, keys.len()]),
        device,
    ) * scale
}
