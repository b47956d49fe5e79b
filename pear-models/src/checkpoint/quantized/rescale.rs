//! The scales of a quantised weight, multiplied by coefficients.

use half::f16;
use serde_json::{Map, Value};

use super::bitsandbytes;
use super::matrix::{Matrix, ScaleSource, bytes};
use super::new_tensor::{Contents, NewTensor, dtype_name, encode};
use crate::checkpoint::convert::FloatDtype;
use crate::checkpoint::fold::ScaledBlock;
use crate::checkpoint::safetensors::SafetensorsCheckpoint;
use crate::checkpoint::tensor_source::TensorSource;
use crate::error::Error;

/// The factor of each group of columns, if there is one for all columns of a group and all rows.
pub(super) fn group_factors(matrix: &Matrix, blocks: &[ScaledBlock]) -> Option<Vec<f32>> {
    let [outputs, inputs] = matrix.shape;
    if matrix.scales.places_per_scale > 1 {
        return None;
    }
    let mut columns = vec![1.0; inputs];
    for block in blocks {
        if block.rows != (0..outputs) {
            return None;
        }
        columns.get_mut(block.columns.clone())?.fill(block.factor);
    }
    let mut groups = vec![None; matrix.groups.count(inputs)];
    for (column, &factor) in columns.iter().enumerate() {
        let of_group: &mut Option<f32> = &mut groups[matrix.groups.of(column)];
        if *of_group.get_or_insert(factor) != factor {
            return None;
        }
    }
    // A group without columns may stay as it is.
    Some(
        groups
            .into_iter()
            .map(|group| group.unwrap_or(1.0))
            .collect(),
    )
}

/// Tensors that go, and tensors that come.
pub(super) type Exchange<'a> = (Vec<&'a str>, Vec<NewTensor>);

/// The scales, multiplied; `None` where a product is too large or too small for their type.
pub(super) fn scaled_tensors<'a>(
    files: &SafetensorsCheckpoint,
    matrix: &'a Matrix,
    factors: &[f32],
) -> Result<Option<Exchange<'a>>, Error> {
    match &matrix.scales.source {
        ScaleSource::Floats(name, dtype) => {
            let mut contents = bytes(files, name).to_vec();
            if !scale(files, matrix, factors, *dtype, &mut contents) {
                return Ok(None);
            }
            let shape = files.info(name).map(|info| info.shape.clone());
            let scales = new_bytes(
                name,
                dtype_name(*dtype),
                shape.unwrap_or_default(),
                contents,
            );
            Ok(Some((vec![name.as_str()], vec![scales])))
        }
        ScaleSource::Nested { codes, .. } => {
            // The scales were quantised together over heads: they become plain numbers, which the format knows as well.
            let count = bytes(files, codes).len();
            let old = matrix.scales.reader(files);
            let mut contents: Vec<u8> = (0..count)
                .flat_map(|index| old(index).to_le_bytes())
                .collect();
            if !scale(files, matrix, factors, FloatDtype::F32, &mut contents) {
                return Ok(None);
            }
            let ends = ["nested_absmax", "nested_quant_map", "absmax"];
            let removed = matrix.parts.iter().map(String::as_str).filter(|part| {
                let end = part.rsplit('.').next();
                end.is_some_and(|end| ends.contains(&end)) || is_state(part)
            });
            let removed: Vec<&str> = removed.collect();
            let mut added = vec![new_bytes(codes, "F32", vec![count], contents)];
            for state in removed.iter().filter(|part| is_state(part)) {
                let contents = state_without_nesting(files, state)?;
                added.push(new_bytes(state, "U8", vec![contents.len()], contents));
            }
            Ok(Some((removed, added)))
        }
    }
}

/// Whether a tensor is a `quant_state`.
pub(super) fn is_state(part: &str) -> bool {
    bitsandbytes::STATES
        .iter()
        .any(|state| part.ends_with(state))
}

fn new_bytes(name: &str, dtype: &'static str, shape: Vec<usize>, contents: Vec<u8>) -> NewTensor {
    NewTensor {
        name: name.into(),
        dtype,
        shape,
        beside: name.into(),
        contents: Contents::Bytes(contents),
    }
}

fn state_without_nesting(files: &SafetensorsCheckpoint, name: &str) -> Result<Vec<u8>, Error> {
    let fail = |e: serde_json::Error| files.error(name, format!("cannot be written again: {e}"));
    let mut state: Map<String, Value> = serde_json::from_slice(bytes(files, name)).map_err(fail)?;
    state.retain(|key, _| !key.starts_with("nested_"));
    serde_json::to_vec(&state).map_err(fail)
}

/// Multiplies scales in place, by the factors of their groups. Whether all products are numbers of the type, none of them so small that
/// it has fewer digits than others.
fn scale(
    files: &SafetensorsCheckpoint,
    matrix: &Matrix,
    factors: &[f32],
    dtype: FloatDtype,
    scales: &mut [u8],
) -> bool {
    let old = matrix.scales.reader(files);
    let smallest = match dtype {
        FloatDtype::F16 => f16::MIN_POSITIVE.to_f32(),
        FloatDtype::F32 | FloatDtype::BF16 => f32::MIN_POSITIVE,
    };
    let mut encoded = Vec::new();
    for row in (0..matrix.shape[0]).step_by(matrix.scales.rows_per_scale) {
        for (group, &factor) in factors
            .iter()
            .enumerate()
            .filter(|(_, factor)| **factor != 1.0)
        {
            let index = matrix.scales.index(row, group);
            let product = old(index) * factor;
            encoded.clear();
            let rounded = encode(product, dtype, &mut encoded);
            let is_too_small = product != 0.0 && rounded.abs() < smallest;
            if !rounded.is_finite() || is_too_small {
                return false;
            }
            scales[index * dtype.size()..][..dtype.size()].copy_from_slice(&encoded);
        }
    }
    true
}
