//! Types whose numbers stand alone.

use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

/// Numbers that are converted at once, few enough to stay in the first-level cache.
const PIECE: usize = 1024;

/// Numbers of `BYTES` bytes, each converted by itself.
#[inline(always)]
pub(super) fn each<const BYTES: usize>(
    bytes: &[u8],
    into: &mut [f32],
    convert: impl Fn([u8; BYTES]) -> f32,
) {
    let (numbers, _) = bytes.as_chunks();
    for (value, number) in into.iter_mut().zip(numbers) {
        *value = convert(*number);
    }
}

/// Half precision.
pub(super) fn f16(bytes: &[u8], into: &mut [f32]) {
    let (numbers, _) = bytes.as_chunks();
    for (values, numbers) in into.chunks_mut(PIECE).zip(numbers.chunks(PIECE)) {
        let mut bits = [0; PIECE];
        for (bits, number) in bits.iter_mut().zip(numbers) {
            *bits = u16::from_le_bytes(*number);
        }
        bits[..values.len()]
            .reinterpret_cast::<f16>()
            .convert_to_f32_slice(values);
    }
}

/// The upper half of single precision.
pub(super) fn bf16(bytes: &[u8], into: &mut [f32]) {
    each(bytes, into, |number| {
        f32::from_bits(u32::from(u16::from_le_bytes(number)) << 16)
    });
}
