//! The kernel for a few queries over many keys: keys and values are read where they are, which may
//! be in a cache.

use burn::backend::TensorMetadata;
use burn::tensor::DType;
use rayon::prelude::*;

use super::kernel::{Bias, Rows, Scoring};
use crate::kernels::cast::kernel::convert;
use crate::kernels::flex::{FlexTensor, tensor, values, with_contiguous_rows};
use crate::kernels::loops::{dot, vectorised};
use crate::kernels::stored::{Stored, with_stored};

/// Up to so many queries, attention takes little longer than reading the keys and values.
pub(super) const FEW_QUERIES: usize = 8;

/// Of contiguous queries.
pub(super) fn attend(
    query: FlexTensor,
    key: FlexTensor,
    value: FlexTensor,
    bias: Option<Bias>,
    scoring: Scoring,
) -> FlexTensor {
    let (dtype, shape) = (query.dtype(), query.shape());
    let query = convert(query, DType::F32);
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
            bias,
            scoring,
        };
        attention.output()
    });
    convert(tensor(output, shape), dtype)
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
            let visible = self.scoring.visible(index, self.queries, self.keys);
            let weights = &mut scores[visible.clone()];
            for (position, weight) in visible.clone().zip(weights.iter_mut()) {
                let key = self
                    .key
                    .row(sample, key_value_head, position, self.head_dim);
                *weight = dot(query, key) * self.scoring.scale;
            }
            let bias = self.bias.as_ref();
            let bias = bias.map(|bias| &bias.row(sample, head, index)[visible.clone()]);
            self.scoring.weigh(weights, bias);
            for (position, &weight) in visible.zip(weights.iter()) {
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
}
