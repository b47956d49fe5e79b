//! Products of many rows in bf16 by instructions of the processor that multiply bf16 and add in f32: AMX tiles, or AVX-512's dot products of
//! pairs.
//!
//! Inputs and weights are copied into tiles of a kilobyte, so that both kinds of instruction read memory in order. Every output is one sum
//! over all inputs, in an order that does not depend on the number of rows or threads.

mod amx;
mod avx512;
#[cfg(test)]
mod tests;
mod tiles;

use std::ops::Range;
use std::sync::LazyLock;

use burn::tensor::bf16;
use rayon::prelude::*;

use self::tiles::{DEPTH, SIDE, Tile};
use super::weight::Weight;
use crate::kernels::loops::vectorised;
use crate::kernels::stored::Stored;

/// Rows and columns of the output that are computed together: two tiles of each.
const BLOCK: usize = 2 * SIDE;
/// Bytes of inputs in tiles that stay near a core while all columns pass by.
const NEAR: usize = 1 << 19;
/// Numbers of a weight that are put into tiles at a time: 2 MB, which a cache keeps and the next panel reuses.
const PANEL: usize = 1 << 20;
/// Pieces of the output for each thread, so that a slower core takes fewer.
const PIECES: usize = 4;

/// An output block, row by row.
type Sums = [[f32; BLOCK]; BLOCK];

/// How a processor multiplies tiles.
#[derive(Clone, Copy, Debug)]
pub(super) enum Instructions {
    Amx,
    Avx512,
}

impl Instructions {
    /// The fastest that this processor and its operating system offer.
    pub(super) fn best() -> Option<Self> {
        static BEST: LazyLock<Option<Instructions>> =
            LazyLock::new(|| Instructions::available().next());
        *BEST
    }

    /// Those that this processor and its operating system offer, the fastest first.
    pub(super) fn available() -> impl Iterator<Item = Self> {
        [
            (Self::Amx, amx::is_available as fn() -> bool),
            (Self::Avx512, avx512::is_available),
        ]
        .into_iter()
        .filter(|(_, is_available)| is_available())
        .map(|(instructions, _)| instructions)
    }

    /// Calls `f` with the product of two rows of tiles of inputs and two columns of tiles of a weight.
    ///
    /// # Safety
    /// The instructions must be available.
    unsafe fn with_blocks<R>(self, f: impl FnOnce(&mut dyn FnMut(Factors, &mut Sums)) -> R) -> R {
        match self {
            // SAFETY: as this function's.
            Self::Amx => unsafe { amx::with_blocks(f) },
            // SAFETY: as this function's.
            Self::Avx512 => f(&mut |factors, sums| unsafe { avx512::multiply(factors, sums) }),
        }
    }
}

/// What one block of the output is the product of: as many tiles each.
#[derive(Clone, Copy)]
struct Factors<'a> {
    inputs: [&'a [Tile]; 2],
    weight: [&'a [Tile]; 2],
}

impl<'a> Factors<'a> {
    fn new(inputs: &'a [Tile], weight: &'a [Tile]) -> Self {
        assert_eq!(inputs.len(), weight.len(), "as many tiles");
        let half = inputs.len() / 2;
        Self {
            inputs: inputs.split_at(half).into(),
            weight: weight.split_at(half).into(),
        }
    }

    /// The tiles of inputs and of the weight that belong together.
    fn depths(self) -> impl Iterator<Item = ([&'a Tile; 2], [&'a Tile; 2])> {
        let [inputs, below] = self.inputs;
        let [weight, right] = self.weight;
        (inputs.iter().zip(below))
            .zip(weight.iter().zip(right))
            .map(|(inputs, weight)| (inputs.into(), weight.into()))
    }
}

/// `x · weight + bias` for `x` of whole rows of `weight.inputs` numbers, rounded once.
pub(super) fn multiply(
    instructions: Instructions,
    x: &[bf16],
    weight: Weight<bf16>,
    bias: Option<&[f32]>,
) -> Vec<bf16> {
    let (rows, width) = (x.len() / weight.inputs, weight.outputs);
    let x = tiles::of_rows(x, weight.inputs);
    let mut output = vec![bf16::ZERO; rows * width];
    let panel_width = (PANEL / weight.inputs).next_multiple_of(BLOCK);
    for start in (0..width).step_by(panel_width) {
        let columns = start..width.min(start + panel_width);
        let panel = Panel {
            instructions,
            depth: weight.inputs.div_ceil(DEPTH),
            inputs: &x,
            weight: &tiles::of_columns(weight, columns.clone()),
            bias,
            columns,
        };
        panel.multiply(&mut output, width);
    }
    output
}

/// Inputs and some columns of a weight, in tiles.
struct Panel<'a> {
    instructions: Instructions,
    /// Tiles that one sum goes over.
    depth: usize,
    inputs: &'a [Tile],
    weight: &'a [Tile],
    bias: Option<&'a [f32]>,
    columns: Range<usize>,
}

impl Panel<'_> {
    /// Writes these columns of an output of rows of `width` numbers.
    fn multiply(&self, output: &mut [bf16], width: usize) {
        let rows = output.len() / width;
        let near = NEAR / (self.depth * size_of::<Tile>() * BLOCK / SIDE) * BLOCK;
        let share = rows.div_ceil(PIECES * rayon::current_num_threads());
        let height = share.next_multiple_of(BLOCK).min(near.max(BLOCK));
        let bands = rows.div_ceil(height);
        // Few rows are cut across, too.
        let cuts = (PIECES * rayon::current_num_threads()).div_ceil(bands);
        let breadth = (self.columns.len().div_ceil(cuts)).next_multiple_of(BLOCK);
        let pieces = (0..rows).step_by(height).flat_map(|row| {
            (0..self.columns.len())
                .step_by(breadth)
                .map(move |column| (row, column))
        });
        let output = Output::new(output, width);
        pieces
            .collect::<Vec<_>>()
            .into_par_iter()
            .for_each(|(row, column)| {
                let rows = row..rows.min(row + height);
                let columns = column..self.columns.len().min(column + breadth);
                // SAFETY: pieces do not overlap; the instructions are available, or nobody had them.
                unsafe { self.multiply_piece(rows, columns, &output) };
            });
    }

    /// # Safety
    /// Nobody else may have this piece of the output, and the instructions must be available.
    unsafe fn multiply_piece(&self, rows: Range<usize>, columns: Range<usize>, output: &Output) {
        let block = |tiles: &'_ [Tile], start: usize| {
            let tiles_before = start / SIDE * self.depth;
            tiles_before..(tiles_before + 2 * self.depth).min(tiles.len())
        };
        // SAFETY: as this function's.
        unsafe {
            self.instructions.with_blocks(|multiply| {
                let mut sums = [[0.0; BLOCK]; BLOCK];
                for column in columns.clone().step_by(BLOCK) {
                    let weight = &self.weight[block(self.weight, column)];
                    let across = column..columns.end.min(column + BLOCK);
                    for row in rows.clone().step_by(BLOCK) {
                        let inputs = &self.inputs[block(self.inputs, row)];
                        multiply(Factors::new(inputs, weight), &mut sums);
                        vectorised(
                            #[inline(always)]
                            || {
                                for (row, sums) in (row..rows.end.min(row + BLOCK)).zip(&sums) {
                                    let start = self.columns.start + across.start;
                                    let output = output.row(row, start, across.len());
                                    let bias = self.bias.map(|bias| &bias[start..]);
                                    write_row(&sums[..across.len()], bias, output);
                                }
                            },
                        );
                    }
                }
            });
        }
    }
}

#[inline(always)]
fn write_row(sums: &[f32], bias: Option<&[f32]>, output: &mut [bf16]) {
    match bias {
        Some(bias) => (output.iter_mut().zip(sums).zip(bias))
            .for_each(|((output, sum), bias)| *output = bf16::narrow(sum + bias)),
        None => {
            (output.iter_mut().zip(sums)).for_each(|(output, &sum)| *output = bf16::narrow(sum))
        }
    }
}

/// An output that several threads write to, each other places.
struct Output {
    start: *mut bf16,
    len: usize,
    width: usize,
}

// SAFETY: whoever asks for a row says that nobody else has these places.
unsafe impl Sync for Output {}

impl Output {
    fn new(output: &mut [bf16], width: usize) -> Self {
        Self {
            start: output.as_mut_ptr(),
            len: output.len(),
            width,
        }
    }

    /// Part of a row.
    ///
    /// # Safety
    /// The output must live, and nobody else may have these places.
    #[expect(clippy::mut_from_ref, reason = "the places are the caller's alone")]
    unsafe fn row(&self, row: usize, column: usize, len: usize) -> &mut [bf16] {
        let start = row * self.width + column;
        assert!(column + len <= self.width && start + len <= self.len);
        // SAFETY: within the output, as was checked; the caller's alone.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}
