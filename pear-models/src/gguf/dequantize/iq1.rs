//! The types of less than 2 bits: vectors of a codebook of −1, 0 and 1, moved up or down by an eighth.

use half::f16;

use super::blocks::{each_block, f16_at, u16_at};
use super::grids;

/// Scale; the lower 8 bits of the indices; then for 32 numbers the upper three bits of four indices, an odd scale of 3 bits and the sign
/// of the eighth.
pub(super) fn iq1_s(bytes: &[u8], into: &mut [f32]) {
    each_block(bytes, into, |block: &[u8; 50], values: &mut [f32; 256]| {
        let scale = f16_at(block, 0);
        let (parts, _) = values.as_chunks_mut::<32>();
        for (part, values) in parts.iter_mut().enumerate() {
            let packed = u16_at(block, 34 + 2 * part);
            let scale = iq1_s_scale(scale, packed);
            let eighth = eighth(packed & 0x8000 != 0);
            let (vectors, _) = values.as_chunks_mut::<8>();
            for (at, values) in vectors.iter_mut().enumerate() {
                let upper = packed >> (3 * at) & 7;
                scale_moved(values, block[2 + 4 * part + at], upper, eighth, scale);
            }
        }
    });
}

/// The scale of 32 numbers of IQ1_S, in the bits under the highest one of those that they share.
#[inline(always)]
pub(super) fn iq1_s_scale(scale: f32, packed: u16) -> f32 {
    scale * f32::from(2 * (packed >> 12 & 7) + 1)
}

/// The lower 8 bits of the indices; the upper three bits and the sign of the eighth for each; odd scales of 3 bits for 16 numbers, four of
/// them with a quarter of the superblock's scale in 16 bits.
pub(super) fn iq1_m(bytes: &[u8], into: &mut [f32]) {
    each_block(bytes, into, |block: &[u8; 56], values: &mut [f32; 256]| {
        let packed: [u16; 4] = std::array::from_fn(|quarter| u16_at(block, 48 + 2 * quarter));
        let bits = (0..4).fold(0, |bits, quarter| {
            bits | packed[quarter] >> 12 << (4 * quarter)
        });
        let scale = f16::from_bits(bits).to_f32();
        let (vectors, _) = values.as_chunks_mut::<8>();
        for (at, values) in vectors.iter_mut().enumerate() {
            let part_scale = packed[at / 8] >> (at % 8 / 2 * 3) & 7;
            let scale = scale * f32::from(2 * part_scale + 1);
            let upper = u16::from(block[32 + at / 2] >> (at % 2 * 4));
            scale_moved(values, block[at], upper & 7, eighth(upper & 8 != 0), scale);
        }
    });
}

#[inline(always)]
fn eighth(is_negative: bool) -> f32 {
    if is_negative { -0.125 } else { 0.125 }
}

#[inline(always)]
fn scale_moved(values: &mut [f32; 8], lower: u8, upper: u16, eighth: f32, scale: f32) {
    let vector = &grids::IQ1_S[usize::from(lower) | usize::from(upper) << 8];
    for (value, &x) in values.iter_mut().zip(vector) {
        *value = scale * (f32::from(x) + eighth);
    }
}
