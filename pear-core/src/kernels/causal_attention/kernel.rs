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
use crate::kernels::flex::{FlexTensor, is_flex_f32, is_flex_f32_or_bf16, values};
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
pub(super) struct Scoring {
    pub scale: f32,
    pub soft_cap: Option<f32>,
    pub window: Option<usize>,
}

impl Scoring {
    /// The positions that a query sees: the `queries` are the last of the positions that have `keys`.
    #[inline(always)]
    pub fn visible(&self, query: usize, queries: usize, keys: usize) -> Range<usize> {
        let end = keys - queries + query + 1;
        end.saturating_sub(self.window.unwrap_or(usize::MAX))..end
    }

    /// Turns scaled scores into weights.
    #[inline(always)]
    pub fn weigh(&self, scores: &mut [f32], bias: Option<&[f32]>) {
        if let Some(cap) = self.soft_cap {
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
    let bias = bias.as_ref().map(Bias::new);
    let query = query.to_contiguous();
    if query.shape()[2] <= FEW_QUERIES {
        return few_queries::attend(query, key, value, bias, scoring);
    }
    match Instructions::best() {
        Some(instructions) if query.dtype() == DType::BF16 => {
            many_queries::attend(instructions, query, key, value, bias, scoring)
        }
        _ => in_single::attend(query, key, value, bias, scoring),
    }
}

/// Rows of `head_dim` contiguous numbers, one for each sample, head and position.
pub(super) struct Rows<'a, T> {
    numbers: &'a [T],
    strides: [usize; 3],
}

impl<'a, T: Stored> Rows<'a, T> {
    /// Of a tensor that `with_contiguous_rows` returned.
    pub fn new(x: &'a FlexTensor) -> Self {
        let (layout, strides) = (x.layout(), x.layout().strides());
        Self {
            numbers: &x.storage()[layout.start_offset()..],
            strides: [0, 1, 2].map(|axis| strides[axis] as usize),
        }
    }

    #[inline(always)]
    pub fn row(&self, sample: usize, head: usize, position: usize, width: usize) -> &'a [T] {
        let (numbers, stride) = self.of_head(sample, head);
        &numbers[position * stride..][..width]
    }

    /// The rows of a head, and how far they are from each other.
    #[inline(always)]
    pub fn of_head(&self, sample: usize, head: usize) -> (&'a [T], usize) {
        let [of_sample, of_head, of_position] = self.strides;
        (
            &self.numbers[sample * of_sample + head * of_head..],
            of_position,
        )
    }
}

/// A row of numbers for each query; those of one sample, head or query may stand for all.
pub(super) struct Bias<'a> {
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
    pub fn row(&self, sample: usize, head: usize, query: usize) -> &'a [f32] {
        let [samples, heads, queries, keys] = self.shape;
        let row = (sample % samples * heads + head % heads) * queries + query % queries;
        &self.numbers[row * keys..][..keys]
    }
}
