//! Products of many rows in bf16, in tiles.

use std::ops::Range;

use burn::tensor::bf16;
use rayon::prelude::*;

use crate::kernels::buffer::SharedRows;
use crate::kernels::loops::vectorised;
use crate::kernels::matrix::Matrix;
use crate::kernels::stored::Stored;
use crate::kernels::tiles::{
    BLOCK, DEPTH, Factors, Instructions, SIDE, Tile, of_columns, of_rows, pair,
};

/// Bytes of inputs in tiles that stay near a core while all columns pass by.
const NEAR: usize = 1 << 19;
/// Numbers of a weight that are put into tiles at a time: 2 MB, which a cache keeps and the next panel reuses.
const PANEL: usize = 1 << 20;
/// Pieces of the output for each thread, so that a slower core takes fewer.
const PIECES: usize = 4;

/// `x · weight + bias` for `x` of whole rows of `weight.inputs` numbers, rounded once.
pub(super) fn multiply(
    instructions: Instructions,
    x: &[bf16],
    weight: Matrix<bf16>,
    bias: Option<&[f32]>,
) -> Vec<bf16> {
    let (rows, width) = (x.len() / weight.inputs, weight.outputs);
    let x = of_rows(x, weight.inputs);
    let mut output = vec![bf16::ZERO; rows * width];
    let panel_width = (PANEL / weight.inputs).next_multiple_of(BLOCK);
    for start in (0..width).step_by(panel_width) {
        let columns = start..width.min(start + panel_width);
        let panel = Panel {
            instructions,
            depth: weight.inputs.div_ceil(DEPTH),
            inputs: &x,
            weight: &of_columns(weight, columns.clone()),
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
        let pieces = PIECES * rayon::current_num_threads();
        let share = rows.div_ceil(pieces);
        let height = share.next_multiple_of(BLOCK).min(near.max(BLOCK));
        let bands = rows.div_ceil(height);
        // Few rows are cut across, too.
        let cuts = pieces.div_ceil(bands);
        let breadth = (self.columns.len().div_ceil(cuts)).next_multiple_of(BLOCK);
        let pieces = (0..rows).step_by(height).flat_map(|row| {
            (0..self.columns.len())
                .step_by(breadth)
                .map(move |column| (row, column))
        });
        let output = SharedRows::new(output, width);
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
    unsafe fn multiply_piece(
        &self,
        rows: Range<usize>,
        columns: Range<usize>,
        output: &SharedRows<'_, bf16>,
    ) {
        let block = |tiles, start| pair(tiles, start, self.depth, 0..self.depth);
        // SAFETY: as this function's.
        unsafe {
            self.instructions.with_blocks(|multiply| {
                let mut sums = [[0.0; BLOCK]; BLOCK];
                for column in columns.clone().step_by(BLOCK) {
                    let weight = block(self.weight, column);
                    let across = column..columns.end.min(column + BLOCK);
                    for row in rows.clone().step_by(BLOCK) {
                        let factors = Factors {
                            rows: block(self.inputs, row),
                            columns: weight,
                        };
                        multiply(factors, &mut sums);
                        vectorised(
                            #[inline(always)]
                            || {
                                for (row, sums) in (row..rows.end.min(row + BLOCK)).zip(&sums) {
                                    let start = self.columns.start + across.start;
                                    let output = output.row(row, start..start + across.len());
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

#[cfg(test)]
mod tests;
