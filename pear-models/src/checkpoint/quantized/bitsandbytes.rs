//! bitsandbytes: NF4 and FP4, indices of 16 numbers in blocks with a scale each, and LLM.int8, bytes with a scale for each output.
//!
//! Format: [bitsandbytes](https://github.com/bitsandbytes-foundation/bitsandbytes).

use serde::Deserialize;

use super::matrix::{Codes, Groups, Matrix, ScaleSource, Scales, Zeros};
use super::module::Module;
use crate::checkpoint::convert::FloatDtype;
use crate::error::Error;

/// The tensors whose presence says that a module is stored in 4 bits.
pub(super) const STATES: [&str; 2] = [
    "weight.quant_state.bitsandbytes__nf4",
    "weight.quant_state.bitsandbytes__fp4",
];
const PARTS_4BIT: &[&str] = &[
    "weight",
    "weight.absmax",
    "weight.quant_map",
    "weight.nested_absmax",
    "weight.nested_quant_map",
    STATES[0],
    STATES[1],
];
const PARTS_INT8: &[&str] = &["weight", "SCB", "weight_format"];
/// The types that the packed bytes may be declared as.
const STORAGE: &[&str] = &["U8", "I8", "BF16", "F16", "F32"];
/// 1/127 as bitsandbytes writes it.
const PER_CODE: f32 = 7.874_016e-3;

/// What `quant_state` says.
#[derive(Deserialize)]
struct State {
    blocksize: usize,
    shape: Vec<usize>,
    nested_blocksize: Option<usize>,
    nested_offset: Option<f64>,
}

/// The matrix of a module, which is in 4 bits if it has a `quant_state`, and in 8 otherwise.
///
/// # Errors
/// Tensors whose shapes or types do not fit together.
pub(super) fn matrix(module: Module) -> Result<Matrix, Error> {
    match STATES.into_iter().find(|part| module.has(part)) {
        Some(state) => four_bits(module, state),
        None => int8(module),
    }
}

fn four_bits(module: Module, state_part: &str) -> Result<Matrix, Error> {
    let state = read_state(module, state_part)?;
    let [outputs, inputs] = check_codes(module, state_part, &state)?;
    // Blocks run on from row to row.
    let blocks = (outputs * inputs).div_ceil(state.blocksize);
    let group = greatest_common_divisor(inputs, state.blocksize);
    let source = match (state.nested_blocksize, state.nested_offset) {
        (Some(nested), Some(offset)) => {
            if nested == 0 {
                return Err(module.error(state_part, "has blocks of 0"));
            }
            module.expect("weight.absmax", &["U8"], &[blocks])?;
            module.expect("weight.nested_absmax", &["F32"], &[blocks.div_ceil(nested)])?;
            module.expect("weight.nested_quant_map", &["F32"], &[256])?;
            ScaleSource::Nested {
                codes: module.tensor("weight.absmax"),
                table: Box::new(table(module.bytes("weight.nested_quant_map"))),
                scales: module.tensor("weight.nested_absmax"),
                block: nested,
                offset: offset as f32,
            }
        }
        _ => {
            module.expect("weight.absmax", &["F32"], &[blocks])?;
            ScaleSource::Floats(module.tensor("weight.absmax"), FloatDtype::F32)
        }
    };
    module.expect("weight.quant_map", &["F32"], &[16])?;
    let is_nf4 = state_part == STATES[0];
    Ok(Matrix {
        shape: [outputs, inputs],
        codes: Codes::Table4(
            module.tensor("weight"),
            table(module.bytes("weight.quant_map")),
        ),
        zeros: Zeros::Constant(0.0),
        scales: Scales {
            source,
            rows_per_scale: 1,
            row_stride: inputs / group,
            group_stride: 1,
            places_per_scale: state.blocksize / group,
        },
        groups: Groups::Of(group),
        factor: 1.0,
        format: if is_nf4 { "NF4" } else { "FP4" }.into(),
        parts: module.present(PARTS_4BIT),
    })
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 {
        a
    } else {
        greatest_common_divisor(b, a % b)
    }
}

fn read_state(module: Module, part: &str) -> Result<State, Error> {
    module.shape(part, &["U8"])?;
    serde_json::from_slice(module.bytes(part)).map_err(|e| {
        module.error(
            part,
            format!("is not the JSON that bitsandbytes writes: {e}"),
        )
    })
}

/// The shape, if the codes are as many as it says.
fn check_codes(module: Module, state_part: &str, state: &State) -> Result<[usize; 2], Error> {
    let shape = module.shape("weight", STORAGE)?;
    let stored = module.bytes("weight").len();
    let &[outputs, inputs] = state.shape.as_slice() else {
        let problem = format!("says the shape {:?}, expected a matrix", state.shape);
        return Err(module.error(state_part, problem));
    };
    if inputs == 0 || outputs.checked_mul(inputs) != stored.checked_mul(2) {
        let problem = format!(
            "is {shape:?}, of {stored} bytes: too many or too few for {:?} codes of 4 bits",
            state.shape
        );
        return Err(module.error("weight", problem));
    }
    if state.blocksize == 0 {
        return Err(module.error(state_part, "has blocks of 0"));
    }
    Ok([outputs, inputs])
}

fn int8(module: Module) -> Result<Matrix, Error> {
    let shape = module.matrix("weight", &["I8"])?;
    module.expect("SCB", &["F32"], &[shape[0]])?;
    if module.has("weight_format") {
        module.shape("weight_format", &["U8"])?;
        if module
            .bytes("weight_format")
            .iter()
            .any(|&format| format != 0)
        {
            let problem = "is not 0: codes in the order of a device's tiles cannot be read; save the model with a later bitsandbytes";
            return Err(module.error("weight_format", problem));
        }
    }
    Ok(Matrix {
        shape,
        codes: Codes::Bytes(module.tensor("weight")),
        zeros: Zeros::Constant(0.0),
        scales: Scales {
            source: ScaleSource::Floats(module.tensor("SCB"), FloatDtype::F32),
            rows_per_scale: 1,
            row_stride: 1,
            group_stride: 1,
            places_per_scale: 1,
        },
        groups: Groups::Of(shape[1]),
        factor: PER_CODE,
        format: "LLM.int8".into(),
        parts: module.present(PARTS_INT8),
    })
}

/// Numbers in single precision; the tensor has been checked to hold as many.
fn table<const LEN: usize>(bytes: &[u8]) -> [f32; LEN] {
    let (numbers, _) = bytes.as_chunks();
    std::array::from_fn(|index| {
        numbers
            .get(index)
            .map_or(0.0, |&number| f32::from_le_bytes(number))
    })
}
