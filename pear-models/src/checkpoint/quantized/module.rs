//! The tensors of one quantised module, checked.

use crate::checkpoint::convert::FloatDtype;
use crate::checkpoint::safetensors::SafetensorsCheckpoint;
use crate::checkpoint::tensor_source::TensorSource;
use crate::error::Error;

use super::matrix::bytes;

/// A module, say `model.layers.0.self_attn.o_proj`, whose weight is stored in several tensors.
#[derive(Clone, Copy)]
pub(super) struct Module<'a> {
    pub files: &'a SafetensorsCheckpoint,
    pub name: &'a str,
}

impl<'a> Module<'a> {
    /// The name of one of its tensors.
    pub(super) fn tensor(&self, part: &str) -> String {
        format!("{}.{part}", self.name)
    }

    pub(super) fn has(&self, part: &str) -> bool {
        self.files.info(&self.tensor(part)).is_some()
    }

    /// The names of those of these tensors that are there.
    pub(super) fn present(&self, parts: &[&str]) -> Vec<String> {
        let parts = parts.iter().filter(|part| self.has(part));
        parts.map(|part| self.tensor(part)).collect()
    }

    /// An error about one of its tensors.
    pub(super) fn error(&self, part: &str, problem: impl Into<String>) -> Error {
        self.files.error(&self.tensor(part), problem)
    }

    /// The shape of a tensor of one of these types.
    ///
    /// # Errors
    /// A tensor that is missing, or of another type.
    pub(super) fn shape(&self, part: &str, dtypes: &[&str]) -> Result<&'a [usize], Error> {
        let info = self.files.info(&self.tensor(part)).ok_or_else(|| {
            let problem =
                "is missing: the weight beside it is quantised and cannot be read without it";
            self.error(part, problem)
        })?;
        let dtype = info.dtype.to_string();
        if !dtypes.contains(&dtype.as_str()) {
            let problem = format!("is {dtype}, expected {}", dtypes.join(", "));
            return Err(self.error(part, problem));
        }
        Ok(&info.shape)
    }

    /// The sizes of a matrix, neither of them 0.
    pub(super) fn matrix(&self, part: &str, dtypes: &[&str]) -> Result<[usize; 2], Error> {
        match *self.shape(part, dtypes)? {
            [rows, columns] if rows > 0 && columns > 0 => Ok([rows, columns]),
            ref shape => Err(self.error(part, format!("is {shape:?}, expected a matrix"))),
        }
    }

    /// Checks a tensor's shape and type.
    pub(super) fn expect(
        &self,
        part: &str,
        dtypes: &[&str],
        expected: &[usize],
    ) -> Result<(), Error> {
        let shape = self.shape(part, dtypes)?;
        if shape != expected {
            return Err(self.error(part, format!("is {shape:?}, expected {expected:?}")));
        }
        Ok(())
    }

    /// The type of a tensor of numbers.
    pub(super) fn float_dtype(&self, part: &str) -> Result<FloatDtype, Error> {
        self.shape(part, FLOATS)?;
        let info = self.files.info(&self.tensor(part));
        info.and_then(|info| FloatDtype::of(&info.dtype))
            .ok_or_else(|| self.error(part, "is not of numbers"))
    }

    pub(super) fn bytes(&self, part: &str) -> &'a [u8] {
        bytes(self.files, &self.tensor(part))
    }

    /// The numbers of a tensor of 32-bit integers.
    pub(super) fn integers(&self, part: &str) -> Vec<i32> {
        let (integers, _) = self.bytes(part).as_chunks();
        integers
            .iter()
            .map(|&bytes| i32::from_le_bytes(bytes))
            .collect()
    }
}

/// The types that numbers are stored in.
pub(super) const FLOATS: &[&str] = &["F16", "BF16", "F32"];
