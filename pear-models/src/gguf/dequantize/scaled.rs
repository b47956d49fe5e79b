//! Blocks with one scale, and perhaps one offset, for all their numbers.

use super::blocks::{each_block, f16_at, u32_at};

/// Scale; codes of 4 bits that stand for −8 to 7.
pub(super) fn q4_0(bytes: &[u8], into: &mut [f32]) {
    each_block(bytes, into, |block: &[u8; 18], values: &mut [f32; 32]| {
        let scale = f16_at(block, 0);
        let (first, second) = values.split_at_mut(16);
        for ((&codes, low), high) in block[2..].iter().zip(first).zip(second) {
            *low = scale * (f32::from(codes & 15) - 8.0);
            *high = scale * (f32::from(codes >> 4) - 8.0);
        }
    });
}

/// Scale; offset; codes of 4 bits.
pub(super) fn q4_1(bytes: &[u8], into: &mut [f32]) {
    each_block(bytes, into, |block: &[u8; 20], values: &mut [f32; 32]| {
        let (scale, offset) = (f16_at(block, 0), f16_at(block, 2));
        let (first, second) = values.split_at_mut(16);
        for ((&codes, low), high) in block[4..].iter().zip(first).zip(second) {
            *low = scale * f32::from(codes & 15) + offset;
            *high = scale * f32::from(codes >> 4) + offset;
        }
    });
}

/// Scale; the fifth bits; the lower four bits of codes that stand for −16 to 15.
pub(super) fn q5_0(bytes: &[u8], into: &mut [f32]) {
    each_block(bytes, into, |block: &[u8; 22], values: &mut [f32; 32]| {
        let scale = f16_at(block, 0);
        five_bit_codes(u32_at(block, 2), &block[6..], values);
        for value in values {
            *value = scale * (*value - 16.0);
        }
    });
}

/// Scale; offset; the fifth bits; the lower four bits of codes.
pub(super) fn q5_1(bytes: &[u8], into: &mut [f32]) {
    each_block(bytes, into, |block: &[u8; 24], values: &mut [f32; 32]| {
        let (scale, offset) = (f16_at(block, 0), f16_at(block, 2));
        five_bit_codes(u32_at(block, 4), &block[8..], values);
        for value in values {
            *value = scale * *value + offset;
        }
    });
}

/// Codes of 5 bits as numbers.
#[inline(always)]
fn five_bit_codes(fifth_bits: u32, lower_bits: &[u8], codes: &mut [f32; 32]) {
    let (first, second) = codes.split_at_mut(16);
    let numbers = lower_bits.iter().zip(first).zip(second);
    for (index, ((&lower, low), high)) in numbers.enumerate() {
        let fifth = |bit: u32| if fifth_bits & bit != 0 { 16 } else { 0 };
        *low = (i32::from(lower & 15) | fifth(1 << index)) as f32;
        *high = (i32::from(lower >> 4) | fifth(1 << 16 << index)) as f32;
    }
}

/// Scale; codes of 8 bits.
pub(super) fn q8_0(bytes: &[u8], into: &mut [f32]) {
    each_block(bytes, into, |block: &[u8; 34], values: &mut [f32; 32]| {
        scaled_bytes(f16_at(block, 0), &block[2..], values);
    });
}

/// Scale; the sum of the numbers, which is for products with them; codes of 8 bits.
pub(super) fn q8_1(bytes: &[u8], into: &mut [f32]) {
    each_block(bytes, into, |block: &[u8; 36], values: &mut [f32; 32]| {
        scaled_bytes(f16_at(block, 0), &block[4..], values);
    });
}

/// Scale in single precision; codes of 8 bits; sums of the codes, which are for products with them.
pub(super) fn q8_k(bytes: &[u8], into: &mut [f32]) {
    each_block(bytes, into, |block: &[u8; 292], values: &mut [f32; 256]| {
        scaled_bytes(f32::from_bits(u32_at(block, 0)), &block[4..260], values);
    });
}

#[inline(always)]
fn scaled_bytes(scale: f32, codes: &[u8], values: &mut [f32]) {
    for (value, &code) in values.iter_mut().zip(codes) {
        *value = scale * f32::from(code as i8);
    }
}

/// Scale; one bit for each sign.
pub(super) fn q1_0(bytes: &[u8], into: &mut [f32]) {
    each_block(bytes, into, |block: &[u8; 18], values: &mut [f32; 128]| {
        let scale = f16_at(block, 0);
        let (values, _) = values.as_chunks_mut::<8>();
        for (values, &bits) in values.iter_mut().zip(&block[2..]) {
            for (index, value) in values.iter_mut().enumerate() {
                *value = if bits & (1 << index) != 0 {
                    scale
                } else {
                    -scale
                };
            }
        }
    });
}
