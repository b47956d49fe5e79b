//! Buffers that all cores write to: new ones, in blocks, without being cleared first, and rows of which each core has some places.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::loops::in_blocks;

/// The memory of a block of rows, written from its first number to its last.
pub(super) struct Writer<'a, T> {
    slots: &'a mut [MaybeUninit<T>],
    /// So many of the first slots are initialised.
    written: usize,
}

impl<T: Copy> Writer<'_, T> {
    /// Writes the next numbers; those beyond the end of the block are dropped.
    #[inline(always)]
    pub(super) fn extend(&mut self, values: impl Iterator<Item = T>) {
        // Counted locally: a count in `self` would be stored for each number, and the loop stay
        // scalar.
        let mut count = 0;
        for (slot, value) in self.slots[self.written..].iter_mut().zip(values) {
            slot.write(value);
            count += 1;
        }
        self.written += count;
    }

    /// Writes the next numbers, two at a time; pairs beyond the end of the block are dropped.
    #[inline(always)]
    pub(super) fn extend_pairs(&mut self, pairs: impl Iterator<Item = [T; 2]>) {
        let mut count = 0;
        let (slots, _) = self.slots[self.written..].as_chunks_mut::<2>();
        for ([first, second], pair) in slots.iter_mut().zip(pairs) {
            first.write(pair[0]);
            second.write(pair[1]);
            count += 2;
        }
        self.written += count;
    }

    /// Writes the next `2 · half` numbers: the first of each pair, then the second of each.
    ///
    /// # Panics
    /// If there are fewer pairs, or less than this is left of the block.
    #[inline(always)]
    pub(super) fn extend_halves(&mut self, half: usize, pairs: impl Iterator<Item = [T; 2]>) {
        let (low, high) = self.slots[self.written..][..2 * half].split_at_mut(half);
        let mut count = 0;
        for ((low, high), pair) in low.iter_mut().zip(high).zip(pairs) {
            low.write(pair[0]);
            high.write(pair[1]);
            count += 1;
        }
        assert!(count == half, "a pair for each number of a half");
        self.written += 2 * half;
    }
}

/// A buffer of `rows` times `width` numbers. `write` is called once for each block of rows and must
/// write all of them.
///
/// # Panics
/// If `write` leaves a part of its block unwritten.
pub(super) fn filled<T: Copy + Send>(
    rows: usize,
    width: usize,
    write: impl Fn(Range<usize>, &mut Writer<T>) + Sync,
) -> Vec<T> {
    let len = rows * width;
    let mut buffer = Vec::with_capacity(len);
    in_blocks(
        &mut buffer.spare_capacity_mut()[..len],
        width,
        #[inline(always)]
        |first_row, slots| {
            let end = first_row + slots.len() / width;
            let mut writer = Writer { slots, written: 0 };
            write(first_row..end, &mut writer);
            // Not `assert_eq`: what it takes references to stays in memory.
            assert!(
                writer.written == writer.slots.len(),
                "a kernel must write all of its output"
            );
        },
    );
    // SAFETY: the blocks are all of the first `len` slots, and each was found to be written from
    // its first slot to its last: only the methods of `Writer` advance `written`, past slots that
    // they have just initialised.
    unsafe { buffer.set_len(len) };
    buffer
}

/// Rows of numbers that several threads write to, each other places.
pub(super) struct SharedRows<'a, T> {
    start: *mut T,
    len: usize,
    width: usize,
    numbers: PhantomData<&'a mut [T]>,
}

// SAFETY: whoever asks for places says that nobody else has them.
unsafe impl<T: Send> Sync for SharedRows<'_, T> {}

impl<'a, T> SharedRows<'a, T> {
    pub(super) fn new(numbers: &'a mut [T], width: usize) -> Self {
        Self {
            start: numbers.as_mut_ptr(),
            len: numbers.len(),
            width,
            numbers: PhantomData,
        }
    }

    /// Numbers in a row.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// The first number of a block of rows and columns, in which rows are [`width`](Self::width) apart.
    ///
    /// # Panics
    /// If the block is not within the rows, or is empty.
    pub(super) fn block(&self, rows: Range<usize>, columns: Range<usize>) -> *mut T {
        assert!(!rows.is_empty() && rows.end * self.width <= self.len);
        assert!(!columns.is_empty() && columns.end <= self.width);
        // SAFETY: within the rows, as was checked.
        unsafe { self.start.add(rows.start * self.width + columns.start) }
    }

    /// Some columns of a row.
    ///
    /// # Panics
    /// As [`block`](Self::block).
    ///
    /// # Safety
    /// Nobody else may have these places.
    #[expect(clippy::mut_from_ref, reason = "the places are the caller's alone")]
    pub(super) unsafe fn row(&self, row: usize, columns: Range<usize>) -> &mut [T] {
        let len = columns.len();
        let start = self.block(row..row + 1, columns);
        // SAFETY: within the rows, as was checked; the caller's alone.
        unsafe { std::slice::from_raw_parts_mut(start, len) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::panic_message;
    use super::*;

    #[test]
    fn numbers_are_written_in_order_and_those_beyond_a_block_are_dropped() {
        for (rows, width) in [(0, 5), (4, 0), (1, 1), (3, 7), (2000, 33)] {
            let buffer = filled(rows, width, |rows, writer| {
                let numbers = rows.start * width..rows.end * width;
                writer.extend(numbers.clone().take(3));
                writer.extend_pairs((numbers.start + 3..).step_by(2).map(|i| [i, i + 1]));
                writer.extend(numbers.end.saturating_sub(1)..);
            });
            assert!(buffer.into_iter().eq(0..rows * width), "{rows} × {width}");
        }
    }

    #[test]
    fn halves_are_written_in_one_pass() {
        for (rows, half) in [(1, 1), (3, 4), (2000, 17)] {
            let buffer = filled(rows, 2 * half, |rows, writer| {
                for row in rows {
                    let first = 2 * half * row;
                    writer.extend_halves(half, (first..).map(|i| [i, i + half]));
                }
            });
            assert!(buffer.into_iter().eq(0..2 * half * rows));
        }
    }

    #[test]
    fn halves_without_enough_pairs_panic() {
        for pairs in [0, 1, 4] {
            let message = panic_message(|| {
                filled(1, 10, |_, writer| {
                    writer.extend_halves(5, (0..pairs).map(|i| [i, i]))
                })
            });
            assert!(message.contains("a pair for each number"), "{message}");
        }
    }

    #[test]
    fn a_block_that_is_only_partly_written_panics() {
        for written in [0, 1, 8191, 8192, 3 * 7000 - 1] {
            let message = panic_message(|| {
                filled(7000, 3, |rows, writer| {
                    writer.extend((rows.start * 3..written).map(|i| i as f32))
                })
            });
            assert!(message.contains("all of its output"), "{message}");
        }
    }
}
