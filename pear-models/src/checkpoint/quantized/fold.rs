//! How a weight takes coefficients: a quantised one by its scales where each belongs to one head, or else as plain numbers.

use std::ops::Range;

use pear_core::HeadId;

use super::matrix::{BAND, Matrix, float};
use super::new_tensor::{Contents, NewTensor, dtype_name, encode, float_dtype};
use super::rescale::{group_factors, is_state, scaled_tensors};
use crate::checkpoint::convert::FloatDtype;
use crate::checkpoint::fold::ScaledBlock;
use crate::checkpoint::safetensors::SafetensorsCheckpoint;
use crate::checkpoint::tensor_source::TensorSource;
use crate::error::Error;
use crate::fold_plan::{Deviation, FoldRoute, FoldedTensor};

/// A weight with coefficients folded in.
pub(super) struct FoldedWeight<'a> {
    /// The name of the weight.
    pub name: &'a str,
    /// What it is stored as; `None` for plain numbers.
    matrix: Option<&'a Matrix>,
    shape: [usize; 2],
    blocks: &'a [ScaledBlock],
    route: FoldRoute,
    /// Tensors that are no longer there, or have other contents.
    pub removed: Vec<&'a str>,
    /// Tensors that take their place.
    pub added: Vec<NewTensor>,
}

impl<'a> FoldedWeight<'a> {
    /// Chooses the route. `plain` is the type of weights that are not quantised.
    ///
    /// # Errors
    /// A `quant_state` that cannot be written again.
    pub(super) fn new(
        files: &SafetensorsCheckpoint,
        name: &'a str,
        matrix: &'a Matrix,
        blocks: &'a [ScaledBlock],
        plain: FloatDtype,
    ) -> Result<Self, Error> {
        let scaled = match group_factors(matrix, blocks) {
            Some(factors) => scaled_tensors(files, matrix, &factors)?,
            None => None,
        };
        let (route, removed, added) = match scaled {
            Some((removed, added)) => (FoldRoute::Scales, removed, added),
            None => {
                let unquantized = NewTensor {
                    name: name.into(),
                    dtype: dtype_name(plain),
                    shape: matrix.shape.into(),
                    beside: matrix.codes.tensor().into(),
                    contents: Contents::Numbers(plain),
                };
                let parts = matrix.parts.iter().map(String::as_str).collect();
                (FoldRoute::Unquantized, parts, vec![unquantized])
            }
        };
        Ok(Self {
            name,
            matrix: Some(matrix),
            shape: matrix.shape,
            blocks,
            route,
            removed,
            added,
        })
    }

    /// A weight that is not quantised.
    ///
    /// # Errors
    /// [`Error::Tensor`] for a tensor that is no matrix of numbers.
    pub(super) fn plain(
        files: &SafetensorsCheckpoint,
        name: &'a str,
        blocks: &'a [ScaledBlock],
    ) -> Result<Self, Error> {
        let info = files.info(name);
        let dtype = info.and_then(|info| FloatDtype::of(&info.dtype));
        let (Some(dtype), Some(&[rows, columns])) = (dtype, info.map(|info| info.shape.as_slice()))
        else {
            return Err(files.error(name, "is no matrix of F32, F16 or BF16"));
        };
        Ok(Self {
            name,
            matrix: None,
            shape: [rows, columns],
            blocks,
            route: FoldRoute::Values,
            removed: vec![name],
            added: vec![NewTensor {
                name: name.into(),
                dtype: dtype_name(dtype),
                shape: vec![rows, columns],
                beside: name.into(),
                contents: Contents::Numbers(dtype),
            }],
        })
    }

    /// Reads whole rows of the weight as it was.
    fn rows(
        &self,
        files: &SafetensorsCheckpoint,
        rows: Range<usize>,
        into: &mut [f32],
    ) -> Result<(), Error> {
        match self.matrix {
            Some(matrix) => {
                matrix.rows(files, rows, into);
                Ok(())
            }
            None => files.rows(self.name, rows, into.into()),
        }
    }

    pub(super) fn is_unquantized(&self) -> bool {
        self.route == FoldRoute::Unquantized
    }

    /// Decodes the weight, multiplies it, rounds it to `dtype` and hands it to `write`, a few rows at a time. Adds what rounding changes to
    /// `deviation`.
    ///
    /// # Errors
    /// [`Error::Tensor`] for a product that is no finite number of `dtype`, and those of `write`.
    pub(super) fn write_numbers(
        &self,
        files: &SafetensorsCheckpoint,
        dtype: FloatDtype,
        deviation: &mut Deviation,
        write: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let [outputs, inputs] = self.shape;
        let (mut numbers, mut encoded) = (vec![0.0; BAND.min(outputs) * inputs], Vec::new());
        for start in (0..outputs).step_by(BAND) {
            let rows = start..outputs.min(start + BAND);
            let numbers = &mut numbers[..rows.len() * inputs];
            self.rows(files, rows.clone(), numbers)?;
            encoded.clear();
            for (row, numbers) in rows.zip(numbers.chunks(inputs)) {
                let factors = self.factors(row);
                for (&number, (factor, head)) in numbers.iter().zip(factors) {
                    let rounded = encode(number * factor, dtype, &mut encoded);
                    if !rounded.is_finite() && number.is_finite() {
                        let head = head.map_or(String::new(), |head| format!("head {head}: "));
                        let dtype = dtype_name(dtype);
                        let problem =
                            format!("{head}{number} × {factor} is no finite {dtype} number");
                        return Err(files.error(self.name, problem));
                    }
                    deviation.add(rounded, f64::from(number) * f64::from(factor));
                }
            }
            write(&encoded)?;
        }
        Ok(())
    }

    /// The factor of each number of a row, and the head that it belongs to.
    fn factors(&self, row: usize) -> Vec<(f32, Option<HeadId>)> {
        let mut factors = vec![(1.0, None); self.shape[1]];
        for block in self.blocks.iter().filter(|block| block.rows.contains(&row)) {
            factors[block.columns.clone()].fill((block.factor, Some(block.head)));
        }
        factors
    }

    /// What changes, for people. Decodes the weight.
    ///
    /// # Errors
    /// As [`write_numbers`](Self::write_numbers).
    pub(super) fn report(&self, files: &SafetensorsCheckpoint) -> Result<FoldedTensor, Error> {
        let mut deviation = Deviation::default();
        for tensor in &self.added {
            match &tensor.contents {
                Contents::Numbers(dtype) => {
                    self.write_numbers(files, *dtype, &mut deviation, &mut |_| Ok(()))?;
                }
                Contents::Bytes(bytes) if !is_state(&tensor.name) => {
                    self.compare_scales(files, bytes, tensor.dtype, &mut deviation);
                }
                Contents::Bytes(_) => {}
            }
        }
        let size = |name: &str| files.info(name).map_or(0, |info| info.num_bytes);
        let num_bytes = match self.matrix {
            Some(matrix) => matrix.parts.iter().map(|part| size(part)).sum(),
            None => size(self.name),
        };
        let removed: u64 = self.removed.iter().map(|part| size(part)).sum();
        let added: u64 = self.added.iter().map(|new| new.num_bytes() as u64).sum();
        let mut heads: Vec<HeadId> = self.blocks.iter().map(|block| block.head).collect();
        heads.dedup();
        let plain = self.added.first().map_or("", |new| new.dtype);
        let format = self.matrix.map_or(plain, |matrix| &matrix.format);
        Ok(FoldedTensor {
            layer: heads.first().map_or(0, |head| head.layer),
            name: self.name.into(),
            heads,
            dtype: format.into(),
            folded_dtype: if self.is_unquantized() { plain } else { format }.into(),
            route: self.route,
            relative_error: deviation.relative(),
            num_bytes,
            folded_num_bytes: num_bytes - removed + added,
        })
    }

    /// Compares the numbers that new scales give with the exact products.
    fn compare_scales(
        &self,
        files: &SafetensorsCheckpoint,
        new: &[u8],
        dtype: &str,
        deviation: &mut Deviation,
    ) {
        let (Some(dtype), Some(matrix)) = (float_dtype(dtype), self.matrix) else {
            return;
        };
        let [outputs, inputs] = matrix.shape;
        let old = matrix.scales.reader(files);
        let mut numbers = vec![0.0; inputs];
        for row in 0..outputs {
            matrix.rows(files, row..row + 1, &mut numbers);
            for (column, (&number, (factor, head))) in
                numbers.iter().zip(self.factors(row)).enumerate()
            {
                if head.is_none() || number == 0.0 {
                    continue;
                }
                let index = matrix.scales.index(row, matrix.groups.of(column));
                let scale = f64::from(float(new, dtype, index));
                let number = f64::from(number);
                let folded = number / f64::from(old(index)) * scale;
                deviation.add(folded as f32, number * f64::from(factor));
            }
        }
    }
}
