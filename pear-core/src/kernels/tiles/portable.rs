//! Products of tiles on every processor: so that what surrounds them is tested where there are no instructions for them.

use std::cell::Cell;

use burn::tensor::bf16;

use super::{Factors, Instructions, SIDE, Sums};
use crate::kernels::stored::Stored;

thread_local! {
    static IS_BEST: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f` as if the processor of this thread had no better instructions.
pub(in crate::kernels) fn with_portable<R>(f: impl FnOnce() -> R) -> R {
    IS_BEST.set(true);
    let result = f();
    IS_BEST.set(false);
    result
}

/// Portable instructions within [`with_portable`].
pub(super) fn chosen() -> Option<Instructions> {
    IS_BEST.get().then_some(Instructions::Portable)
}

/// A block of the output.
pub(super) fn multiply(factors: Factors, sums: &mut Sums) {
    for (row, sums) in sums.iter_mut().enumerate() {
        for (column, sum) in sums.iter_mut().enumerate() {
            *sum = 0.0;
            for (rows, columns) in factors.depths() {
                for pair in 0..SIDE {
                    let input = rows[row / SIDE].0[row % SIDE][pair];
                    let weight = columns[column / SIDE].0[pair][column % SIDE];
                    let [low, high] = [0, 16].map(|shift| {
                        [input, weight].map(|bits| bf16::from_bits((bits >> shift) as u16).widen())
                    });
                    *sum += low[0] * low[1] + high[0] * high[1];
                }
            }
        }
    }
}
