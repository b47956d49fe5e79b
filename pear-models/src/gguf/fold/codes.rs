//! The codes of one type in the blocks of another, which has a scale for every 32 numbers.

use super::scales::scaled;
use crate::gguf::dequantize::{IQ4_VALUES, each_part};
use crate::gguf::ggml_type::GgmlType;

/// The type that holds the codes of another as they are.
pub(super) fn type_for_codes(ty: GgmlType) -> Option<GgmlType> {
    match ty {
        GgmlType::Q4_K => Some(GgmlType::Q4_1),
        GgmlType::Q5_K => Some(GgmlType::Q5_1),
        GgmlType::IQ4_XS => Some(GgmlType::IQ4_NL),
        GgmlType::Q3_K
        | GgmlType::IQ1_S
        | GgmlType::IQ2_XXS
        | GgmlType::IQ3_XXS
        | GgmlType::IQ3_S
        | GgmlType::MXFP4
        | GgmlType::Q1_0
        | GgmlType::TQ1_0
        | GgmlType::TQ2_0 => Some(GgmlType::Q8_0),
        _ => None,
    }
}

/// Appends a block of `ty` as blocks of [`type_for_codes`], with a factor for every 32 numbers.
pub(super) fn recode(ty: GgmlType, block: &[u8], factors: &[f32], into: &mut Vec<u8>) {
    let mut factors = factors.iter();
    each_part(ty, block, |part| {
        let factor = factors.next().copied().unwrap_or(1.0);
        into.extend(scaled(part.scale, factor));
        match ty {
            GgmlType::Q4_K => {
                into.extend(scaled(part.offset, factor));
                into.extend(lower_halves(&part.codes.map(|code| code as u8)));
            }
            GgmlType::Q5_K => {
                into.extend(scaled(part.offset, factor));
                let codes = part.codes.map(|code| code as u8);
                into.extend(fifth_bits(&codes).to_le_bytes());
                into.extend(lower_halves(&codes));
            }
            GgmlType::IQ4_XS => into.extend(lower_halves(&part.codes.map(index_of))),
            _ => into.extend(part.codes.map(|code| code as u8)),
        }
    });
}

/// The lower four bits of 32 codes in 16 bytes: those of the first 16 below those of the others.
fn lower_halves(codes: &[u8; 32]) -> [u8; 16] {
    std::array::from_fn(|at| codes[at] & 15 | codes[at + 16] << 4)
}

/// The fifth bits of 32 codes, the lowest bit for the first code.
fn fifth_bits(codes: &[u8; 32]) -> u32 {
    (0..32).fold(0, |bits, at| bits | u32::from(codes[at] >> 4 & 1) << at)
}

/// The code of IQ4_NL that stands for a number; any for one that none stands for, where the scale is zero.
fn index_of(value: i8) -> u8 {
    let index = IQ4_VALUES.iter().position(|&x| x == f32::from(value));
    index.unwrap_or_default() as u8
}
