//! Products with weights: of many rows by matrix multiplication in pieces, of few by reading the weight once.

use std::ops::Range;

use burn::backend::TensorMetadata;
use burn::prelude::*;
use burn::tensor::{DType, Element, bf16};
use rayon::prelude::*;

use super::{FlexTensor, Pullback, tensor, values, vectorised};

/// From so many rows on, multiplying in pieces of rows is faster than the backend's own product.
pub(in crate::kernels) const MANY_ROWS: usize = 256;
/// Up to so many rows a product takes little longer than reading the weight.
pub(in crate::kernels) const FEW_ROWS: usize = 8;
/// Numbers of a half-precision weight that are widened at a time: 16 MB.
const PANEL: usize = 1 << 22;

/// A number that a weight is stored in.
pub(super) trait Stored: Element + bytemuck::Pod + Sync {
    fn widen(self) -> f32;
}

impl Stored for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}

impl Stored for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        // `bf16::to_f32` looks for NaN, which a shift keeps anyhow.
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

/// `[in, out]`, in memory anyhow.
#[derive(Clone, Debug)]
pub(super) struct Weight(pub(super) FlexTensor);

impl Weight {
    /// In the dtype of `x`, which is the weight's and the bias's: f32 or bf16, summed in f32.
    pub(super) fn multiply(&self, x: FlexTensor, bias: Option<FlexTensor>) -> FlexTensor {
        let mut shape = x.shape().to_vec();
        shape.pop();
        shape.push(self.0.shape()[1]);
        let (x, bias) = (x.to_contiguous(), bias.map(|bias| bias.to_contiguous()));
        match self.0.dtype() {
            DType::BF16 => {
                let (x, bias) = (widened(&x), bias.as_ref().map(widened));
                let output = self.view::<bf16>().multiply(&x, bias.as_deref());
                let narrowed: Vec<bf16> = output.into_iter().map(bf16::from_f32).collect();
                FlexTensor::from_data(TensorData::new(narrowed, shape))
            }
            _ => tensor(self.view::<f32>().multiply(values(&x), bias.as_ref().map(values)), Shape::from(shape)),
        }
    }

    fn view<T: Stored>(&self) -> View<'_, T> {
        let layout = self.0.layout();
        let (from, to) = (self.0.shape()[0], self.0.shape()[1]);
        let strides = layout.strides();
        let numbers = &self.0.storage::<T>()[layout.start_offset()..];
        let reach = (from - 1) as isize * strides[0] + (to - 1) as isize * strides[1];
        assert!(strides[0] >= 0 && strides[1] >= 0 && (reach as usize) < numbers.len(), "a weight within its buffer");
        View { numbers, from, to, strides: [strides[0] as usize, strides[1] as usize] }
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

fn widened(x: &FlexTensor) -> Vec<f32> {
    x.as_slice::<bf16>().expect("a contiguous tensor of bf16").iter().map(|x| x.widen()).collect()
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
        let panel = if T::dtype() == DType::F32 { self.to } else { (PANEL / self.from).clamp(1, self.to) };
        for first in (0..self.to).step_by(panel) {
            let columns = first..self.to.min(first + panel);
            // SAFETY: as [`multiply_panel`](View::multiply_panel) asks: the output has `rows` rows of `to` numbers, begun with the bias if there is
            // one, and nobody else holds it.
            unsafe {
                match T::dtype() {
                    DType::F32 => self.as_f32().multiply_panel(x, columns, start, self.to, bias.is_some()),
                    _ => {
                        let (widened, strides) = self.widen(columns.clone());
                        let view = View { numbers: &widened, from: self.from, to: columns.len(), strides };
                        view.multiply_panel(x, 0..columns.len(), SendPointer(start.0.add(first)), self.to, bias.is_some());
                    }
                }
            }
        }
        // SAFETY: the panels cover all columns, and each product writes every number of its own.
        unsafe { output.set_len(rows * self.to) };
        output
    }

    fn as_f32(&self) -> View<'_, f32> {
        View { numbers: bytemuck::cast_slice(self.numbers), from: self.from, to: self.to, strides: self.strides }
    }

    /// Some columns in f32, whichever of their dimensions was contiguous still so.
    fn widen(&self, columns: Range<usize>) -> (Vec<f32>, [usize; 2]) {
        let [down, across] = self.strides;
        let width = columns.len();
        let mut values = vec![0.0; self.from * width];
        if down == 1 {
            values.par_chunks_mut(self.from).zip(columns).for_each(|(values, column)| {
                let numbers = &self.numbers[column * across..][..self.from];
                values.iter_mut().zip(numbers).for_each(|(value, number)| *value = number.widen());
            });
            return (values, [1, self.from]);
        }
        values.par_chunks_mut(width).enumerate().for_each(|(row, values)| {
            let numbers = self.numbers[row * down + columns.start * across..].iter().step_by(across);
            values.iter_mut().zip(numbers).for_each(|(value, number)| *value = number.widen());
        });
        (values, [width, 1])
    }

    /// One pass over the weight, in parts that do not depend on how many threads there are.
    fn multiply_few(self, x: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
        let rows = x.len() / self.from;
        let width = if self.strides[1] == 1 { self.to.div_ceil(4).next_multiple_of(64).clamp(128, 1024) } else { 128 };
        let parts: Vec<Vec<f32>> = (0..self.to.div_ceil(width))
            .into_par_iter()
            .map(|part| {
                let columns = part * width..self.to.min((part + 1) * width);
                let mut output = vec![0.0; rows * columns.len()];
                if let Some(bias) = bias {
                    output.chunks_exact_mut(columns.len()).for_each(|row| row.copy_from_slice(&bias[columns.clone()]));
                }
                vectorised(
                    #[inline(always)]
                    || match self.strides[1] {
                        1 => self.add_rows(x, columns, &mut output),
                        _ => self.add_dots(x, columns, &mut output),
                    },
                );
                output
            })
            .collect();
        if rows == 1 {
            return parts.concat();
        }
        let row = |row: usize| parts.iter().flat_map(move |part| part.chunks_exact(part.len() / rows).nth(row).unwrap_or(&[]));
        (0..rows).flat_map(row).copied().collect()
    }

    /// Outputs are contiguous: rows of the weight are added up, eight at a time.
    #[inline(always)]
    fn add_rows(self, x: &[f32], columns: Range<usize>, output: &mut [f32]) {
        const AT_ONCE: usize = 8;
        let width = columns.len();
        let row = |input: usize| &self.numbers[input * self.strides[0] + columns.start..][..width];
        let whole = self.from - self.from % AT_ONCE;
        for input in (0..whole).step_by(AT_ONCE) {
            let weights: [&[T]; AT_ONCE] = std::array::from_fn(|i| row(input + i));
            for (output, x) in output.chunks_exact_mut(width).zip(x.chunks_exact(self.from)) {
                let x: [f32; AT_ONCE] = std::array::from_fn(|i| x[input + i]);
                for (column, output) in output.iter_mut().enumerate() {
                    let mut sum = *output;
                    for i in 0..AT_ONCE {
                        sum = x[i].mul_add(weights[i][column].widen(), sum);
                    }
                    *output = sum;
                }
            }
        }
        for input in whole..self.from {
            let weights = row(input);
            for (output, x) in output.chunks_exact_mut(width).zip(x.chunks_exact(self.from)) {
                let x = x[input];
                output.iter_mut().zip(weights).for_each(|(output, weight)| *output = x.mul_add(weight.widen(), *output));
            }
        }
    }

    /// Inputs are contiguous: an output is a dot product.
    #[inline(always)]
    fn add_dots(self, x: &[f32], columns: Range<usize>, output: &mut [f32]) {
        let width = columns.len();
        for (index, column) in columns.enumerate() {
            let weights = &self.numbers[column * self.strides[1]..][..self.from];
            for (output, x) in output.chunks_exact_mut(width).zip(x.chunks_exact(self.from)) {
                output[index] += dot(x, weights);
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
    unsafe fn multiply_panel(self, x: &[f32], columns: Range<usize>, output: SendPointer, stride: usize, begun: bool) {
        let rows = x.len() / self.from;
        // One each: a weight is packed anew for every piece. In whole tiles of 16 rows.
        let piece = rows.div_ceil(rayon::current_num_threads()).next_multiple_of(16).max(MANY_ROWS / 2);
        let weight = &self.numbers[columns.start * self.strides[1]..];
        x.par_chunks(piece * self.from).enumerate().for_each(|(index, x)| {
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
                    gemm::Parallelism::None,
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
    let rest: f32 = a_blocks.remainder().iter().zip(b_blocks.remainder()).map(|(a, b)| a * b.widen()).sum();
    for (a, b) in a_blocks.zip(b_blocks) {
        lanes.iter_mut().zip(a.iter().zip(b)).for_each(|(lane, (a, b))| *lane = a.mul_add(b.widen(), *lane));
    }
    lanes.iter().sum::<f32>() + rest
}
