//! Blocks as whole numbers, a scale for every 32 of them: what another type can hold as it is.

use super::blocks::{f16_at, u16_at, u32_at};
use super::dispatch::dequantize;
use super::iq::{iq2_xxs_scale, iq3_s_scale, iq3_xxs_scale};
use super::iq1::iq1_s_scale;
use super::k::scales_and_mins;
use super::table::{half_of_e8m0, iq4_xs_scales};
use crate::gguf::ggml_type::GgmlType;

/// Numbers in the largest block.
const LARGEST: usize = 256;

/// 32 numbers: whole numbers times a scale, plus an offset.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::gguf) struct Part {
    pub scale: f32,
    pub offset: f32,
    pub codes: [i8; 32],
}

/// Hands out the parts of a block one by one; none for a type whose numbers have a scale for fewer than 32 of them, or no codes of 8 bits.
///
/// Scales, offsets and products of a scale and a code have few enough digits to be exact.
pub(in crate::gguf) fn each_part(ty: GgmlType, block: &[u8], mut take: impl FnMut(Part)) {
    let mut values = [0.0; LARGEST];
    let values = &mut values[..ty.block_len()];
    match ty {
        GgmlType::Q4_K | GgmlType::Q5_K => {
            // Without their minima, numbers are multiples of their scales.
            let mut without_mins = [0; 176];
            let without_mins = &mut without_mins[..block.len()];
            without_mins.copy_from_slice(block);
            without_mins[2..4].fill(0);
            dequantize(ty, without_mins, values);
        }
        _ => dequantize(ty, block, values),
    }
    let (parts, _) = values.as_chunks::<32>();
    for (part, values) in parts.iter().enumerate() {
        let Some((scale, offset)) = scale_and_offset(ty, block, part) else {
            return;
        };
        // A scale of zero hides the codes, which do not matter then.
        let codes = values.map(|value| {
            if scale == 0.0 {
                0
            } else {
                (value / scale).round() as i8
            }
        });
        take(Part {
            scale,
            offset,
            codes,
        });
    }
}

/// The scale and the offset of 32 numbers of a block.
fn scale_and_offset(ty: GgmlType, block: &[u8], part: usize) -> Option<(f32, f32)> {
    let scale = match ty {
        GgmlType::Q4_K | GgmlType::Q5_K => {
            let (scale, min) = scales_and_mins(block)[part];
            return Some((scale, -min));
        }
        // The products of codes from −4 to 3 and scales from −32 to 31 reach from −124 to 128: codes of 8 bits hold their opposites.
        GgmlType::Q3_K => -f16_at(block, 108),
        GgmlType::IQ4_XS => iq4_xs_scales(block)[part],
        GgmlType::IQ3_S => iq3_s_scale(f16_at(block, 0), block, part),
        GgmlType::IQ3_XXS => iq3_xxs_scale(f16_at(block, 0), u32_at(block, 66 + 4 * part)),
        GgmlType::IQ2_XXS => iq2_xxs_scale(f16_at(block, 0), u32_at(block, 6 + 8 * part)),
        // In eighths.
        GgmlType::IQ1_S => iq1_s_scale(f16_at(block, 0), u16_at(block, 34 + 2 * part)) / 8.0,
        GgmlType::TQ1_0 => f16_at(block, 52),
        GgmlType::TQ2_0 => f16_at(block, 64),
        GgmlType::Q1_0 => f16_at(block, 0),
        GgmlType::MXFP4 => half_of_e8m0(block[0]),
        _ => return None,
    };
    Some((scale, 0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_scales_and_offsets_are_the_numbers() {
        let mut state = 1u64;
        let mut byte = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
            (state >> 56) as u8
        };
        let mut with_parts = Vec::new();
        for ty in GgmlType::ALL {
            let mut count = 0;
            for _ in 0..500 {
                let block: Vec<u8> = (0..ty.block_bytes()).map(|_| byte()).collect();
                let mut values = [0.0; LARGEST];
                dequantize(ty, &block, &mut values[..ty.block_len()]);
                let mut at = 0;
                each_part(ty, &block, |part| {
                    count += 1;
                    for (code, value) in part.codes.iter().zip(&values[at..at + 32]) {
                        let product = part.scale * f32::from(*code) + part.offset;
                        assert!(product == *value || !value.is_finite(), "{ty}: {part:?}");
                    }
                    at += 32;
                });
            }
            if count > 0 {
                assert_eq!(count, 500 * ty.block_len() / 32, "{ty}");
                with_parts.push(ty.name());
            }
        }
        assert_eq!(
            with_parts,
            [
                "Q3_K", "Q4_K", "Q5_K", "IQ2_XXS", "IQ3_XXS", "IQ1_S", "IQ3_S", "IQ4_XS", "TQ1_0",
                "TQ2_0", "MXFP4", "Q1_0"
            ]
        );
    }
}
