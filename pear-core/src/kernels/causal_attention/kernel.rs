//! Attention without a gradient as one kernel, which holds the scores of some queries at a time: for a few of them, for many, and for many in bf16
//! where the processor multiplies it.

use std::ops::Range;

use burn::backend::TensorMetadata;
use burn::prelude::*;
use burn::tensor::DType;

use super::AttentionScoreConfig;
use super::few_queries::{self, FEW_QUERIES};
use super::{in_single, many_queries};
use crate::kernels::dispatch::{self, Kernel};
use crate::kernels::flex::{
    FlexTensor, is_flex_f32, is_flex_f32_or_bf16, values, with_contiguous_rows,
};
use crate::kernels::softmax::kernel::softmax_row;
use crate::kernels::stored::Stored;
use crate::kernels::tiles::Instructions;

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
    batch * heads * queries * head_dim > 0
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
    let attention = Attention {
        heads: shape[1],
        queries: shape[2],
        head_dim: shape[3],
        key_value_heads: key.shape()[1],
        keys: key.shape()[2],
        scoring,
        bias: bias.as_ref().map(Bias::new),
    };
    let query = query.to_contiguous();
    let [key, value] = [key, value].map(with_contiguous_rows);
    if attention.queries <= FEW_QUERIES {
        return few_queries::attend(&attention, query, &key, &value);
    }
    match Instructions::best() {
        Some(instructions) if dtype == DType::BF16 => {
            many_queries::attend(&attention, instructions, &query, &key, &value)
        }
        _ => in_single::attend(&attention, query, key, value),
    }
}

/// What is computed of queries, keys and values. Heads are counted through all samples.
pub(super) struct Attention<'a> {
    pub heads: usize,
    pub queries: usize,
    pub head_dim: usize,
    pub key_value_heads: usize,
    pub keys: usize,
    scoring: Scoring,
    bias: Option<Bias<'a>>,
}

impl Attention<'_> {
    /// Query heads, adjacent to each other, that share a key/value head.
    #[inline(always)]
    pub fn group(&self) -> usize {
        self.heads / self.key_value_heads
    }

    /// What products of queries and keys are multiplied by.
    #[inline(always)]
    pub fn scale(&self) -> f32 {
        self.scoring.scale
    }

    /// The positions that a query sees: the queries are the last of the positions that have keys.
    #[inline(always)]
    pub fn visible(&self, query: usize) -> Range<usize> {
        let end = self.keys - self.queries + query + 1;
        end.saturating_sub(self.scoring.window.unwrap_or(usize::MAX))..end
    }

    /// Turns the scaled scores of what a query of a head sees into weights.
    #[inline(always)]
    pub fn weigh(&self, head: usize, query: usize, scores: &mut [f32]) {
        if let Some(cap) = self.scoring.soft_cap {
            scores
                .iter_mut()
                .for_each(|score| *score = (*score / cap).tanh() * cap);
        }
        if let Some(bias) = &self.bias {
            let row = bias.row(head / self.heads, head % self.heads, query);
            scores
                .iter_mut()
                .zip(&row[self.visible(query)])
                .for_each(|(score, bias)| *score += bias);
        }
        softmax_row(scores);
    }
}

/// Rows of `head_dim` contiguous numbers, one for each head and position.
pub(super) struct Rows<'a, T> {
    numbers: &'a [T],
    heads: usize,
    strides: [usize; 3],
}

impl<'a, T: Stored> Rows<'a, T> {
    /// Of a tensor that `with_contiguous_rows` returned.
    pub fn new(x: &'a FlexTensor) -> Self {
        let (layout, strides) = (x.layout(), x.layout().strides());
        Self {
            numbers: &x.storage()[layout.start_offset()..],
            heads: x.shape()[1],
            strides: [0, 1, 2].map(|axis| strides[axis] as usize),
        }
    }

    /// The rows of a head, counted through all samples, and how far they are from each other.
    #[inline(always)]
    pub fn of_head(&self, head: usize) -> (&'a [T], usize) {
        let [of_sample, of_head, of_position] = self.strides;
        let start = head / self.heads * of_sample + head % self.heads * of_head;
        (&self.numbers[start..], of_position)
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
