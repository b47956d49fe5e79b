//! Scales in half precision to which all numbers of a block are proportional.

use half::f16;

use crate::gguf::ggml_type::GgmlType;

/// The bytes at which the scales of a block stand, and its offsets where it has some; none for types whose scales are not in half
/// precision or, in IQ1_M, divided among other fields.
pub(super) fn scale_fields(ty: GgmlType) -> &'static [usize] {
    match ty {
        GgmlType::Q1_0
        | GgmlType::Q4_0
        | GgmlType::Q5_0
        | GgmlType::Q8_0
        | GgmlType::IQ4_NL
        | GgmlType::IQ1_S
        | GgmlType::IQ2_XXS
        | GgmlType::IQ2_XS
        | GgmlType::IQ2_S
        | GgmlType::IQ3_XXS
        | GgmlType::IQ3_S
        | GgmlType::IQ4_XS => &[0],
        GgmlType::Q4_1 | GgmlType::Q5_1 | GgmlType::Q8_1 | GgmlType::Q4_K | GgmlType::Q5_K => {
            &[0, 2]
        }
        GgmlType::Q2_K => &[80, 82],
        GgmlType::Q3_K => &[108],
        GgmlType::Q6_K => &[208],
        GgmlType::TQ1_0 => &[52],
        GgmlType::TQ2_0 => &[64],
        _ => &[],
    }
}

/// Multiplies the scales of a block, rounding each once.
pub(super) fn scale_block(block: &mut [u8], fields: &[usize], factor: f32) {
    for &at in fields {
        let scale = f16::from_le_bytes([block[at], block[at + 1]]);
        block[at..at + 2].copy_from_slice(&scaled(scale.to_f32(), factor));
    }
}

/// The product of a scale and a factor in half precision.
pub(super) fn scaled(scale: f32, factor: f32) -> [u8; 2] {
    f16::from_f64(f64::from(scale) * f64::from(factor)).to_le_bytes()
}
