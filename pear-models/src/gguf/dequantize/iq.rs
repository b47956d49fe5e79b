//! The types of 2 and 3 bits that look their numbers' sizes up in a codebook and store the signs apart. Superblocks of 256 numbers begin
//! with a scale.

use super::blocks::{apply_signs, each_block, f16_at, u16_at, u32_at};
use super::grids::{self, EVEN_SIGNS};

/// For 32 numbers, four indices of 8 bits, four times seven bits of signs and a scale of 4 bits.
pub(super) fn iq2_xxs(bytes: &[u8], into: &mut [f32]) {
    each_block(bytes, into, |block: &[u8; 66], values: &mut [f32; 256]| {
        let scale = f16_at(block, 0);
        let (parts, _) = values.as_chunks_mut::<32>();
        let packed = block[2..].as_chunks::<8>().0;
        for (values, packed) in parts.iter_mut().zip(packed) {
            let signs = u32_at(packed, 4);
            let scale = iq2_xxs_scale(scale, signs);
            let (vectors, _) = values.as_chunks_mut::<8>();
            for (at, values) in vectors.iter_mut().enumerate() {
                scale_vector(values, &grids::IQ2_XXS[usize::from(packed[at])], scale);
                apply_signs(values, even_signs(signs >> (7 * at)));
            }
        }
    });
}

/// The scale of 32 numbers of IQ2_XXS, in the upper four bits above their signs.
#[inline(always)]
pub(super) fn iq2_xxs_scale(scale: f32, signs: u32) -> f32 {
    scale * (0.5 + (signs >> 28) as f32) * 0.25
}

/// For eight numbers, an index of 9 bits and seven bits of signs; scales of 4 bits for 16 numbers.
pub(super) fn iq2_xs(bytes: &[u8], into: &mut [f32]) {
    each_block(bytes, into, |block: &[u8; 74], values: &mut [f32; 256]| {
        let scales = sixteen_scales(f16_at(block, 0), &block[66..]);
        let (vectors, _) = values.as_chunks_mut::<8>();
        for (at, values) in vectors.iter_mut().enumerate() {
            let packed = u16_at(block, 2 + 2 * at);
            let vector = &grids::IQ2_XS[usize::from(packed & 511)];
            scale_vector(values, vector, scales[at / 2]);
            apply_signs(values, even_signs(u32::from(packed >> 9)));
        }
    });
}

/// The lower 8 bits of the indices; the signs; the upper two bits of the indices; scales of 4 bits for 16 numbers.
pub(super) fn iq2_s(bytes: &[u8], into: &mut [f32]) {
    each_block(bytes, into, |block: &[u8; 82], values: &mut [f32; 256]| {
        let scales = sixteen_scales(f16_at(block, 0), &block[74..]);
        let (lower, signs, upper) = (&block[2..34], &block[34..66], &block[66..74]);
        let (vectors, _) = values.as_chunks_mut::<8>();
        for (at, values) in vectors.iter_mut().enumerate() {
            let upper = usize::from(upper[at / 4] >> (at % 4 * 2) & 3);
            let vector = &grids::IQ2_S[usize::from(lower[at]) | upper << 8];
            scale_vector(values, vector, scales[at / 2]);
            apply_signs(values, signs[at]);
        }
    });
}

/// The indices, 8 bits for four numbers; then for 32 numbers four times seven bits of signs and a scale of 4 bits.
pub(super) fn iq3_xxs(bytes: &[u8], into: &mut [f32]) {
    each_block(bytes, into, |block: &[u8; 98], values: &mut [f32; 256]| {
        let scale = f16_at(block, 0);
        let (parts, _) = values.as_chunks_mut::<32>();
        for (part, values) in parts.iter_mut().enumerate() {
            let signs = u32_at(block, 66 + 4 * part);
            let scale = iq3_xxs_scale(scale, signs);
            let indices = &block[2 + 8 * part..][..8];
            let (vectors, _) = values.as_chunks_mut::<8>();
            for (at, values) in vectors.iter_mut().enumerate() {
                let vector = |index: u8| &grids::IQ3_XXS[usize::from(index)];
                let halves = [vector(indices[2 * at]), vector(indices[2 * at + 1])];
                scale_halves(values, halves, scale);
                apply_signs(values, even_signs(signs >> (7 * at)));
            }
        }
    });
}

/// The scale of 32 numbers of IQ3_XXS, in the upper four bits above their signs.
#[inline(always)]
pub(super) fn iq3_xxs_scale(scale: f32, signs: u32) -> f32 {
    scale * (0.5 + (signs >> 28) as f32) * 0.5
}

/// The lower 8 bits of the indices for four numbers; the ninth bits; the signs; odd scales of 4 bits for 32 numbers.
pub(super) fn iq3_s(bytes: &[u8], into: &mut [f32]) {
    each_block(bytes, into, |block: &[u8; 110], values: &mut [f32; 256]| {
        let scale = f16_at(block, 0);
        let (lower, upper, signs) = (&block[2..66], &block[66..74], &block[74..106]);
        let (parts, _) = values.as_chunks_mut::<32>();
        for (part, values) in parts.iter_mut().enumerate() {
            let scale = iq3_s_scale(scale, block, part);
            let (vectors, _) = values.as_chunks_mut::<8>();
            for (at, values) in vectors.iter_mut().enumerate() {
                let vector = |half: usize| {
                    let ninth = usize::from(upper[part]) >> (2 * at + half) & 1;
                    &grids::IQ3_S[usize::from(lower[8 * part + 2 * at + half]) | ninth << 8]
                };
                scale_halves(values, [vector(0), vector(1)], scale);
                apply_signs(values, signs[4 * part + at]);
            }
        }
    });
}

/// The scale of a part of 32 numbers of IQ3_S.
#[inline(always)]
pub(super) fn iq3_s_scale(scale: f32, block: &[u8], part: usize) -> f32 {
    let packed = block[106 + part / 2] >> (part % 2 * 4) & 15;
    scale * f32::from(1 + 2 * packed)
}

/// The scales of 16 numbers each, from 4 bits each.
#[inline(always)]
fn sixteen_scales(scale: f32, packed: &[u8]) -> [f32; 16] {
    std::array::from_fn(|part| {
        let bits = packed[part / 2] >> (part % 2 * 4) & 15;
        scale * (0.5 + f32::from(bits)) * 0.25
    })
}

/// The signs of eight numbers, of which the lowest seven bits of `bits` are given.
#[inline(always)]
fn even_signs(bits: u32) -> u8 {
    EVEN_SIGNS[(bits & 127) as usize]
}

#[inline(always)]
fn scale_halves(values: &mut [f32; 8], [first, second]: [&[i8; 4]; 2], scale: f32) {
    let vector = [
        first[0], first[1], first[2], first[3], second[0], second[1], second[2], second[3],
    ];
    scale_vector(values, &vector, scale);
}

#[inline(always)]
fn scale_vector(values: &mut [f32; 8], vector: &[i8; 8], scale: f32) {
    for (value, &x) in values.iter_mut().zip(vector) {
        *value = scale * f32::from(x);
    }
}
