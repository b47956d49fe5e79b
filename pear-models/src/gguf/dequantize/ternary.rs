//! Types of numbers that are −1, 0 or 1 times a scale.

use super::blocks::{each_block, f16_at};

/// Five ternary digits a byte for the first 240 numbers, four for the last 16; scale.
///
/// A byte is a fraction of 256 in base 3. Its digits come out from the highest on: multiplied by a power of three, what has passed 256 is
/// dropped, and three times the rest, divided by 256, is the next digit.
pub(super) fn tq1_0(bytes: &[u8], into: &mut [f32]) {
    each_block(bytes, into, |block: &[u8; 54], values: &mut [f32; 256]| {
        let scale = f16_at(block, 52);
        let (first, rest) = values.split_at_mut(160);
        let (second, last) = rest.split_at_mut(80);
        for (values, bytes) in [
            (first, &block[..32]),
            (second, &block[32..48]),
            (last, &block[48..52]),
        ] {
            let mut power = 1u8;
            for values in values.chunks_exact_mut(bytes.len()) {
                for (value, &byte) in values.iter_mut().zip(bytes) {
                    let digit = (u16::from(byte.wrapping_mul(power)) * 3) >> 8;
                    *value = scale * f32::from(digit as i8 - 1);
                }
                power = power.wrapping_mul(3);
            }
        }
    });
}

/// Codes of 2 bits for −1 to 2, in each half of the superblock first the lowest bits of 32 bytes, then the next; scale.
pub(super) fn tq2_0(bytes: &[u8], into: &mut [f32]) {
    each_block(bytes, into, |block: &[u8; 66], values: &mut [f32; 256]| {
        let scale = f16_at(block, 64);
        let (parts, _) = values.as_chunks_mut::<32>();
        for (part, values) in parts.iter_mut().enumerate() {
            let codes = &block[part / 4 * 32..][..32];
            for (value, &code) in values.iter_mut().zip(codes) {
                *value = scale * f32::from((code >> (part % 4 * 2) & 3) as i8 - 1);
            }
        }
    });
}
