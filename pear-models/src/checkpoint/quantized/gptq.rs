//! GPTQ: integers of 2, 3, 4 or 8 bits, packed along the inputs, with a scale and a zero for each group of inputs and each output.
//!
//! Format: [AutoGPTQ](https://github.com/AutoGPTQ/AutoGPTQ) and [GPTQModel](https://github.com/ModelCloud/GPTQModel).

use super::matrix::{Codes, Groups, Matrix, ScaleSource, Scales, Zeros};
use super::module::{FLOATS, Module};
use super::packed::{Order, Packed};
use super::settings::Settings;
use crate::error::Error;

const PARTS: &[&str] = &["qweight", "qzeros", "scales", "g_idx"];

/// What the settings say of all modules.
pub(super) struct Gptq<'a> {
    settings: &'a Settings,
    bits: usize,
    group_size: Option<usize>,
    /// What was subtracted from the zeros before they were stored.
    zeros_less: u32,
    /// Whether single modules have settings of their own.
    has_overrides: bool,
}

impl<'a> Gptq<'a> {
    /// # Errors
    /// Settings of a variant that cannot be read.
    pub(super) fn new(settings: &'a Settings) -> Result<Self, Error> {
        let bits = settings.integer(&["bits", "w_bit"])?;
        let bits = match bits {
            Some(bits @ (2 | 3 | 4 | 8)) => bits as usize,
            Some(bits) => {
                return Err(settings.error("bits", format!("is {bits}: expected 2, 3, 4 or 8")));
            }
            None => return Err(settings.error("bits", "is missing")),
        };
        let repacked = |key: &str, format: &str| {
            let problem = format!(
                "is {format}: weights repacked for one kind of device cannot be read; use the checkpoint in the format gptq or \
                 gptq_v2 that it was made from"
            );
            Err(settings.error(key, problem))
        };
        if settings.flag("is_marlin_format") == Some(true) {
            return repacked("is_marlin_format", "true");
        }
        let key = ["checkpoint_format", "format"]
            .into_iter()
            .find(|key| settings.get(key).is_some());
        let zeros_less = match key.map(|key| (key, settings.text(key))) {
            None => 1,
            Some((key, format)) => match format? {
                Some("gptq") | None => 1,
                Some("gptq_v2") => 0,
                Some(format) => return repacked(key, &format!("`{format}`")),
            },
        };
        Ok(Self {
            settings,
            bits,
            group_size: settings.group_size(&["group_size"])?,
            zeros_less,
            has_overrides: settings.fills("dynamic"),
        })
    }

    /// The matrix of a module.
    ///
    /// # Errors
    /// Tensors whose shapes or types do not fit together, or not the settings.
    pub(super) fn matrix(&self, module: Module) -> Result<Matrix, Error> {
        let [words, outputs] = module.matrix("qweight", &["I32"])?;
        let [groups, zero_words] = module.matrix("qzeros", &["I32"])?;
        let bits = self.bits(module, outputs, zero_words)?;
        let inputs = words
            .checked_mul(32)
            .filter(|size| size.is_multiple_of(bits));
        let Some(inputs) = inputs.map(|size| size / bits) else {
            let problem = format!("is [{words}, {outputs}]: no whole number of {bits}-bit codes");
            return Err(module.error("qweight", problem));
        };
        module.expect("scales", FLOATS, &[groups, outputs])?;
        let groups = self.groups(module, inputs, groups)?;
        Ok(Matrix {
            shape: [outputs, inputs],
            codes: Codes::AlongColumns(Packed {
                tensor: module.tensor("qweight"),
                bits,
                order: Order::Sequential,
                word_stride: outputs,
                line_stride: 1,
            }),
            zeros: Zeros::AlongRows {
                packed: Packed {
                    tensor: module.tensor("qzeros"),
                    bits,
                    order: Order::Sequential,
                    word_stride: 1,
                    line_stride: zero_words,
                },
                plus: self.zeros_less,
            },
            scales: Scales {
                source: ScaleSource::Floats(module.tensor("scales"), module.float_dtype("scales")?),
                rows_per_scale: 1,
                row_stride: 1,
                group_stride: outputs,
                places_per_scale: 1,
            },
            groups,
            factor: 1.0,
            format: format!("GPTQ int{bits}"),
            parts: module.present(PARTS),
        })
    }

    /// The bits of a code: there are as many bits of zeros for each output.
    fn bits(&self, module: Module, outputs: usize, zero_words: usize) -> Result<usize, Error> {
        let bits = zero_words.saturating_mul(32) / outputs;
        let is_exact = bits.checked_mul(outputs) == zero_words.checked_mul(32);
        if !is_exact || ![2, 3, 4, 8].contains(&bits) || bits != self.bits && !self.has_overrides {
            let problem = format!(
                "has {zero_words} words for {outputs} zeros: expected {}, for {} bits each",
                (outputs * self.bits).div_ceil(32),
                self.bits
            );
            return Err(module.error("qzeros", problem));
        }
        Ok(bits)
    }

    fn groups(&self, module: Module, inputs: usize, groups: usize) -> Result<Groups, Error> {
        let mut size = self.group_size.unwrap_or(inputs).min(inputs);
        if self.has_overrides && inputs.is_multiple_of(groups) {
            size = inputs / groups;
        }
        if inputs.div_ceil(size) != groups {
            let problem = format!(
                "has {groups} groups, expected {}: {inputs} inputs in groups of {size}",
                inputs.div_ceil(size)
            );
            return Err(module.error("scales", problem));
        }
        if !module.has("g_idx") {
            if self.settings.flag("desc_act") == Some(true) && groups > 1 {
                return Err(module.error("g_idx", "is missing, though `desc_act` is true"));
            }
            return Ok(Groups::Of(size));
        }
        module.expect("g_idx", &["I32"], &[inputs])?;
        let listed = module.integers("g_idx");
        let outside = listed
            .iter()
            .find(|&&group| !usize::try_from(group).is_ok_and(|group| group < groups));
        if let Some(group) = outside {
            let problem = format!("names group {group}, but there are {groups}");
            return Err(module.error("g_idx", problem));
        }
        let is_in_order = listed
            .iter()
            .enumerate()
            .all(|(input, &group)| input / size == group as usize);
        if is_in_order {
            return Ok(Groups::Of(size));
        }
        if self.settings.flag("desc_act") == Some(false) && !self.has_overrides {
            let problem = "does not number groups in order, though `desc_act` is false: engines disagree on what that means";
            return Err(module.error("g_idx", problem));
        }
        let listed = listed.into_iter().map(i32::cast_unsigned).collect();
        Ok(Groups::Listed(listed, groups))
    }
}
