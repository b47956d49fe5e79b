//! The kernel for a few queries over many keys: keys and values are read where they are, which may
//! be in a cache.

use burn::backend::TensorMetadata;
use burn::prelude::*;
use burn::tensor::DType;
use rayon::prelude::*;

use super::AttentionScoreConfig;
use crate::kernels::cast::kernel::convert;
use crate::kernels::dispatch::{self, Kernel};
use crate::kernels::flex::{
    FlexTensor, is_flex_f32, is_flex_f32_or_bf16, tensor, values, with_contiguous_rows,
};
use crate::kernels::loops::{dot, vectorised};
use crate::kernels::softmax::kernel::softmax_row;
use crate::kernels::stored::{Stored, with_stored};

/// Up to so many queries, attention takes little longer than reading the keys and values.
const FEW_QUERIES: usize = 8;

pub(super) fn is_supported(
    query: &Tensor<4>,
    key: &Tensor<4>,
    value: &Tensor<4>,
    bias: Option<&Tensor<4>>,
) -> bool {
    let [batch, heads, queries, head_dim] = query.dims();
    let is_plain = |x: &Tensor<4>| is_flex_f32_or_bf16(x) && !x.is_autodiff();
    let has_bias_for_each_key = |bias: &Tensor<4>| {
        is_flex_f32(bias) && !bias.is_autodiff() && bias.dims()[3] == key.dims()[2]
    };
    queries <= FEW_QUERIES
        && batch * heads * queries * head_dim > 0
        && [query, key, value].into_iter().all(is_plain)
        && bias.is_none_or(has_bias_for_each_key)
}

pub(super) fn run(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    bias: Option<Tensor<4>>,
    config: AttentionScoreConfig,
) -> Tensor<4> {
    let kernel = Scoring {
        scale: config.scale_for(query.dims()[3]) as f32,
        soft_cap: config.soft_cap.map(|cap| cap as f32),
        window: config.window,
    };
    let [query, key, value] = [query, key, value].map(|x| x.into_dispatch());
    match bias {
        Some(bias) => dispatch::run(kernel, [query, key, value, bias.into_dispatch()]),
        None => dispatch::run(kernel, [query, key, value]),
    }
}

/// How queries and keys become weights.
#[derive(Clone, Copy, Debug)]
struct Scoring {
    scale: f32,
    soft_cap: Option<f32>,
    window: Option<usize>,
}

impl Kernel<3> for Scoring {
    fn forward(&self, [query, key, value]: [FlexTensor; 3]) -> FlexTensor {
        attend(query, key, value, None, *self)
    }
}

impl Kernel<4> for Scoring {
    fn forward(&self, [query, key, value, bias]: [FlexTensor; 4]) -> FlexTensor {
        attend(query, key, value, Some(bias.to_contiguous()), *self)
    }
}

fn attend(
    query: FlexTensor,
    key: FlexTensor,
    value: FlexTensor,
    bias: Option<FlexTensor>,
    scoring: Scoring,
) -> FlexTensor {
    let (dtype, shape) = (query.dtype(), query.shape());
    let query = convert(query.to_contiguous(), DType::F32);
    let (key, value) = (with_contiguous_rows(key), with_contiguous_rows(value));
    let output = with_stored!(key, T => {
        let attention = Attention::<T> {
            heads: shape[1],
            queries: shape[2],
            head_dim: shape[3],
            key_value_heads: key.shape()[1],
            keys: key.shape()[2],
            query: values(&query),
            key: Rows::new(&key),
            value: Rows::new(&value),
            bias: bias.as_ref().map(Bias::new),
            scoring,
        };
        attention.output()
    });
    convert(tensor(output, shape), dtype)
}

/// Rows of `head_dim` contiguous numbers, one for each sample, head and position.
struct Rows<'a, T> {
    numbers: &'a [T],
    strides: [usize; 3],
}

impl<'a, T: Stored> Rows<'a, T> {
    fn new(x: &'a FlexTensor) -> Self {
        let (layout, strides) = (x.layout(), x.layout().strides());
        Self {
            numbers: &x.storage()[layout.start_offset()..],
            strides: [0, 1, 2].map(|axis| strides[axis] as usize),
        }
    }

    #[inline(always)]
    fn row(&self, sample: usize, head: usize, position: usize, width: usize) -> &'a [T] {
        let [of_sample, of_head, of_position] = self.strides;
        let start = sample * of_sample + head * of_head + position * of_position;
        &self.numbers[start..][..width]
    }
}

/// A row of numbers for each query; those of one sample, head or query may stand for all.
struct Bias<'a> {
    numbers: &'a [f32],
    shape: [usize; 4],
}

impl<'a> Bias<'a> {
    fn new(bias: &'a FlexTensor) -> Self {
        Self {
            numbers: values(bias),
            shape: bias.shape().dims(),
        }
    }

    #[inline(always)]
    fn row(&self, sample: usize, head: usize, query: usize) -> &'a [f32] {
        let [samples, heads, queries, keys] = self.shape;
        let row = (sample % samples * heads + head % heads) * queries + query % queries;
        &self.numbers[row * keys..][..keys]
    }
}

struct Attention<'a, T> {
    heads: usize,
    queries: usize,
    head_dim: usize,
    key_value_heads: usize,
    keys: usize,
    query: &'a [f32],
    key: Rows<'a, T>,
    value: Rows<'a, T>,
    bias: Option<Bias<'a>>,
    scoring: Scoring,
}

impl<T: Stored> Attention<'_, T> {
    fn output(&self) -> Vec<f32> {
        let mut output = vec![0.0; self.query.len()];
        // The query heads that share a key/value head are adjacent.
        let group_len = self.heads / self.key_value_heads * self.queries * self.head_dim;
        output
            .par_chunks_mut(group_len)
            .zip(self.query.par_chunks(group_len))
            .enumerate()
            .for_each(|(group, (output, query))| {
                vectorised(
                    #[inline(always)]
                    || self.group(group, query, output),
                );
            });
        output
    }

    /// The outputs of the query heads of one sample that share a key/value head.
    #[inline(always)]
    fn group(&self, group: usize, query: &[f32], output: &mut [f32]) {
        let sample = group / self.key_value_heads;
        let key_value_head = group % self.key_value_heads;
        let first_head = key_value_head * (self.heads / self.key_value_heads);
        let mut scores = vec![0.0; self.keys];
        let rows = output
            .chunks_exact_mut(self.head_dim)
            .zip(query.chunks_exact(self.head_dim));
        for (row, (output, query)) in rows.enumerate() {
            let (head, index) = (first_head + row / self.queries, row % self.queries);
            let end = self.keys - self.queries + index + 1;
            let window = self.scoring.window.unwrap_or(usize::MAX);
            let start = end.saturating_sub(window);
            let weights = &mut scores[start..end];
            for (position, weight) in (start..end).zip(weights.iter_mut()) {
                let key = self
                    .key
                    .row(sample, key_value_head, position, self.head_dim);
                *weight = dot(query, key) * self.scoring.scale;
            }
            let bias = self.bias.as_ref();
            let bias = bias.map(|bias| &bias.row(sample, head, index)[start..end]);
            self.weigh(weights, bias);
            for (position, &weight) in (start..end).zip(weights.iter()) {
                let value = self
                    .value
                    .row(sample, key_value_head, position, self.head_dim);
                output
                    .iter_mut()
                    .zip(value)
                    .for_each(|(output, value)| *output = weight.mul_add(value.widen(), *output));
            }
        }
    }

    /// Turns scaled scores into weights.
    #[inline(always)]
    fn weigh(&self, scores: &mut [f32], bias: Option<&[f32]>) {
        if let Some(cap) = self.scoring.soft_cap {
            scores
                .iter_mut()
                .for_each(|score| *score = (*score / cap).tanh() * cap);
        }
        if let Some(bias) = bias {
            scores
                .iter_mut()
                .zip(bias)
                .for_each(|(score, bias)| *score += bias);
        }
        softmax_row(scores);
    }
}
