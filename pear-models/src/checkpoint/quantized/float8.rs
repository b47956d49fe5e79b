//! FP8: numbers of 8 bits (E4M3) with a scale for the tensor, for each output, or for each block of outputs and inputs.
//!
//! Formats: `fp8` as DeepSeek-V3 and Qwen3 publish it (`weight_scale_inv`, which multiplies in spite of its name) and as AutoFP8 does
//! (`weight_scale`), and `fbgemm_fp8`.

use super::matrix::{Codes, Groups, Matrix, ScaleSource, Scales, Zeros};
use super::module::{FLOATS, Module};
use super::settings::Settings;
use crate::error::Error;

pub(super) const DTYPE: &str = "F8_E4M3";
const SCALES: [&str; 2] = ["weight_scale_inv", "weight_scale"];
const PARTS: &[&str] = &[
    "weight",
    "weight_scale_inv",
    "weight_scale",
    "input_scale",
    "activation_scale",
    "input_scale_ub",
    "output_scale",
];

/// What the settings say of all modules.
pub(super) struct Fp8 {
    /// Outputs and inputs of a block.
    block: Option<[usize; 2]>,
}

impl Fp8 {
    /// # Errors
    /// A block that is no pair of positive numbers.
    pub(super) fn new(settings: &Settings) -> Result<Self, Error> {
        let block = match settings.get("weight_block_size") {
            None => None,
            Some(value) => Some(block_of(value).ok_or_else(|| {
                let problem = format!("is {value}: expected a list of two positive numbers");
                settings.error("weight_block_size", problem)
            })?),
        };
        Ok(Self { block })
    }

    /// The matrix of a module.
    ///
    /// # Errors
    /// Scales that are missing, or not of a shape that the settings allow.
    pub(super) fn matrix(&self, module: Module) -> Result<Matrix, Error> {
        let shape = module.matrix("weight", &[DTYPE])?;
        let part = SCALES.into_iter().find(|part| module.has(part));
        let part = part.unwrap_or(SCALES[usize::from(self.block.is_none())]);
        let [outputs, inputs] = shape;
        let (block, expected) = match (module.shape(part, FLOATS)?, self.block) {
            ([] | [1], None) => ([outputs, inputs], String::new()),
            (&[rows] | &[rows, 1], None) if rows == outputs => ([1, inputs], String::new()),
            (&[rows, columns], Some([height, width])) => {
                let expected = [outputs.div_ceil(height), inputs.div_ceil(width)];
                (
                    [height, width],
                    if [rows, columns] == expected {
                        String::new()
                    } else {
                        format!("{expected:?}")
                    },
                )
            }
            (_, None) => (
                [1, 1],
                format!("one scale, or [{outputs}, 1]: there is no `weight_block_size`"),
            ),
            (_, Some(block)) => ([1, 1], format!("one scale for each block of {block:?}")),
        };
        if !expected.is_empty() {
            let found = module.shape(part, FLOATS)?;
            return Err(module.error(part, format!("is {found:?}, expected {expected}")));
        }
        Ok(Matrix {
            shape,
            codes: codes(module),
            zeros: Zeros::Constant(0.0),
            scales: scales_of_blocks(module, part, inputs, block)?,
            groups: Groups::Of(block[1]),
            factor: 1.0,
            format: "FP8 E4M3".into(),
            parts: module.present(PARTS),
        })
    }
}

/// Two positive numbers.
pub(super) fn block_of(value: &serde_json::Value) -> Option<[usize; 2]> {
    let [height, width] = value.as_array()?.as_slice() else {
        return None;
    };
    let size = |value: &serde_json::Value| {
        let size = usize::try_from(value.as_u64()?).ok()?;
        (size > 0).then_some(size)
    };
    Some([size(height)?, size(width)?])
}

/// A module's `weight` as codes.
pub(super) fn codes(module: Module) -> Codes {
    let table: [f32; 256] = std::array::from_fn(|code| e4m3(code as u8));
    Codes::Table8(module.tensor("weight"), Box::new(table))
}

/// Scales that stand like the blocks of a matrix with so many inputs.
pub(super) fn scales_of_blocks(
    module: Module,
    part: &str,
    inputs: usize,
    [height, width]: [usize; 2],
) -> Result<Scales, Error> {
    Ok(Scales {
        source: ScaleSource::Floats(module.tensor(part), module.float_dtype(part)?),
        rows_per_scale: height,
        row_stride: inputs.div_ceil(width),
        group_stride: 1,
        places_per_scale: 1,
    })
}

/// The number that a code stands for: sign, 4 bits of exponent with bias 7, 3 bits of mantissa; no infinities, one NaN of either sign.
fn e4m3(code: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7));
    let size = match (exponent, code & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa * 2f32.powi(-9),
        _ => (8.0 + mantissa) * 2f32.powi(exponent - 10),
    };
    if code >> 7 == 1 { -size } else { size }
}

#[cfg(test)]
mod tests {
    use super::e4m3;

    #[test]
    fn codes_are_the_numbers_of_the_format() {
        for (code, number) in [
            (0x00, 0.0),
            (0x01, 0.001953125),
            (0x07, 0.013671875),
            (0x08, 0.015625),
            (0x38, 1.0),
            (0x39, 1.125),
            (0x7e, 448.0),
            (0xb8, -1.0),
            (0xfe, -448.0),
        ] {
            assert_eq!(e4m3(code), number, "{code:#x}");
        }
        assert!(e4m3(0x7f).is_nan() && e4m3(0xff).is_nan());
        assert!(e4m3(0x80).is_sign_negative());
    }
}
