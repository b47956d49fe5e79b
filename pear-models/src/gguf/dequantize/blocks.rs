//! Walking over blocks, and reading their fields.

use half::f16;

/// Decodes each block of `BYTES` bytes to its `LEN` numbers.
#[inline(always)]
pub(super) fn each_block<const BYTES: usize, const LEN: usize>(
    bytes: &[u8],
    into: &mut [f32],
    decode: impl Fn(&[u8; BYTES], &mut [f32; LEN]),
) {
    let (blocks, _) = bytes.as_chunks();
    let (into, _) = into.as_chunks_mut();
    for (block, values) in blocks.iter().zip(into) {
        decode(block, values);
    }
}

/// The half-precision number at a byte of a block.
#[inline(always)]
pub(super) fn f16_at(block: &[u8], at: usize) -> f32 {
    f16::from_bits(u16_at(block, at)).to_f32()
}

#[inline(always)]
pub(super) fn u16_at(block: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([block[at], block[at + 1]])
}

#[inline(always)]
pub(super) fn u32_at(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

/// Negates the numbers whose bits in `signs` are set, the lowest bit for the first number.
#[inline(always)]
pub(super) fn apply_signs<const LEN: usize>(values: &mut [f32; LEN], signs: u8) {
    for (index, value) in values.iter_mut().enumerate() {
        let is_negative = u32::from(signs) & (1 << index) != 0;
        let sign_bit = if is_negative { 1 << 31 } else { 0 };
        *value = f32::from_bits(value.to_bits() ^ sign_bit);
    }
}
