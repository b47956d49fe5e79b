//! AWQ: integers of 4 bits with a scale and a zero for each group of inputs and each output.
//!
//! Format: [AutoAWQ](https://github.com/casper-hansen/AutoAWQ). `gemm` packs codes along the outputs, those at even places of eight first;
//! `gemv` packs them along the inputs, in their order.

use super::matrix::{Codes, Groups, Matrix, ScaleSource, Scales, Zeros};
use super::module::{FLOATS, Module};
use super::packed::{Order, Packed};
use super::settings::Settings;
use crate::error::Error;

const BITS: usize = 4;
/// Codes in a word.
const PER_WORD: usize = 8;
const PARTS: &[&str] = &["qweight", "qzeros", "scales"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    Gemm,
    Gemv,
}

/// What the settings say of all modules.
pub(super) struct Awq {
    layout: Layout,
    group_size: Option<usize>,
}

impl Awq {
    /// # Errors
    /// Settings of a variant that cannot be read.
    pub(super) fn new(settings: &Settings) -> Result<Self, Error> {
        match settings.integer(&["bits", "w_bit"])? {
            Some(4) | None => {}
            Some(bits) => return Err(settings.error("bits", format!("is {bits}: expected 4"))),
        }
        let key = ["version", "format"]
            .into_iter()
            .find(|key| settings.get(key).is_some())
            .unwrap_or("version");
        let layout = match settings
            .text(key)?
            .unwrap_or("gemm")
            .to_lowercase()
            .as_str()
        {
            "gemm" => Layout::Gemm,
            "gemv" => Layout::Gemv,
            other => {
                let problem = format!(
                    "is `{other}`: expected gemm or gemv; use a checkpoint in one of these formats, as AutoAWQ writes them"
                );
                return Err(settings.error(key, problem));
            }
        };
        Ok(Self {
            layout,
            group_size: settings.group_size(&["group_size", "q_group_size"])?,
        })
    }

    /// The matrix of a module.
    ///
    /// # Errors
    /// Tensors whose shapes or types do not fit together, or not the settings.
    pub(super) fn matrix(&self, module: Module) -> Result<Matrix, Error> {
        let [lines, words] = module.matrix("qweight", &["I32"])?;
        let Some(packed) = words.checked_mul(PER_WORD) else {
            return Err(module.error("qweight", format!("is [{lines}, {words}]: too large")));
        };
        let codes = packed_words(module, "qweight", words);
        let source = ScaleSource::Floats(module.tensor("scales"), module.float_dtype("scales")?);
        let (shape, codes, zeros, strides, size) = match self.layout {
            Layout::Gemm => {
                let (inputs, outputs) = (lines, packed);
                let size = self.group_size(inputs);
                let groups = inputs.div_ceil(size);
                module.expect("qzeros", &["I32"], &[groups, words])?;
                module.expect("scales", FLOATS, &[groups, outputs])?;
                let even_odd = |part| Packed {
                    order: Order::EvenOdd,
                    ..packed_words(module, part, words)
                };
                let codes = Codes::AlongRows(even_odd("qweight"));
                let packed = even_odd("qzeros");
                let zeros = Zeros::AlongRows { packed, plus: 0 };
                ([outputs, inputs], codes, zeros, (1, outputs), size)
            }
            Layout::Gemv => {
                let (outputs, inputs) = (lines, packed);
                let size = self.group_size(inputs);
                let groups = inputs.div_ceil(size);
                // Rows of zeros and scales are padded.
                let [_, zero_words] = module.matrix("qzeros", &["I32"])?;
                let padded = zero_words.saturating_mul(PER_WORD);
                if padded < groups {
                    let problem = format!(
                        "has {zero_words} words a row: too few for {groups} groups of {size}"
                    );
                    return Err(module.error("qzeros", problem));
                }
                module.expect("qzeros", &["I32"], &[outputs, zero_words])?;
                module.expect("scales", FLOATS, &[outputs, padded])?;
                let zeros = Zeros::AlongGroups(packed_words(module, "qzeros", zero_words));
                (
                    [outputs, inputs],
                    Codes::AlongColumns(codes),
                    zeros,
                    (padded, 1),
                    size,
                )
            }
        };
        let (row_stride, group_stride) = strides;
        Ok(Matrix {
            shape,
            codes,
            zeros,
            scales: Scales {
                source,
                rows_per_scale: 1,
                row_stride,
                group_stride,
                places_per_scale: 1,
            },
            groups: Groups::Of(size),
            factor: 1.0,
            format: "AWQ int4".into(),
            parts: module.present(PARTS),
        })
    }

    fn group_size(&self, inputs: usize) -> usize {
        self.group_size.unwrap_or(inputs).min(inputs)
    }
}

/// A tensor of lines of so many words, packed in their order.
fn packed_words(module: Module, part: &str, words: usize) -> Packed {
    Packed {
        tensor: module.tensor(part),
        bits: BITS,
        order: Order::Sequential,
        word_stride: 1,
        line_stride: words,
    }
}
