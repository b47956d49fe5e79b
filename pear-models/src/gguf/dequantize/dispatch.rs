//! Every type to its decoder.

use super::{iq, iq1, k, numbers, scaled, table, ternary};
use crate::gguf::ggml_type::GgmlType;

/// Decodes whole blocks, as many as `into` has room for. Integers are converted to the nearest number.
pub(crate) fn dequantize(ty: GgmlType, blocks: &[u8], into: &mut [f32]) {
    debug_assert_eq!(ty.row_bytes(into.len()), Some(blocks.len()));
    match ty {
        GgmlType::F32 => numbers::each(blocks, into, f32::from_le_bytes),
        GgmlType::F16 => numbers::f16(blocks, into),
        GgmlType::BF16 => numbers::bf16(blocks, into),
        GgmlType::F64 => numbers::each(blocks, into, |x| f64::from_le_bytes(x) as f32),
        GgmlType::I8 => numbers::each(blocks, into, |x| i8::from_le_bytes(x) as f32),
        GgmlType::I16 => numbers::each(blocks, into, |x| i16::from_le_bytes(x) as f32),
        GgmlType::I32 => numbers::each(blocks, into, |x| i32::from_le_bytes(x) as f32),
        GgmlType::I64 => numbers::each(blocks, into, |x| i64::from_le_bytes(x) as f32),
        GgmlType::Q1_0 => scaled::q1_0(blocks, into),
        GgmlType::Q4_0 => scaled::q4_0(blocks, into),
        GgmlType::Q4_1 => scaled::q4_1(blocks, into),
        GgmlType::Q5_0 => scaled::q5_0(blocks, into),
        GgmlType::Q5_1 => scaled::q5_1(blocks, into),
        GgmlType::Q8_0 => scaled::q8_0(blocks, into),
        GgmlType::Q8_1 => scaled::q8_1(blocks, into),
        GgmlType::Q8_K => scaled::q8_k(blocks, into),
        GgmlType::Q2_K => k::q2_k(blocks, into),
        GgmlType::Q3_K => k::q3_k(blocks, into),
        GgmlType::Q4_K => k::q4_k(blocks, into),
        GgmlType::Q5_K => k::q5_k(blocks, into),
        GgmlType::Q6_K => k::q6_k(blocks, into),
        GgmlType::IQ1_S => iq1::iq1_s(blocks, into),
        GgmlType::IQ1_M => iq1::iq1_m(blocks, into),
        GgmlType::IQ2_XXS => iq::iq2_xxs(blocks, into),
        GgmlType::IQ2_XS => iq::iq2_xs(blocks, into),
        GgmlType::IQ2_S => iq::iq2_s(blocks, into),
        GgmlType::IQ3_XXS => iq::iq3_xxs(blocks, into),
        GgmlType::IQ3_S => iq::iq3_s(blocks, into),
        GgmlType::IQ4_NL => table::iq4_nl(blocks, into),
        GgmlType::IQ4_XS => table::iq4_xs(blocks, into),
        GgmlType::MXFP4 => table::mxfp4(blocks, into),
        GgmlType::NVFP4 => table::nvfp4(blocks, into),
        GgmlType::TQ1_0 => ternary::tq1_0(blocks, into),
        GgmlType::TQ2_0 => ternary::tq2_0(blocks, into),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    /// What `tests/fixtures/gguf/dequantize.py` writes.
    #[derive(Deserialize)]
    struct Reference {
        blocks: usize,
        hashes: BTreeMap<String, String>,
    }

    /// The generator of the script.
    fn random_bytes(seed: u32, count: usize) -> Vec<u8> {
        let mut state = u64::from(seed);
        let mut draw = || {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 56) as u8
        };
        (0..count).map(|_| draw()).collect()
    }

    /// The hash of the script: FNV-1a, with one pattern for all that are no numbers.
    fn hash(values: &[f32]) -> String {
        let state = values.iter().fold(0xcbf2_9ce4_8422_2325, |state, value| {
            let bits = if value.is_nan() {
                0x7fc0_0000
            } else {
                value.to_bits()
            };
            (state ^ u64::from(bits)).wrapping_mul(0x100_0000_01b3)
        });
        format!("{state:016x}")
    }

    fn decoded(ty: GgmlType, blocks: &[u8]) -> Vec<f32> {
        let mut values = vec![f32::NAN; blocks.len() / ty.block_bytes() * ty.block_len()];
        dequantize(ty, blocks, &mut values);
        values
    }

    #[test]
    fn every_bit_is_that_of_gguf_py() {
        let reference: Reference =
            serde_json::from_str(include_str!("../../../tests/fixtures/gguf/dequantize.json"))
                .unwrap();
        let without: Vec<&str> = GgmlType::ALL
            .into_iter()
            .filter(|ty| {
                let Some(expected) = reference.hashes.get(ty.name()) else {
                    return true;
                };
                let blocks = random_bytes(ty.id(), reference.blocks * ty.block_bytes());
                assert_eq!(hash(&decoded(*ty, &blocks)), *expected, "{ty}");
                false
            })
            .map(GgmlType::name)
            .collect();
        assert_eq!(
            without,
            ["Q8_1", "Q8_K", "I8", "I16", "I32", "I64", "F64", "Q1_0"]
        );
    }

    #[test]
    fn types_that_gguf_py_lacks_are_as_ggml_defines_them() {
        // Half precision: 1.5 is 0x3e00.
        let mut q8_1 = vec![0x00, 0x3e, 0xff, 0xff];
        q8_1.extend((0..32).map(|code| code - 16));
        let expected: Vec<f32> = (0..32).map(|code| 1.5 * (code as f32 - 16.0)).collect();
        assert_eq!(decoded(GgmlType::Q8_1, &q8_1), expected);

        let mut q8_k = (-0.5f32).to_le_bytes().to_vec();
        q8_k.extend(0..=255);
        q8_k.extend([0xff; 32]);
        let expected: Vec<f32> = (0..=255)
            .map(|code| -0.5 * f32::from(code as u8 as i8))
            .collect();
        assert_eq!(decoded(GgmlType::Q8_K, &q8_k), expected);

        let mut q1_0 = vec![0x00, 0x3e, 0b0000_0101];
        q1_0.extend([0xff; 15]);
        let values = decoded(GgmlType::Q1_0, &q1_0);
        assert_eq!(values[..8], [1.5, -1.5, 1.5, -1.5, -1.5, -1.5, -1.5, -1.5]);
        assert!(values[8..].iter().all(|&value| value == 1.5));
    }

    #[test]
    fn integers_and_double_precision_become_the_nearest_numbers() {
        assert_eq!(decoded(GgmlType::I8, &[0xff, 7]), [-1.0, 7.0]);
        assert_eq!(decoded(GgmlType::I16, &(-300i16).to_le_bytes()), [-300.0]);
        assert_eq!(decoded(GgmlType::I32, &70_000i32.to_le_bytes()), [70_000.0]);
        assert_eq!(
            decoded(GgmlType::I64, &(1i64 << 40).to_le_bytes()),
            [2f32.powi(40)]
        );
        assert_eq!(decoded(GgmlType::F64, &0.1f64.to_le_bytes()), [0.1]);
    }
}
