//! The K types: superblocks of 256 numbers, divided into parts that have quantised scales of their own.

use super::blocks::{each_block, f16_at};

/// 16 parts: scales and minima of 4 bits each; codes of 2 bits; scale of the scales and of the minima.
pub(super) fn q2_k(bytes: &[u8], into: &mut [f32]) {
    each_block(bytes, into, |block: &[u8; 84], values: &mut [f32; 256]| {
        let (scale, min_scale) = (f16_at(block, 80), f16_at(block, 82));
        let (parts, _) = values.as_chunks_mut::<16>();
        for (part, (values, &packed)) in parts.iter_mut().zip(&block[..16]).enumerate() {
            let (scale, min) = (
                scale * f32::from(packed & 15),
                min_scale * f32::from(packed >> 4),
            );
            let codes = &block[16..80][two_bit_part(part)];
            let shift = part % 8 / 2 * 2;
            for (value, &code) in values.iter_mut().zip(codes) {
                *value = scale * f32::from(code >> shift & 3) - min;
            }
        }
    });
}

/// The third bits, which are set where nothing is subtracted; the lower two bits of the codes; signed scales of 6 bits for 16 parts; their
/// scale.
pub(super) fn q3_k(bytes: &[u8], into: &mut [f32]) {
    each_block(bytes, into, |block: &[u8; 110], values: &mut [f32; 256]| {
        let scale = f16_at(block, 108);
        let packed = &block[96..108];
        let (parts, _) = values.as_chunks_mut::<16>();
        for (part, values) in parts.iter_mut().enumerate() {
            let low = packed[part % 8] >> (part / 8 * 4) & 15;
            let high = packed[8 + part % 4] >> (part / 4 * 2) & 3;
            let scale = scale * f32::from((low | high << 4) as i8 - 32);
            let codes = &block[32..96][two_bit_part(part)];
            let third_bits = &block[part % 2 * 16..][..16];
            let (shift, bit) = (part % 8 / 2 * 2, 1 << (part / 2));
            for ((value, &code), &third_bits) in values.iter_mut().zip(codes).zip(third_bits) {
                let subtracted = if third_bits & bit == 0 { 4 } else { 0 };
                *value = scale * f32::from((code >> shift & 3) as i8 - subtracted);
            }
        }
    });
}

/// The bytes that hold the codes of a part of 16 numbers, when each half of a superblock has its codes of 2 bits in 32 bytes: first the
/// lowest bits of all, then the next.
#[inline(always)]
fn two_bit_part(part: usize) -> std::ops::Range<usize> {
    let start = part / 8 * 32 + part % 2 * 16;
    start..start + 16
}

/// Scale of the scales and of the minima; scales and minima of 6 bits for 8 parts; codes of 4 bits.
pub(super) fn q4_k(bytes: &[u8], into: &mut [f32]) {
    each_block(bytes, into, |block: &[u8; 144], values: &mut [f32; 256]| {
        let scales = scales_and_mins(block);
        let (pairs, _) = values.as_chunks_mut::<64>();
        let codes = block[16..].as_chunks::<32>().0;
        for (pair, (values, codes)) in pairs.iter_mut().zip(codes).enumerate() {
            let [(low_scale, low_min), (high_scale, high_min)] =
                [scales[2 * pair], scales[2 * pair + 1]];
            let (low, high) = values.split_at_mut(32);
            for ((&codes, low), high) in codes.iter().zip(low).zip(high) {
                *low = low_scale * f32::from(codes & 15) - low_min;
                *high = high_scale * f32::from(codes >> 4) - high_min;
            }
        }
    });
}

/// As [`q4_k`], with the fifth bits before the lower four.
pub(super) fn q5_k(bytes: &[u8], into: &mut [f32]) {
    each_block(bytes, into, |block: &[u8; 176], values: &mut [f32; 256]| {
        let scales = scales_and_mins(block);
        let (pairs, _) = values.as_chunks_mut::<64>();
        let codes = block[48..].as_chunks::<32>().0;
        for (pair, (values, codes)) in pairs.iter_mut().zip(codes).enumerate() {
            let [(low_scale, low_min), (high_scale, high_min)] =
                [scales[2 * pair], scales[2 * pair + 1]];
            let (low, high) = values.split_at_mut(32);
            let fifth_bits = &block[16..48];
            let numbers = codes.iter().zip(fifth_bits).zip(low).zip(high);
            for (((&codes, &fifth_bits), low), high) in numbers {
                let fifth_bits = fifth_bits >> (2 * pair);
                let (low_code, high_code) = (
                    codes & 15 | fifth_bits << 4 & 16,
                    codes >> 4 | fifth_bits << 3 & 16,
                );
                *low = low_scale * f32::from(low_code) - low_min;
                *high = high_scale * f32::from(high_code) - high_min;
            }
        }
    });
}

/// The scale and the minimum of each part of a Q4_K or Q5_K block: 6 bits each, packed in 12 bytes after their own two scales.
pub(super) fn scales_and_mins(block: &[u8]) -> [(f32, f32); 8] {
    let (scale, min_scale) = (f16_at(block, 0), f16_at(block, 2));
    let packed = &block[4..16];
    std::array::from_fn(|part| {
        let (scale_bits, min_bits) = if part < 4 {
            (packed[part] & 63, packed[part + 4] & 63)
        } else {
            let lower = packed[part + 4];
            let upper = |byte: u8| byte >> 2 & 48;
            (
                lower & 15 | upper(packed[part - 4]),
                lower >> 4 | upper(packed[part]),
            )
        };
        (
            scale * f32::from(scale_bits),
            min_scale * f32::from(min_bits),
        )
    })
}

/// The lower four bits of the codes; the upper two; signed scales of 8 bits for 16 parts; their scale.
pub(super) fn q6_k(bytes: &[u8], into: &mut [f32]) {
    each_block(bytes, into, |block: &[u8; 210], values: &mut [f32; 256]| {
        let scale = f16_at(block, 208);
        let (parts, _) = values.as_chunks_mut::<16>();
        for (part, (values, &part_scale)) in parts.iter_mut().zip(&block[192..208]).enumerate() {
            let scale = scale * f32::from(part_scale as i8);
            let lower = &block[part / 8 * 64 + part % 4 * 16..][..16];
            let upper = &block[128 + part / 8 * 32 + part % 2 * 16..][..16];
            let (lower_shift, upper_shift) = (part % 8 / 4 * 4, part % 8 / 2 * 2);
            for ((value, &lower), &upper) in values.iter_mut().zip(lower).zip(upper) {
                let code = lower >> lower_shift & 15 | (upper >> upper_shift & 3) << 4;
                *value = scale * f32::from(code as i8 - 32);
            }
        }
    });
}
