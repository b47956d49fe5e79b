//! Matrices cut in tiles of a kilobyte.

use std::ops::Range;

use burn::tensor::bf16;
use rayon::prelude::*;

use super::BLOCK;
use crate::kernels::loops::vectorised;
use crate::kernels::matrix::Matrix;

/// Rows, or columns, of a tile.
pub(in crate::kernels) const SIDE: usize = 16;
/// Inputs of a tile: numbers that are summed together.
pub(in crate::kernels) const DEPTH: usize = 32;
/// Tiles that a thread makes at a time, at least.
const AT_ONCE: usize = 64;

/// `SIDE` rows of `DEPTH` numbers of the inputs; or, of a weight, `DEPTH / 2` rows of `SIDE` pairs: of each column two numbers that follow
/// each other.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(in crate::kernels) struct Tile(pub [[u32; SIDE]; SIDE]);

const _: () = assert!(size_of::<Tile>() == SIDE * DEPTH * size_of::<bf16>());

/// Tiles of whole rows, `[rows / SIDE, inputs / DEPTH]`, filled up with zeros to whole tiles and an even number of rows of tiles.
pub(in crate::kernels) fn of_rows(x: &[bf16], inputs: usize) -> Vec<Tile> {
    let rows = (x.len() / inputs).next_multiple_of(BLOCK) / SIDE;
    let depth = inputs.div_ceil(DEPTH);
    (0..rows * depth)
        .into_par_iter()
        .with_min_len(AT_ONCE)
        .map(|index| {
            let (row, input) = (index / depth * SIDE, index % depth * DEPTH);
            let len = DEPTH.min(inputs - input);
            let mut tile = Tile([[0; SIDE]; SIDE]);
            let rows = x[(row * inputs).min(x.len())..].chunks_exact(inputs);
            for (tile, row) in tile.0.iter_mut().zip(rows) {
                bytemuck::cast_slice_mut(tile)[..len].copy_from_slice(&row[input..][..len]);
            }
            tile
        })
        .collect()
}

/// Tiles of some columns, `[columns / SIDE, inputs / DEPTH]`, filled up with zeros to whole tiles and an even number of columns of tiles.
pub(in crate::kernels) fn of_columns(weight: Matrix<bf16>, columns: Range<usize>) -> Vec<Tile> {
    let depth = weight.inputs.div_ceil(DEPTH);
    (0..columns.len().next_multiple_of(BLOCK) / SIDE * depth)
        .into_par_iter()
        .with_min_len(AT_ONCE)
        .map(|index| {
            let (column, input) = (columns.start + index / depth * SIDE, index % depth * DEPTH);
            let columns = column..columns.end.min(column + SIDE).max(column);
            let inputs = input..weight.inputs.min(input + DEPTH);
            vectorised(
                #[inline(always)]
                || match weight.strides {
                    [1, _] => transposed(&of_contiguous_inputs(weight, inputs, columns)),
                    [_, 1] if columns.len() == SIDE && inputs.len() == DEPTH => {
                        of_contiguous_columns(weight, inputs.start, columns.start)
                    }
                    _ => of_any(weight, inputs, columns),
                },
            )
        })
        .collect()
}

/// The tile with pairs in rows: `SIDE` columns of the weight, each contiguous.
#[inline(always)]
fn of_contiguous_inputs(weight: Matrix<bf16>, inputs: Range<usize>, columns: Range<usize>) -> Tile {
    let mut tile = Tile([[0; SIDE]; SIDE]);
    for (tile, column) in tile.0.iter_mut().zip(columns) {
        let column = &weight.numbers[column * weight.strides[1] + inputs.start..][..inputs.len()];
        bytemuck::cast_slice_mut(tile)[..inputs.len()].copy_from_slice(column);
    }
    tile
}

/// A whole tile, of rows that are contiguous.
#[inline(always)]
fn of_contiguous_columns(weight: Matrix<bf16>, input: usize, column: usize) -> Tile {
    let row = |input: usize| -> &[bf16; SIDE] {
        let row = &weight.numbers[input * weight.strides[0] + column..][..SIDE];
        row.try_into().expect("as long")
    };
    let mut tile = Tile([[0; SIDE]; SIDE]);
    for (index, tile) in tile.0.iter_mut().enumerate() {
        let (low, high) = (row(input + 2 * index), row(input + 2 * index + 1));
        for (pair, (low, high)) in tile.iter_mut().zip(low.iter().zip(high)) {
            *pair = u32::from(low.to_bits()) | u32::from(high.to_bits()) << 16;
        }
    }
    tile
}

fn of_any(weight: Matrix<bf16>, inputs: Range<usize>, columns: Range<usize>) -> Tile {
    let mut tile = Tile([[0; SIDE]; SIDE]);
    for (index, input) in inputs.enumerate() {
        for (pair, column) in tile.0[index / 2].iter_mut().zip(columns.clone()) {
            let number = weight.numbers[input * weight.strides[0] + column * weight.strides[1]];
            *pair |= u32::from(number.to_bits()) << (16 * (index % 2));
        }
    }
    tile
}

/// In four steps, each of which exchanges half of each row with half of another: so it becomes shuffles of whole registers.
#[inline(always)]
fn transposed(tile: &Tile) -> Tile {
    let mut rows = tile.0;
    for half in [8, 4, 2, 1] {
        let mut exchanged = [[0; SIDE]; SIDE];
        for first in (0..SIDE).filter(|row| row & half == 0) {
            let (upper, lower) = (rows[first], rows[first + half]);
            for column in 0..SIDE {
                let is_left = column & half == 0;
                exchanged[first][column] = if is_left {
                    upper[column]
                } else {
                    lower[column ^ half]
                };
                exchanged[first + half][column] = if is_left {
                    upper[column ^ half]
                } else {
                    lower[column]
                };
            }
        }
        rows = exchanged;
    }
    Tile(rows)
}
