//! compressed-tensors: packed integers, bytes or FP8 with scales by tensor, output, group or block, as its `config_groups` say.
//!
//! Format: [compressed-tensors](https://github.com/vllm-project/compressed-tensors).

use super::float8;
use super::groups::{Scheme, Schemes, Strategy};
use super::matrix::{Codes, Groups, Matrix, ScaleSource, Scales, Zeros};
use super::module::{FLOATS, Module};
use super::packed::{Order, Packed, words_for};
use super::settings::Settings;
use crate::error::Error;

const PARTS: &[&str] = &[
    "weight",
    "weight_packed",
    "weight_scale",
    "weight_zero_point",
    "weight_shape",
    "weight_g_idx",
    "input_scale",
    "input_zero_point",
    "output_scale",
    "output_zero_point",
];

/// What the settings say.
pub(super) struct CompressedTensors<'a> {
    settings: &'a Settings,
    schemes: Schemes,
}

impl<'a> CompressedTensors<'a> {
    /// # Errors
    /// Settings of a variant that cannot be read.
    pub(super) fn new(settings: &'a Settings) -> Result<Self, Error> {
        Ok(Self {
            settings,
            schemes: Schemes::new(settings)?,
        })
    }

    /// The matrix of a module.
    ///
    /// # Errors
    /// Tensors whose shapes or types do not fit together, or not the settings.
    pub(super) fn matrix(&self, module: Module) -> Result<Matrix, Error> {
        let scheme = self.schemes.of(module.name).ok_or_else(|| {
            let problem = format!(
                "holds no scheme for `{}`, whose weight is quantised",
                module.name
            );
            self.settings.error("config_groups", problem)
        })?;
        if module.has("weight_packed") {
            packed(module, scheme)
        } else {
            bytes(module, scheme)
        }
    }
}

/// `weight_packed`: integers along the inputs.
fn packed(module: Module, scheme: &Scheme) -> Result<Matrix, Error> {
    let [outputs, words] = module.matrix("weight_packed", &["I32"])?;
    let inputs = inputs_of_packed(module, scheme, outputs, words)?;
    let (block, groups) = layout(module, scheme, [outputs, inputs])?;
    let num_groups = groups.count(inputs);
    let zeros = if scheme.symmetric {
        Zeros::Constant((1u32 << (scheme.bits - 1)) as f32)
    } else {
        let stored = words_for(outputs, scheme.bits).unwrap_or(usize::MAX);
        module.expect("weight_zero_point", &["I32"], &[stored, num_groups])?;
        Zeros::AlongRows {
            packed: Packed {
                tensor: module.tensor("weight_zero_point"),
                bits: scheme.bits,
                order: Order::Sequential,
                word_stride: num_groups,
                line_stride: 1,
            },
            plus: 0,
        }
    };
    if block[0] != 1 && !scheme.symmetric {
        let problem = "is there for scales that outputs share: only scales of single outputs have zeros of their own";
        return Err(module.error("weight_zero_point", problem));
    }
    Ok(Matrix {
        shape: [outputs, inputs],
        codes: Codes::AlongColumns(Packed {
            tensor: module.tensor("weight_packed"),
            bits: scheme.bits,
            order: Order::Sequential,
            word_stride: 1,
            line_stride: words,
        }),
        zeros,
        scales: scales(module, num_groups, block[0])?,
        groups,
        factor: 1.0,
        format: format!("packed int{}", scheme.bits),
        parts: module.present(PARTS),
    })
}

/// The inputs, which `weight_shape` says: the last word of a row may be filled in part.
fn inputs_of_packed(
    module: Module,
    scheme: &Scheme,
    outputs: usize,
    words: usize,
) -> Result<usize, Error> {
    if scheme.is_float || ![2, 4, 8].contains(&scheme.bits) {
        let problem = format!(
            "holds codes of {} bits: expected integers of 2, 4 or 8",
            scheme.bits
        );
        return Err(module.error("weight_packed", problem));
    }
    let part = "weight_shape";
    let sizes: Vec<i64> = match module.shape(part, &["I64", "I32"])? {
        [2] if module.bytes(part).len() == 16 => {
            let (sizes, _) = module.bytes(part).as_chunks();
            sizes.iter().map(|&size| i64::from_le_bytes(size)).collect()
        }
        [2] => module.integers(part).into_iter().map(i64::from).collect(),
        other => return Err(module.error(part, format!("is {other:?}, expected [2]"))),
    };
    let inputs = usize::try_from(sizes[1]).ok().filter(|&inputs| {
        inputs > 0
            && words_for(inputs, scheme.bits) == Some(words)
            && usize::try_from(sizes[0]) == Ok(outputs)
    });
    inputs.ok_or_else(|| {
        let problem = format!(
            "says {sizes:?}, but `weight_packed` is [{outputs}, {words}], of {} codes a word",
            32 / scheme.bits
        );
        module.error(part, problem)
    })
}

/// `weight`: a byte for each number.
fn bytes(module: Module, scheme: &Scheme) -> Result<Matrix, Error> {
    let dtype = if scheme.is_float { float8::DTYPE } else { "I8" };
    let shape = module.matrix("weight", &[dtype])?;
    let (block, groups) = layout(module, scheme, shape)?;
    let has_zeros = module.has("weight_zero_point");
    if has_zeros {
        let expected = module.shape("weight_scale", FLOATS)?;
        module.expect("weight_zero_point", &[dtype], expected)?;
    } else if !scheme.symmetric {
        module.shape("weight_zero_point", &[dtype])?;
    }
    let zeros = match (has_zeros, scheme.is_float) {
        (true, false) => Zeros::Bytes(module.tensor("weight_zero_point")),
        (true, true)
            if module
                .bytes("weight_zero_point")
                .iter()
                .any(|&zero| zero != 0) =>
        {
            let problem = "is not 0: FP8 with zeros of its own cannot be read";
            return Err(module.error("weight_zero_point", problem));
        }
        _ => Zeros::Constant(0.0),
    };
    Ok(Matrix {
        shape,
        codes: if scheme.is_float {
            float8::codes(module)
        } else {
            Codes::Bytes(module.tensor("weight"))
        },
        zeros,
        scales: scales(module, groups.count(shape[1]), block[0])?,
        groups,
        factor: 1.0,
        format: if scheme.is_float { "FP8 E4M3" } else { "int8" }.into(),
        parts: module.present(PARTS),
    })
}

/// The outputs and inputs that share a scale, and the groups of inputs.
fn layout(
    module: Module,
    scheme: &Scheme,
    [outputs, inputs]: [usize; 2],
) -> Result<([usize; 2], Groups), Error> {
    let block = match scheme.strategy {
        Strategy::Tensor => [outputs, inputs],
        Strategy::Channel => [1, inputs],
        Strategy::Group(size) => [1, size.min(inputs)],
        Strategy::Block(block) => block,
    };
    let expected = [outputs.div_ceil(block[0]), inputs.div_ceil(block[1])];
    let found = module.shape("weight_scale", FLOATS)?;
    let is_expected = match found {
        [] | [1] => expected == [1, 1],
        &[rows] => expected == [rows, 1],
        found => found == expected,
    };
    if !is_expected {
        let problem = format!("is {found:?}, expected {expected:?}");
        return Err(module.error("weight_scale", problem));
    }
    if !module.has("weight_g_idx") {
        return Ok((block, Groups::Of(block[1])));
    }
    module.expect("weight_g_idx", &["I32"], &[inputs])?;
    let listed = module.integers("weight_g_idx");
    // −1 throughout stands for groups in order.
    if listed.iter().all(|&group| group == -1) {
        return Ok((block, Groups::Of(block[1])));
    }
    let is_group = |&group: &i32| usize::try_from(group).is_ok_and(|group| group < expected[1]);
    if let Some(group) = listed.iter().find(|group| !is_group(group)) {
        let problem = format!("names group {group}, but there are {}", expected[1]);
        return Err(module.error("weight_g_idx", problem));
    }
    let listed = listed.into_iter().map(i32::cast_unsigned).collect();
    Ok((block, Groups::Listed(listed, expected[1])))
}

fn scales(module: Module, num_groups: usize, rows_per_scale: usize) -> Result<Scales, Error> {
    let part = "weight_scale";
    Ok(Scales {
        source: ScaleSource::Floats(module.tensor(part), module.float_dtype(part)?),
        rows_per_scale,
        row_stride: num_groups,
        group_stride: 1,
        places_per_scale: 1,
    })
}
