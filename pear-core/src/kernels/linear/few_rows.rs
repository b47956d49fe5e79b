//! The product of a few rows with a weight: one pass over the weight.

use std::ops::Range;

use rayon::prelude::*;

use crate::kernels::loops::{dot, vectorised};
use crate::kernels::matrix::Matrix;
use crate::kernels::stored::Stored;

/// Up to so many rows a product takes little longer than reading the weight.
pub(super) const FEW_ROWS: usize = 8;
/// Outputs whose sums stay near a core.
const SEGMENT: usize = 1 << 14;
/// Up to so many outputs the rows of a weight are read as one stream: several that end so soon are
/// not prefetched.
const NARROW: usize = 1 << 11;
/// Columns that one core multiplies at a time, where the inputs are contiguous.
const COLUMNS: usize = 128;
/// At most so many parts of the inputs.
const MAX_PARTS: usize = 32;
/// The least bytes of a column that are worth a part: adding up the parts' sums is little beside
/// reading them.
const MIN_COLUMN_BYTES: usize = 448;
/// The least bytes of a weight that are worth a part.
const MIN_PART_BYTES: usize = 1 << 16;

/// `x · weight + bias` for `x` of whole rows of `weight.inputs` numbers, where one of the weight's
/// dimensions is contiguous. The parts, and so the order of summation, do not depend on the number
/// of threads.
pub(super) fn multiply<T: Stored>(x: &[f32], weight: Matrix<T>, bias: Option<&[f32]>) -> Vec<f32> {
    let rows = x.len() / weight.inputs;
    let mut output = match bias {
        Some(bias) => bias.repeat(rows),
        None => vec![0.0; rows * weight.outputs],
    };
    let parts = parts(&weight);
    let sums: Vec<Vec<f32>> = parts
        .par_iter()
        .map(|part| {
            vectorised(
                #[inline(always)]
                || multiply_part(x, weight, part),
            )
        })
        .collect();
    for (part, sums) in parts.iter().zip(sums) {
        let sums = sums.chunks_exact(part.columns.len());
        for (output, sums) in output.chunks_exact_mut(weight.outputs).zip(sums) {
            output[part.columns.clone()]
                .iter_mut()
                .zip(sums)
                .for_each(|(output, sum)| *output += sum);
        }
    }
    output
}

/// Inputs and columns (outputs) that are multiplied together.
struct Part {
    inputs: Range<usize>,
    columns: Range<usize>,
}

/// Cuts a weight in parts, each contiguous in memory where it can be: what is read in order is
/// prefetched.
fn parts<T>(weight: &Matrix<T>) -> Vec<Part> {
    if weight.strides[1] != 1 {
        return pieces(weight.outputs, COLUMNS)
            .map(|columns| Part {
                inputs: 0..weight.inputs,
                columns,
            })
            .collect();
    }
    let segments = weight.outputs.div_ceil(SEGMENT);
    let width = weight.outputs.div_ceil(segments).next_multiple_of(64);
    let column_bytes = size_of::<T>() * weight.inputs;
    let parts = (MAX_PARTS / segments)
        .min(column_bytes / MIN_COLUMN_BYTES)
        .min(column_bytes * weight.outputs / MIN_PART_BYTES)
        .max(1);
    let height = weight.inputs.div_ceil(parts).next_multiple_of(8);
    pieces(weight.outputs, width)
        .flat_map(|columns| {
            pieces(weight.inputs, height).map(move |inputs| Part {
                inputs,
                columns: columns.clone(),
            })
        })
        .collect()
}

/// Ranges of `size`, the last of what is left, that cover `0..len`.
fn pieces(len: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    (0..len)
        .step_by(size)
        .map(move |start| start..len.min(start + size))
}

/// The sums of a part for all rows, `[rows, part.columns.len()]`.
#[inline(always)]
fn multiply_part<T: Stored>(x: &[f32], weight: Matrix<T>, part: &Part) -> Vec<f32> {
    let rows = x.len() / weight.inputs;
    let mut sums = vec![0.0; rows * part.columns.len()];
    if weight.strides[1] != 1 {
        add_dots(x, weight, part, &mut sums);
    } else if rows == 1 && weight.outputs <= NARROW {
        add_rows::<1, T>(x, weight, part, &mut sums);
    } else {
        add_rows::<8, T>(x, weight, part, &mut sums);
    }
    sums
}

/// Outputs are contiguous: rows of the weight are added up, some at once.
#[inline(always)]
fn add_rows<const AT_ONCE: usize, T: Stored>(
    x: &[f32],
    weight: Matrix<T>,
    Part { inputs, columns }: &Part,
    sums: &mut [f32],
) {
    let width = columns.len();
    let row = |input: usize| &weight.numbers[input * weight.strides[0] + columns.start..][..width];
    let whole = inputs.end - inputs.len() % AT_ONCE;
    for input in (inputs.start..whole).step_by(AT_ONCE) {
        let weights: [&[T]; AT_ONCE] = std::array::from_fn(|i| row(input + i));
        let rows = sums
            .chunks_exact_mut(width)
            .zip(x.chunks_exact(weight.inputs));
        for (sums, x) in rows {
            let x: [f32; AT_ONCE] = std::array::from_fn(|i| x[input + i]);
            for (column, stored) in sums.iter_mut().enumerate() {
                let mut sum = *stored;
                for i in 0..AT_ONCE {
                    sum = x[i].mul_add(weights[i][column].widen(), sum);
                }
                *stored = sum;
            }
        }
    }
    for input in whole..inputs.end {
        let rows = sums
            .chunks_exact_mut(width)
            .zip(x.chunks_exact(weight.inputs));
        for (sums, x) in rows {
            let x = x[input];
            sums.iter_mut()
                .zip(row(input))
                .for_each(|(sum, weight)| *sum = x.mul_add(weight.widen(), *sum));
        }
    }
}

/// Inputs are contiguous: an output is a dot product.
#[inline(always)]
fn add_dots<T: Stored>(
    x: &[f32],
    weight: Matrix<T>,
    Part { columns, .. }: &Part,
    sums: &mut [f32],
) {
    let width = columns.len();
    for (index, column) in columns.clone().enumerate() {
        let weights = &weight.numbers[column * weight.strides[1]..][..weight.inputs];
        let rows = sums
            .chunks_exact_mut(width)
            .zip(x.chunks_exact(weight.inputs));
        for (sums, x) in rows {
            sums[index] = dot(x, weights);
        }
    }
}
