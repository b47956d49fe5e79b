//! Tensors that are written anew, and numbers as bytes.

use half::{bf16, f16};

use crate::checkpoint::convert::FloatDtype;

/// A tensor that is written anew.
pub(super) struct NewTensor {
    pub name: String,
    pub dtype: &'static str,
    pub shape: Vec<usize>,
    /// The tensor in whose file it is written.
    pub beside: String,
    pub contents: Contents,
}

/// What a new tensor holds.
pub(super) enum Contents {
    Bytes(Vec<u8>),
    /// The numbers of the folded weight in this type, computed while they are written.
    Numbers(FloatDtype),
}

impl NewTensor {
    pub(super) fn num_bytes(&self) -> usize {
        match &self.contents {
            Contents::Bytes(bytes) => bytes.len(),
            Contents::Numbers(dtype) => self.shape.iter().product::<usize>() * dtype.size(),
        }
    }
}

/// Appends a number in this type, and returns what it is rounded to.
pub(super) fn encode(number: f32, dtype: FloatDtype, into: &mut Vec<u8>) -> f32 {
    match dtype {
        FloatDtype::F32 => {
            into.extend(number.to_le_bytes());
            number
        }
        FloatDtype::F16 => {
            let rounded = f16::from_f32(number);
            into.extend(rounded.to_le_bytes());
            rounded.to_f32()
        }
        FloatDtype::BF16 => {
            let rounded = bf16::from_f32(number);
            into.extend(rounded.to_le_bytes());
            rounded.to_f32()
        }
    }
}

/// The type as safetensors calls it.
pub(super) fn dtype_name(dtype: FloatDtype) -> &'static str {
    match dtype {
        FloatDtype::F32 => "F32",
        FloatDtype::F16 => "F16",
        FloatDtype::BF16 => "BF16",
    }
}

/// The type that safetensors calls so.
pub(super) fn float_dtype(name: &str) -> Option<FloatDtype> {
    [FloatDtype::F32, FloatDtype::F16, FloatDtype::BF16]
        .into_iter()
        .find(|dtype| dtype_name(*dtype) == name)
}
