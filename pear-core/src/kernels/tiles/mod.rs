//! Products of bf16 by instructions of the processor that multiply bf16 and add in f32: AMX tiles, or AVX-512's dot products of pairs.
//!
//! Matrices are copied into tiles of a kilobyte, so that both kinds of instruction read memory in order. Every number of a product is one sum
//! over all that is multiplied, in an order that does not depend on the number of rows or threads.

mod amx;
mod avx512;
#[cfg(test)]
mod portable;
mod tile;

use std::sync::LazyLock;

#[cfg(test)]
pub(super) use self::portable::with_portable;
pub(super) use self::tile::{DEPTH, SIDE, Tile, of_columns, of_rows};

/// Rows and columns of a product that are computed together: two tiles of each.
pub(super) const BLOCK: usize = 2 * SIDE;

/// A block of a product, row by row.
pub(super) type Sums = [[f32; BLOCK]; BLOCK];

/// How a processor multiplies tiles.
#[derive(Clone, Copy, Debug)]
pub(super) enum Instructions {
    Amx,
    Avx512,
    /// None at all.
    #[cfg(test)]
    Portable,
}

impl Instructions {
    /// The fastest that this processor and its operating system offer.
    pub fn best() -> Option<Self> {
        #[cfg(test)]
        if let Some(chosen) = portable::chosen() {
            return Some(chosen);
        }
        static BEST: LazyLock<Option<Instructions>> =
            LazyLock::new(|| Instructions::available().next());
        *BEST
    }

    /// Those that this processor and its operating system offer, the fastest first.
    pub fn available() -> impl Iterator<Item = Self> {
        [
            (Self::Amx, amx::is_available as fn() -> bool),
            (Self::Avx512, avx512::is_available),
        ]
        .into_iter()
        .filter(|(_, is_available)| is_available())
        .map(|(instructions, _)| instructions)
    }

    /// Calls `f` with a function that multiplies tiles.
    ///
    /// # Safety
    /// The instructions must be available, and `f` must not let this thread run other tasks, as anything parallel would: they might do the
    /// same, and leave the tiles unusable.
    pub unsafe fn with_blocks<R>(
        self,
        f: impl FnOnce(&mut dyn FnMut(Factors, &mut Sums)) -> R,
    ) -> R {
        match self {
            // SAFETY: as this function's.
            Self::Amx => unsafe { amx::with_blocks(f) },
            // SAFETY: as this function's.
            Self::Avx512 => f(&mut |factors, sums| unsafe { avx512::multiply(factors, sums) }),
            #[cfg(test)]
            Self::Portable => f(&mut portable::multiply),
        }
    }
}

/// What a block is the product of: two rows of tiles and two columns of tiles, all of one length.
#[derive(Clone, Copy)]
pub(super) struct Factors<'a> {
    pub rows: [&'a [Tile]; 2],
    pub columns: [&'a [Tile]; 2],
}

impl<'a> Factors<'a> {
    /// The tiles of rows and of columns that are multiplied with each other.
    fn depths(self) -> impl Iterator<Item = ([&'a Tile; 2], [&'a Tile; 2])> {
        let [above, below] = self.rows;
        let [left, right] = self.columns;
        (above.iter().zip(below))
            .zip(left.iter().zip(right))
            .map(|(rows, columns)| (rows.into(), columns.into()))
    }
}

/// The two rows, or columns, of tiles that begin at row, or column, `start`; `depth` tiles each, of which those of `within`.
pub(super) fn pair(
    tiles: &[Tile],
    start: usize,
    depth: usize,
    within: std::ops::Range<usize>,
) -> [&[Tile]; 2] {
    [0, 1].map(|half| &tiles[(start / SIDE + half) * depth..][within.clone()])
}
