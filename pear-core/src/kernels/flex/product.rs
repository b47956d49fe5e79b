//! Products with weights: of many rows by matrix multiplication in pieces, of few by reading the weight once.

use std::ops::Range;

use burn::backend::TensorMetadata;
use burn::prelude::*;
use burn::tensor::DType;
use rayon::prelude::*;

use super::stored::{Stored, cast, with_stored};
use super::{FlexTensor, Pullback, tensor, values, vectorised};

/// From so many rows on, multiplying in pieces of rows is faster than the backend's own product.
pub(in crate::kernels) const MANY_ROWS: usize = 256;
/// Up to so many rows a product takes little longer than reading the weight.
pub(in crate::kernels) const FEW_ROWS: usize = 8;
/// Numbers of a half-precision weight that are widened at a time: 64 MB.
const PANEL: usize = 1 << 24;
/// Outputs whose sums stay near a core.
const SEGMENT: usize = 1 << 14;
/// Up to so many outputs a weight is read as one stream: several that end so soon are not fetched ahead.
const NARROW: usize = 1 << 11;
/// Bytes of a weight that are worth a thread's while.
const PART: usize = 1 << 16;

/// `[in, out]`, in memory anyhow.
#[derive(Clone, Debug)]
pub(super) struct Weight(pub(super) FlexTensor);

impl Weight {
    /// In the dtype of `x`, which is the weight's and the bias's: f32 or bf16, summed in f32.
    pub(super) fn multiply(&self, x: FlexTensor, bias: Option<FlexTensor>) -> FlexTensor {
        let mut shape = x.shape().to_vec();
        shape.pop();
        shape.push(self.0.shape()[1]);
        let dtype = x.dtype();
        let single = |x: FlexTensor| cast(x.to_contiguous(), DType::F32);
        let (x, bias) = (single(x), bias.map(single));
        let bias = bias.as_ref().map(values);
        let output = with_stored!(self.0, T => self.view::<T>().multiply(values(&x), bias));
        cast(tensor(output, Shape::from(shape)), dtype)
    }

    fn view<T: Stored>(&self) -> View<'_, T> {
        let layout = self.0.layout();
        let (from, to) = (self.0.shape()[0], self.0.shape()[1]);
        let strides = layout.strides();
        let numbers = &self.0.storage::<T>()[layout.start_offset()..];
        let reach = (from - 1) as isize * strides[0] + (to - 1) as isize * strides[1];
        assert!(
            strides[0] >= 0 && strides[1] >= 0 && (reach as usize) < numbers.len(),
            "a weight within its buffer"
        );
        View {
            numbers,
            from,
            to,
            strides: [strides[0] as usize, strides[1] as usize],
        }
    }

    fn transposed(&self) -> Self {
        Self(self.0.transpose(0, 1))
    }
}

impl Pullback<1> for Weight {
    fn pull(self, grad: FlexTensor) -> [FlexTensor; 1] {
        [self.transposed().multiply(grad, None)]
    }
}

/// The numbers of a weight: that of input `i` and output `j` stands at `i · strides[0] + j · strides[1]`.
#[derive(Clone, Copy)]
struct View<'a, T> {
    numbers: &'a [T],
    from: usize,
    to: usize,
    strides: [usize; 2],
}

impl<T: Stored> View<'_, T> {
    fn multiply(self, x: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
        let rows = x.len() / self.from;
        if rows <= FEW_ROWS && self.strides.contains(&1) {
            return self.multiply_few(x, bias);
        }
        let mut output = Vec::with_capacity(rows * self.to);
        let spare = &mut output.spare_capacity_mut()[..rows * self.to];
        if let Some(bias) = bias {
            for row in spare.chunks_exact_mut(self.to) {
                row.iter_mut().zip(bias).for_each(|(out, &bias)| {
                    out.write(bias);
                });
            }
        }
        let start = SendPointer(spare.as_mut_ptr().cast::<f32>());
        let panel = if T::dtype() == DType::F32 {
            self.to
        } else {
            (PANEL / self.from).clamp(1, self.to)
        };
        for first in (0..self.to).step_by(panel) {
            let columns = first..self.to.min(first + panel);
            // SAFETY: as [`multiply_panel`](View::multiply_panel) asks: the output has `rows` rows of `to` numbers, begun with the bias if there is
            // one, and nobody else holds it.
            unsafe {
                match T::dtype() {
                    DType::F32 => {
                        self.as_f32()
                            .multiply_panel(x, columns, start, self.to, bias.is_some())
                    }
                    _ => {
                        let (widened, strides) = self.widen(columns.clone());
                        let view = View {
                            numbers: &widened,
                            from: self.from,
                            to: columns.len(),
                            strides,
                        };
                        view.multiply_panel(
                            x,
                            0..columns.len(),
                            SendPointer(start.0.add(first)),
                            self.to,
                            bias.is_some(),
                        );
                    }
                }
            }
        }
        // SAFETY: the panels cover all columns, and each product writes every number of its own.
        unsafe { output.set_len(rows * self.to) };
        output
    }

    fn as_f32(&self) -> View<'_, f32> {
        View {
            numbers: bytemuck::cast_slice(self.numbers),
            from: self.from,
            to: self.to,
            strides: self.strides,
        }
    }

    /// Some columns in f32, whichever of their dimensions was contiguous still so.
    fn widen(&self, columns: Range<usize>) -> (Vec<f32>, [usize; 2]) {
        let [down, across] = self.strides;
        let width = columns.len();
        let mut values = vec![0.0; self.from * width];
        if down == 1 {
            values
                .par_chunks_mut(self.from)
                .zip(columns)
                .for_each(|(values, column)| {
                    let numbers = &self.numbers[column * across..][..self.from];
                    values
                        .iter_mut()
                        .zip(numbers)
                        .for_each(|(value, number)| *value = number.widen());
                });
            return (values, [1, self.from]);
        }
        values
            .par_chunks_mut(width)
            .enumerate()
            .for_each(|(row, values)| {
                let numbers = self.numbers[row * down + columns.start * across..]
                    .iter()
                    .step_by(across);
                values
                    .iter_mut()
                    .zip(numbers)
                    .for_each(|(value, number)| *value = number.widen());
            });
        (values, [width, 1])
    }

    /// One pass over the weight, in parts that do not depend on how many threads there are.
    fn multiply_few(self, x: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
        let rows = x.len() / self.from;
        let mut output = match bias {
            Some(bias) => bias.repeat(rows),
            None => vec![0.0; rows * self.to],
        };
        let parts = self.parts();
        let sums: Vec<Vec<f32>> = parts
            .par_iter()
            .map(|(inputs, columns)| {
                let mut sums = vec![0.0; rows * columns.len()];
                vectorised(
                    #[inline(always)]
                    || match self.strides[1] {
                        1 if rows == 1 && self.to <= NARROW => {
                            self.add_rows::<1>(x, inputs, columns, &mut sums)
                        }
                        1 => self.add_rows::<8>(x, inputs, columns, &mut sums),
                        _ => self.add_dots(x, columns, &mut sums),
                    },
                );
                sums
            })
            .collect();
        for ((_, columns), sums) in parts.iter().zip(sums) {
            for (output, sums) in output
                .chunks_exact_mut(self.to)
                .zip(sums.chunks_exact(columns.len()))
            {
                output[columns.clone()]
                    .iter_mut()
                    .zip(sums)
                    .for_each(|(output, sum)| *output += sum);
            }
        }
        output
    }

    /// Inputs and outputs that are multiplied apart. In memory each is one piece where it can be: what is read in order is fetched ahead.
    fn parts(&self) -> Vec<(Range<usize>, Range<usize>)> {
        let pieces = |len: usize, piece: usize| {
            (0..len)
                .step_by(piece)
                .map(move |start| start..len.min(start + piece))
        };
        if self.strides[1] != 1 {
            return pieces(self.to, 128)
                .map(|columns| (0..self.from, columns))
                .collect();
        }
        let segments = self.to.div_ceil(SEGMENT);
        let width = self.to.div_ceil(segments).next_multiple_of(64);
        // Each part of the inputs has sums of its own: few enough that adding them up is little beside reading the weight.
        let column = size_of::<T>() * self.from;
        let wanted = (32 / segments)
            .min(column / 448)
            .min(column * self.to / PART)
            .max(1);
        let height = self.from.div_ceil(wanted).next_multiple_of(8);
        pieces(self.to, width)
            .flat_map(|columns| {
                pieces(self.from, height).map(move |inputs| (inputs, columns.clone()))
            })
            .collect()
    }

    /// Outputs are contiguous: rows of the weight are added up, some at once.
    #[inline(always)]
    fn add_rows<const AT_ONCE: usize>(
        self,
        x: &[f32],
        inputs: &Range<usize>,
        columns: &Range<usize>,
        sums: &mut [f32],
    ) {
        let width = columns.len();
        let row = |input: usize| &self.numbers[input * self.strides[0] + columns.start..][..width];
        let whole = inputs.end - inputs.len() % AT_ONCE;
        for input in (inputs.start..whole).step_by(AT_ONCE) {
            let weights: [&[T]; AT_ONCE] = std::array::from_fn(|i| row(input + i));
            for (sums, x) in sums.chunks_exact_mut(width).zip(x.chunks_exact(self.from)) {
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
            for (sums, x) in sums.chunks_exact_mut(width).zip(x.chunks_exact(self.from)) {
                let x = x[input];
                sums.iter_mut()
                    .zip(row(input))
                    .for_each(|(sum, weight)| *sum = x.mul_add(weight.widen(), *sum));
            }
        }
    }

    /// Inputs are contiguous: an output is a dot product.
    #[inline(always)]
    fn add_dots(self, x: &[f32], columns: &Range<usize>, sums: &mut [f32]) {
        let width = columns.len();
        for (index, column) in columns.clone().enumerate() {
            let weights = &self.numbers[column * self.strides[1]..][..self.from];
            for (sums, x) in sums.chunks_exact_mut(width).zip(x.chunks_exact(self.from)) {
                sums[index] = dot(x, weights);
            }
        }
    }
}

impl View<'_, f32> {
    /// The product with some columns, into those columns of an output whose rows are `stride` long; `begun`: added to what is there.
    ///
    /// # Safety
    /// `output` points to as many rows as `x` has, with the first of `columns` at its place, all initialised if `begun`, and nobody else
    /// reads or writes them.
    unsafe fn multiply_panel(
        self,
        x: &[f32],
        columns: Range<usize>,
        output: SendPointer,
        stride: usize,
        begun: bool,
    ) {
        let rows = x.len() / self.from;
        // One each: a weight is packed anew for every piece. In whole tiles of 16 rows. Too few for that are multiplied by all cores together.
        let (piece, parallelism) = match rows < MANY_ROWS {
            true => (rows, gemm::Parallelism::Rayon(0)),
            false => (
                rows.div_ceil(rayon::current_num_threads())
                    .next_multiple_of(16)
                    .max(MANY_ROWS / 2),
                gemm::Parallelism::None,
            ),
        };
        let weight = &self.numbers[columns.start * self.strides[1]..];
        x.par_chunks(piece * self.from)
            .enumerate()
            .for_each(|(index, x)| {
                // SAFETY: `x` holds whole rows of `from` numbers, the reach of the weight was checked, each piece writes rows of its own, and
                // they are read only where they were begun.
                unsafe {
                    gemm::gemm(
                        x.len() / self.from,
                        columns.len(),
                        self.from,
                        output.get().add(index * piece * stride),
                        1,
                        stride as isize,
                        begun,
                        x.as_ptr(),
                        1,
                        self.from as isize,
                        weight.as_ptr(),
                        self.strides[1] as isize,
                        self.strides[0] as isize,
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
}

/// Where an output begins, for threads that write rows of their own.
#[derive(Clone, Copy)]
struct SendPointer(*mut f32);

impl SendPointer {
    fn get(self) -> *mut f32 {
        self.0
    }
}

// SAFETY: every thread writes rows of its own.
unsafe impl Send for SendPointer {}
// SAFETY: as above.
unsafe impl Sync for SendPointer {}

#[inline(always)]
pub(super) fn dot<T: Stored>(a: &[f32], b: &[T]) -> f32 {
    let mut lanes = [0f32; 32];
    let (a_blocks, b_blocks) = (a.chunks_exact(32), b.chunks_exact(32));
    let rest: f32 = a_blocks
        .remainder()
        .iter()
        .zip(b_blocks.remainder())
        .map(|(a, b)| a * b.widen())
        .sum();
    for (a, b) in a_blocks.zip(b_blocks) {
        lanes
            .iter_mut()
            .zip(a.iter().zip(b))
            .for_each(|(lane, (a, b))| *lane = a.mul_add(b.widen(), *lane));
    }
    lanes.iter().sum::<f32>() + rest
}
