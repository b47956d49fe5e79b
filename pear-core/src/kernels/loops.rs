//! Vectorised loops over rows of numbers.

use rayon::prelude::*;

use super::stored::Stored;

/// Numbers that one core works on at a time: they fit its nearest cache.
pub(super) const BLOCK: usize = 1 << 13;

/// Runs a loop with the widest vector instructions of the machine. What it calls must be inlined
/// into it.
#[inline(always)]
pub(super) fn vectorised<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

/// Calls `f` on blocks of whole rows, with the number of their first row, on all cores. The blocks
/// are all of `data`; none is empty.
pub(super) fn in_blocks<T: Send>(data: &mut [T], width: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    if data.is_empty() {
        return;
    }
    let rows = (BLOCK / width).max(1);
    if data.len() <= rows * width {
        return vectorised(
            #[inline(always)]
            || f(0, data),
        );
    }
    data.par_chunks_mut(rows * width)
        .enumerate()
        .for_each(|(block, data)| {
            vectorised(
                #[inline(always)]
                || f(block * rows, data),
            )
        });
}

/// Sums in several lanes, so that additions need not wait for each other.
#[inline(always)]
pub(super) fn sum<T: Copy>(x: &[T], f: impl Fn(T) -> f32) -> f32 {
    let mut lanes = [0f32; 32];
    let blocks = x.chunks_exact(32);
    let rest: f32 = blocks.remainder().iter().map(|&x| f(x)).sum();
    for block in blocks {
        lanes
            .iter_mut()
            .zip(block)
            .for_each(|(lane, &x)| *lane += f(x));
    }
    lanes.iter().sum::<f32>() + rest
}

/// As [`sum`], over two rows of one length at once.
#[inline(always)]
pub(super) fn sum_of_pairs<T: Copy>(a: &[T], b: &[T], f: impl Fn(T, T) -> f32) -> f32 {
    let mut lanes = [0f32; 32];
    let (a_blocks, b_blocks) = (a.chunks_exact(32), b.chunks_exact(32));
    let rest = a_blocks.remainder().iter().zip(b_blocks.remainder());
    let rest: f32 = rest.map(|(&a, &b)| f(a, b)).sum();
    for (a, b) in a_blocks.zip(b_blocks) {
        lanes
            .iter_mut()
            .zip(a.iter().zip(b))
            .for_each(|(lane, (&a, &b))| *lane += f(a, b));
    }
    lanes.iter().sum::<f32>() + rest
}

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

#[inline(always)]
pub(super) fn max(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 32];
    let blocks = x.chunks_exact(32);
    let rest = blocks
        .remainder()
        .iter()
        .copied()
        .fold(f32::NEG_INFINITY, larger);
    for block in blocks {
        lanes
            .iter_mut()
            .zip(block)
            .for_each(|(lane, &x)| *lane = larger(*lane, x));
    }
    lanes.iter().copied().fold(rest, larger)
}

/// One instruction, unlike `f32::max`, which handles NaN separately.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}
