//! Attention of a few queries over a cache, read where it stands.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::prelude::*;
use burn::tensor::DType;
use rayon::prelude::*;

use super::product::dot;
use super::stored::{Stored, cast, with_stored};
use super::{FlexTensor, max, sum, tensor, values, vectorised};
use crate::kernels::math::exp;

/// How scores become weights.
#[derive(Clone, Copy, Debug)]
pub(in crate::kernels) struct Scoring {
    pub scale: f32,
    pub soft_cap: Option<f32>,
    pub window: Option<usize>,
}

/// Entry points; never under autodiff.
#[backend_extension(Flex)]
trait CachedAttention: Backend {
    fn attend_cached(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        scoring: Scoring,
    ) -> FloatTensor<Self>;
    fn attend_cached_biased(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        scoring: Scoring,
    ) -> FloatTensor<Self>;
}

pub(in crate::kernels) fn attend_cached(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    bias: Option<Tensor<4>>,
    scoring: Scoring,
) -> Tensor<4> {
    let (query, key, value) = (
        query.into_dispatch(),
        key.into_dispatch(),
        value.into_dispatch(),
    );
    Tensor::from_dispatch(match bias {
        Some(bias) => {
            Dispatch::attend_cached_biased(query, key, value, bias.into_dispatch(), scoring)
        }
        None => Dispatch::attend_cached(query, key, value, scoring),
    })
}

impl CachedAttention for Flex {
    fn attend_cached(
        query: FlexTensor,
        key: FlexTensor,
        value: FlexTensor,
        scoring: Scoring,
    ) -> FlexTensor {
        attend(query, key, value, None, scoring)
    }

    fn attend_cached_biased(
        query: FlexTensor,
        key: FlexTensor,
        value: FlexTensor,
        bias: FlexTensor,
        scoring: Scoring,
    ) -> FlexTensor {
        attend(query, key, value, Some(bias), scoring)
    }
}

fn attend(
    query: FlexTensor,
    key: FlexTensor,
    value: FlexTensor,
    bias: Option<FlexTensor>,
    scoring: Scoring,
) -> FlexTensor {
    let shape = query.shape();
    let rows_in_one_piece = |x: FlexTensor| {
        if x.layout().strides()[3] == 1 {
            x
        } else {
            x.to_contiguous()
        }
    };
    let (query, key, value) = (
        query.to_contiguous(),
        rows_in_one_piece(key),
        rows_in_one_piece(value),
    );
    let (dtype, query) = (query.dtype(), cast(query, DType::F32));
    let output = with_stored!(key, T => Attention::<T>::new(values(&query), &shape, &key, &value, scoring).run(bias));
    cast(tensor(output, shape), dtype)
}

/// Rows of `head_dim` numbers, those of a head `step` apart.
struct Rows<'a, T> {
    numbers: &'a [T],
    strides: [usize; 3],
}

impl<'a, T: Stored> Rows<'a, T> {
    fn new(x: &'a FlexTensor) -> Self {
        let (layout, shape) = (x.layout(), x.shape());
        let strides = layout.strides();
        assert!(
            strides.iter().all(|&stride| stride >= 0),
            "a layout without turned dimensions"
        );
        let numbers = &x.storage::<T>()[layout.start_offset()..];
        let reach: usize = (0..4).map(|i| (shape[i] - 1) * strides[i] as usize).sum();
        assert!(reach < numbers.len(), "keys and values within their buffer");
        Self {
            numbers,
            strides: [
                strides[0] as usize,
                strides[1] as usize,
                strides[2] as usize,
            ],
        }
    }

    #[inline(always)]
    fn row(&self, sample: usize, head: usize, position: usize, width: usize) -> &'a [T] {
        let [a, b, c] = self.strides;
        &self.numbers[sample * a + head * b + position * c..][..width]
    }
}

struct Attention<'a, T> {
    query: &'a [f32],
    heads: usize,
    queries: usize,
    head_dim: usize,
    key: Rows<'a, T>,
    value: Rows<'a, T>,
    key_value_heads: usize,
    keys: usize,
    scoring: Scoring,
}

impl<'a, T: Stored> Attention<'a, T> {
    fn new(
        query: &'a [f32],
        shape: &Shape,
        key: &'a FlexTensor,
        value: &'a FlexTensor,
        scoring: Scoring,
    ) -> Self {
        let (key_value_heads, keys) = (key.shape()[1], key.shape()[2]);
        Self {
            query,
            heads: shape[1],
            queries: shape[2],
            head_dim: shape[3],
            key: Rows::new(key),
            value: Rows::new(value),
            key_value_heads,
            keys,
            scoring,
        }
    }

    fn run(&self, bias: Option<FlexTensor>) -> Vec<f32> {
        let group = self.heads / self.key_value_heads;
        // A bias for one sample, head or query is that of all.
        let bias = bias.map(|bias| (bias.shape(), bias.to_contiguous()));
        let biases = bias.as_ref().map(|(shape, bias)| (shape, values(bias)));
        let mut output = vec![0.0; self.query.len()];
        // The query heads of a key/value head stand together.
        let parts = output.par_chunks_mut(group * self.queries * self.head_dim);
        parts
            .zip(self.query.par_chunks(group * self.queries * self.head_dim))
            .enumerate()
            .for_each(|(part, (output, query))| {
                let (sample, shared) = (part / self.key_value_heads, part % self.key_value_heads);
                vectorised(
                    #[inline(always)]
                    || {
                        let mut scores = vec![0.0; self.keys];
                        let rows = output
                            .chunks_exact_mut(self.head_dim)
                            .zip(query.chunks_exact(self.head_dim));
                        for (row, (output, query)) in rows.enumerate() {
                            let (head, index) =
                                (shared * group + row / self.queries, row % self.queries);
                            let bias = biases.map(|(shape, bias)| {
                                let (sample, index) = (sample % shape[0], index % shape[2]);
                                let head = head % shape[1];
                                &bias[((sample * shape[1] + head) * shape[2] + index) * self.keys..]
                                    [..self.keys]
                            });
                            self.one(query, (sample, shared, index), bias, &mut scores, output);
                        }
                    },
                );
            });
        output
    }

    #[inline(always)]
    fn one(
        &self,
        query: &[f32],
        (sample, shared, index): (usize, usize, usize),
        bias: Option<&[f32]>,
        scores: &mut [f32],
        output: &mut [f32],
    ) {
        let end = self.keys - self.queries + index + 1;
        let start = self
            .scoring
            .window
            .map_or(0, |window| end.saturating_sub(window));
        for (position, score) in (start..end).zip(&mut scores[start..end]) {
            *score = dot(query, self.key.row(sample, shared, position, self.head_dim))
                * self.scoring.scale;
        }
        let seen = &mut scores[start..end];
        if let Some(cap) = self.scoring.soft_cap {
            seen.iter_mut()
                .for_each(|score| *score = (*score / cap).tanh() * cap);
        }
        if let Some(bias) = bias {
            seen.iter_mut()
                .zip(&bias[start..end])
                .for_each(|(score, bias)| *score += bias);
        }
        let highest = max(seen);
        seen.iter_mut()
            .for_each(|score| *score = exp(*score - highest));
        let scale = sum(
            seen,
            #[inline(always)]
            |x| x,
        )
        .recip();
        for (position, &weight) in (start..end).zip(seen.iter()) {
            let (weight, value) = (
                weight * scale,
                self.value.row(sample, shared, position, self.head_dim),
            );
            output
                .iter_mut()
                .zip(value)
                .for_each(|(output, value)| *output = weight.mul_add(value.widen(), *output));
        }
    }
}
