//! The product of several rows with a weight: matrix multiplication in pieces, one on each core.

use std::mem::MaybeUninit;
use std::ops::Range;

use burn::tensor::bf16;
use rayon::prelude::*;

use super::few_rows;
use crate::kernels::buffer::SharedRows;
use crate::kernels::matrix::Matrix;
use crate::kernels::stored::Stored;

/// From so many rows on, a product is cut in pieces of rows; of fewer, in pieces of columns.
const MANY_ROWS: usize = 256;
/// Columns of a piece, at least: the product of a narrower one might be summed in another order.
const LEAST_COLUMNS: usize = 256;
/// Columns of a piece, about: a slower core takes fewer pieces of a wide weight.
const COLUMNS: usize = 4096;
/// Pieces start at multiples of this: all columns of a vector are of one piece.
const VECTOR: usize = 16;
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
        unsafe {
            multiply_panel(
                x,
                panel,
                &SharedRows::new(slots, width),
                columns,
                bias.is_some(),
            )
        };
    });
    assert_eq!(multiplied, width, "panels of all columns");
    // SAFETY: the panels were all columns, and `multiply_panel` has written its columns of all
    // rows.
    unsafe { output.set_len(rows * width) };
    output
}

/// A type whose weights are multiplied in f32, some columns at a time.
pub(super) trait InPanels: Stored {
    /// Up to so many rows are multiplied by reading the weight once instead.
    const FEW_ROWS: usize;

    /// Calls `f` with the first columns in f32, then with the next, until it has been called with
    /// all.
    fn for_each_panel(weight: Matrix<Self>, f: impl FnMut(Range<usize>, Matrix<f32>));
}

impl InPanels for f32 {
    /// Several rows are summed in the same order however many they are: parts of a sweep give what the whole gives, bit for bit.
    const FEW_ROWS: usize = 1;

    fn for_each_panel(weight: Matrix<f32>, mut f: impl FnMut(Range<usize>, Matrix<f32>)) {
        f(0..weight.outputs, weight);
    }
}

impl InPanels for bf16 {
    const FEW_ROWS: usize = few_rows::FEW_ROWS;

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

/// Multiplies `x` with a panel, some columns of a weight, into the same columns of `output`. These columns of all rows are initialised
/// afterwards.
///
/// # Safety
/// Nobody else may have these columns; if it is to `accumulate`, to add to what is there, they must be initialised.
unsafe fn multiply_panel(
    x: &[f32],
    panel: Matrix<f32>,
    output: &SharedRows<'_, MaybeUninit<f32>>,
    columns: Range<usize>,
    accumulate: bool,
) {
    let inputs = panel.inputs;
    let last = (inputs - 1) * panel.strides[0] + (panel.outputs - 1) * panel.strides[1];
    assert!(last < panel.numbers.len(), "a panel within its buffer");
    assert_eq!(panel.outputs, columns.len(), "columns of the panel");
    let multiply = |rows: Range<usize>, piece: Range<usize>| {
        let x = &x[rows.start * inputs..rows.end * inputs];
        let [down, across] = panel.strides;
        let weight = panel.numbers[piece.start * across..].as_ptr();
        let place = columns.start + piece.start..columns.start + piece.end;
        // SAFETY: `x` has `rows` rows of `inputs` numbers; the last number of the panel is within its buffer, as was checked; pieces do not
        // overlap, nobody else has the columns, and what is accumulated is initialised.
        unsafe {
            gemm::gemm(
                rows.len(),
                piece.len(),
                inputs,
                output.block(rows, place).cast::<f32>(),
                1,
                output.width() as isize,
                accumulate,
                x.as_ptr(),
                1,
                inputs as isize,
                weight,
                across as isize,
                down as isize,
                1.0,
                1.0,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
    };
    let (rows, threads) = (x.len() / inputs, rayon::current_num_threads());
    if rows < MANY_ROWS {
        pieces_of_columns(panel.outputs, threads).for_each(|piece| multiply(0..rows, piece));
    } else {
        // In tiles of 16 rows and not too small: for each piece the weight is packed anew.
        let height = rows.div_ceil(threads).next_multiple_of(16);
        let height = height.max(MANY_ROWS / 2);
        (0..rows.div_ceil(height))
            .into_par_iter()
            .map(|piece| piece * height..rows.min((piece + 1) * height))
            .for_each(|rows| multiply(rows, 0..panel.outputs));
    }
}

/// Pieces of so many columns for some threads.
fn pieces_of_columns(
    columns: usize,
    threads: usize,
) -> impl IndexedParallelIterator<Item = Range<usize>> {
    let most = (columns / LEAST_COLUMNS).max(1);
    let count = threads.max(columns / COLUMNS).min(most);
    let start = move |piece: usize| match piece {
        piece if piece == count => columns,
        piece => piece * columns / count / VECTOR * VECTOR,
    };
    (0..count)
        .into_par_iter()
        .map(move |piece| start(piece)..start(piece + 1))
}
