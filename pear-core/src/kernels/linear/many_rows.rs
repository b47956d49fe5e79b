//! The product of many rows with a weight: matrix multiplication in pieces of rows.

use std::mem::MaybeUninit;
use std::ops::Range;

use burn::tensor::bf16;
use rayon::prelude::*;

use crate::kernels::matrix::Matrix;
use crate::kernels::stored::Stored;

/// From so many rows on, multiplying in pieces of rows is faster than the backend's own product.
pub(super) const MANY_ROWS: usize = 256;
/// Numbers of a half-precision weight that are widened at a time: 64 MB.
const PANEL: usize = 1 << 24;

/// `x · weight + bias` for `x` of whole rows of `weight.inputs` numbers.
pub(super) fn multiply<T: InPanels>(
    x: &[f32],
    weight: Matrix<T>,
    bias: Option<&[f32]>,
) -> Vec<f32> {
    let (rows, width) = (x.len() / weight.inputs, weight.outputs);
    let mut output = Vec::with_capacity(rows * width);
    let slots = &mut output.spare_capacity_mut()[..rows * width];
    if let Some(bias) = bias {
        assert_eq!(bias.len(), width, "a bias for each output");
        for row in slots.chunks_exact_mut(width) {
            row.write_copy_of_slice(bias);
        }
    }
    let mut multiplied = 0;
    T::for_each_panel(weight, |columns, panel| {
        assert_eq!(columns.start, multiplied, "panels follow each other");
        multiplied = columns.end;
        // SAFETY: if there is a bias, it has been written to every row.
        unsafe { multiply_panel(x, panel, slots, columns, width, bias.is_some()) };
    });
    assert_eq!(multiplied, width, "panels of all columns");
    // SAFETY: the panels were all columns, and `multiply_panel` has written its columns of all
    // rows.
    unsafe { output.set_len(rows * width) };
    output
}

/// A type whose weights are multiplied in f32, some columns at a time.
pub(super) trait InPanels: Stored {
    /// Calls `f` with the first columns in f32, then with the next, until it has been called with
    /// all.
    fn for_each_panel(weight: Matrix<Self>, f: impl FnMut(Range<usize>, Matrix<f32>));
}

impl InPanels for f32 {
    fn for_each_panel(weight: Matrix<f32>, mut f: impl FnMut(Range<usize>, Matrix<f32>)) {
        f(0..weight.outputs, weight);
    }
}

impl InPanels for bf16 {
    fn for_each_panel(weight: Matrix<bf16>, mut f: impl FnMut(Range<usize>, Matrix<f32>)) {
        let width = (PANEL / weight.inputs).clamp(1, weight.outputs);
        for start in (0..weight.outputs).step_by(width) {
            let columns = start..weight.outputs.min(start + width);
            let (numbers, strides) = widened(weight, columns.clone());
            let panel = Matrix {
                numbers: &numbers,
                inputs: weight.inputs,
                outputs: columns.len(),
                strides,
            };
            f(columns, panel);
        }
    }
}

/// Some columns of a weight in f32, and their strides: the dimension that is contiguous remains so.
fn widened(weight: Matrix<bf16>, columns: Range<usize>) -> (Vec<f32>, [usize; 2]) {
    let [down, across] = weight.strides;
    let (height, width) = (weight.inputs, columns.len());
    let mut output = vec![0.0; height * width];
    if down == 1 {
        output
            .par_chunks_mut(height)
            .zip(columns)
            .for_each(|(output, column)| widen(output, &weight.numbers[column * across..]));
        return (output, [1, height]);
    }
    output
        .par_chunks_mut(width)
        .enumerate()
        .for_each(|(row, output)| {
            let numbers = &weight.numbers[row * down + columns.start * across..];
            if across == 1 {
                widen(output, numbers);
            } else {
                widen(output, numbers.iter().step_by(across));
            }
        });
    (output, [width, 1])
}

fn widen<'a>(output: &mut [f32], numbers: impl IntoIterator<Item = &'a bf16>) {
    output
        .iter_mut()
        .zip(numbers)
        .for_each(|(output, number)| *output = number.widen());
}

/// Multiplies `x` with a panel, some columns of a weight, into the same columns of `output`, whose
/// rows are `stride` long. These columns of all rows are initialised afterwards.
///
/// # Safety
/// If it is to `accumulate`, to add to what is there, these columns of all rows must be
/// initialised.
unsafe fn multiply_panel(
    x: &[f32],
    panel: Matrix<f32>,
    output: &mut [MaybeUninit<f32>],
    columns: Range<usize>,
    stride: usize,
    accumulate: bool,
) {
    let (rows, inputs) = (x.len() / panel.inputs, panel.inputs);
    let last = (inputs - 1) * panel.strides[0] + (panel.outputs - 1) * panel.strides[1];
    assert!(last < panel.numbers.len(), "a panel within its buffer");
    assert_eq!(panel.outputs, columns.len(), "columns of the panel");
    assert!(columns.end <= stride, "columns within a row");
    assert_eq!(x.len(), rows * inputs, "whole rows of inputs");
    assert_eq!(output.len(), rows * stride, "as many rows of outputs");
    // Too few rows to cut are multiplied by all cores together. Of more rows each core takes whole
    // pieces, in tiles of 16 rows and not too small: for each piece the weight is packed anew.
    let (piece, parallelism) = if rows < MANY_ROWS {
        (rows, gemm::Parallelism::Rayon(0))
    } else {
        let share = rows.div_ceil(rayon::current_num_threads());
        let piece = share.next_multiple_of(16).max(MANY_ROWS / 2);
        (piece, gemm::Parallelism::None)
    };
    x.par_chunks(piece * inputs)
        .zip(output.par_chunks_mut(piece * stride))
        .for_each(|(x, output)| {
            let rows = x.len() / inputs;
            let output = output[columns.start..].as_mut_ptr().cast::<f32>();
            // SAFETY: `x` has `rows` rows of `inputs` numbers; the last number of the panel is
            // within its buffer, as was checked; `output` has `rows` rows of `stride` numbers, of
            // which no other thread has any, and the columns end within a row; they are read only
            // to accumulate, and are initialised then.
            unsafe {
                gemm::gemm(
                    rows,
                    columns.len(),
                    inputs,
                    output,
                    1,
                    stride as isize,
                    accumulate,
                    x.as_ptr(),
                    1,
                    inputs as isize,
                    panel.numbers.as_ptr(),
                    panel.strides[1] as isize,
                    panel.strides[0] as isize,
                    1.0,
                    1.0,
                    false,
                    false,
                    false,
                    parallelism,
                );
            }
        });
}
