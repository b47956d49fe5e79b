//! Types whose codes of 4 bits stand for the numbers of a table.

use super::blocks::{each_block, f16_at, u16_at};

/// What the codes of IQ4_NL and IQ4_XS stand for (`kvalues_iq4nl` of ggml).
pub(in crate::gguf) const IQ4_VALUES: [f32; 16] = [
    -127., -104., -83., -65., -49., -35., -22., -10., 1., 13., 25., 38., 53., 69., 89., 113.,
];

/// What the codes of MXFP4 and NVFP4 stand for, doubled: the numbers of the format e2m1
/// ([OCP microscaling formats](https://www.opencompute.org/documents/ocp-microscaling-formats-mx-v1-0-spec-final-pdf)).
const E2M1: [f32; 16] = [
    0., 1., 2., 3., 4., 6., 8., 12., 0., -1., -2., -3., -4., -6., -8., -12.,
];

/// Scale; codes.
pub(super) fn iq4_nl(bytes: &[u8], into: &mut [f32]) {
    each_block(bytes, into, |block: &[u8; 18], values: &mut [f32; 32]| {
        look_up(&IQ4_VALUES, &block[2..], f16_at(block, 0), values);
    });
}

/// Scale; signed scales of 6 bits for 8 parts, the upper two bits first; codes.
pub(super) fn iq4_xs(bytes: &[u8], into: &mut [f32]) {
    each_block(bytes, into, |block: &[u8; 136], values: &mut [f32; 256]| {
        let scales = iq4_xs_scales(block);
        let (parts, _) = values.as_chunks_mut::<32>();
        let codes = block[8..].as_chunks::<16>().0;
        for (values, (codes, scale)) in parts.iter_mut().zip(codes.iter().zip(scales)) {
            look_up(&IQ4_VALUES, codes, scale, values);
        }
    });
}

/// The scale of each part of an IQ4_XS block.
pub(super) fn iq4_xs_scales(block: &[u8]) -> [f32; 8] {
    let (scale, upper) = (f16_at(block, 0), u16_at(block, 2));
    std::array::from_fn(|part| {
        let low = block[4 + part / 2] >> (part % 2 * 4) & 15;
        let high = (upper >> (2 * part) & 3) as u8;
        scale * f32::from((low | high << 4) as i8 - 32)
    })
}

/// Exponent of a power of two; codes.
pub(super) fn mxfp4(bytes: &[u8], into: &mut [f32]) {
    each_block(bytes, into, |block: &[u8; 17], values: &mut [f32; 32]| {
        look_up(&E2M1, &block[1..], half_of_e8m0(block[0]), values);
    });
}

/// Half of the power of two that a byte stands for, as the table is doubled. The lowest two are subnormal.
pub(super) fn half_of_e8m0(exponent: u8) -> f32 {
    f32::from_bits(match exponent {
        0 => 1 << 21,
        1 => 1 << 22,
        _ => u32::from(exponent - 1) << 23,
    })
}

/// Scales in 8 bits for four parts of 16 numbers; codes.
pub(super) fn nvfp4(bytes: &[u8], into: &mut [f32]) {
    each_block(bytes, into, |block: &[u8; 36], values: &mut [f32; 64]| {
        let (parts, _) = values.as_chunks_mut::<16>();
        let codes = block[4..].as_chunks::<8>().0;
        for (values, (codes, &scale)) in parts.iter_mut().zip(codes.iter().zip(&block[..4])) {
            look_up(&E2M1, codes, half_of_e4m3(scale), values);
        }
    });
}

/// Half of the number that a byte stands for in the format e4m3 without a sign, as the table is doubled. The number that is none is zero.
fn half_of_e4m3(byte: u8) -> f32 {
    let (exponent, mantissa) = (byte >> 3 & 15, f32::from(byte & 7));
    match exponent {
        _ if byte == 0x7f => 0.0,
        0 => mantissa / 1024.0,
        _ => (1.0 + mantissa / 8.0) * f32::from_bits((u32::from(exponent) + 119) << 23),
    }
}

/// The lower halves of the codes are for the first half of the numbers, the upper ones for the second.
#[inline(always)]
fn look_up(table: &[f32; 16], codes: &[u8], scale: f32, values: &mut [f32]) {
    let (first, second) = values.split_at_mut(codes.len());
    for ((&codes, low), high) in codes.iter().zip(first).zip(second) {
        *low = scale * table[usize::from(codes & 15)];
        *high = scale * table[usize::from(codes >> 4)];
    }
}
