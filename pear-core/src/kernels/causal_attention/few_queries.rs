//! The kernel for a few queries over many keys: keys and values are read where they are, which may
//! be in a cache.

use burn::backend::TensorMetadata;
use burn::tensor::DType;
use rayon::prelude::*;

use super::kernel::{Attention, Rows};
use crate::kernels::cast::kernel::convert;
use crate::kernels::flex::{FlexTensor, tensor, values};
use crate::kernels::loops::{dot, vectorised};
use crate::kernels::stored::{Stored, with_stored};

/// Up to so many queries, attention takes little longer than reading the keys and values.
pub(super) const FEW_QUERIES: usize = 8;

/// Of contiguous queries, and keys and values with contiguous rows.
pub(super) fn attend(
    attention: &Attention<'_>,
    query: FlexTensor,
    key: &FlexTensor,
    value: &FlexTensor,
) -> FlexTensor {
    let (dtype, shape) = (query.dtype(), query.shape());
    let query = convert(query, DType::F32);
    let output = with_stored!(key, T => {
        output::<T>(attention, values(&query), &Rows::new(key), &Rows::new(value))
    });
    convert(tensor(output, shape), dtype)
}

fn output<T: Stored>(
    attention: &Attention<'_>,
    query: &[f32],
    key: &Rows<'_, T>,
    value: &Rows<'_, T>,
) -> Vec<f32> {
    let mut output = vec![0.0; query.len()];
    let of_group = attention.group() * attention.queries * attention.head_dim;
    output
        .par_chunks_mut(of_group)
        .zip(query.par_chunks(of_group))
        .enumerate()
        .for_each(|(shared, (output, query))| {
            let (key, value) = (key.of_head(shared), value.of_head(shared));
            vectorised(
                #[inline(always)]
                || group(attention, shared, query, key, value, output),
            );
        });
    output
}

/// The outputs of the query heads that share a key/value head.
#[inline(always)]
fn group<T: Stored>(
    attention: &Attention<'_>,
    shared: usize,
    query: &[f32],
    (key, key_stride): (&[T], usize),
    (value, value_stride): (&[T], usize),
    output: &mut [f32],
) {
    let head_dim = attention.head_dim;
    let first_head = shared * attention.group();
    let mut scores = vec![0.0; attention.keys];
    let rows = output
        .chunks_exact_mut(head_dim)
        .zip(query.chunks_exact(head_dim));
    for (row, (output, query)) in rows.enumerate() {
        let (head, index) = (
            first_head + row / attention.queries,
            row % attention.queries,
        );
        let visible = attention.visible(index);
        let weights = &mut scores[visible.clone()];
        for (position, weight) in visible.clone().zip(weights.iter_mut()) {
            let key = &key[position * key_stride..][..head_dim];
            *weight = dot(query, key) * attention.scale();
        }
        attention.weigh(head, index, weights);
        for (position, &weight) in visible.zip(weights.iter()) {
            let value = &value[position * value_stride..][..head_dim];
            output
                .iter_mut()
                .zip(value)
                .for_each(|(output, value)| *output = weight.mul_add(value.widen(), *output));
        }
    }
}
