//! One row of a tensor with the coefficients multiplied in.

use half::{bf16, f16};

use super::codes::recode;
use super::scales::{scale_block, scale_fields};
use crate::fold_plan::FoldRoute;
use crate::gguf::dequantize::dequantize;
use crate::gguf::ggml_type::GgmlType;

/// Numbers that share a scale in the types that take the codes of others.
pub(super) const PART: usize = 32;

/// How the rows of a tensor are folded.
#[derive(Clone, Debug)]
pub(super) struct RowFold {
    pub dtype: GgmlType,
    pub folded_dtype: GgmlType,
    pub route: FoldRoute,
    /// What each number of a row is multiplied by.
    pub factors: Vec<f32>,
}

impl RowFold {
    /// Whether the number in this column is written anew.
    pub fn changes(&self, column: usize) -> bool {
        self.dtype != self.folded_dtype || self.factors[column] != 1.0
    }

    /// The bytes of a row.
    pub fn row_bytes(&self) -> usize {
        self.bytes_of(self.dtype)
    }

    /// The bytes of a row once it is folded.
    pub fn folded_row_bytes(&self) -> usize {
        self.bytes_of(self.folded_dtype)
    }

    fn bytes_of(&self, dtype: GgmlType) -> usize {
        self.factors.len() / dtype.block_len() * dtype.block_bytes()
    }

    /// Appends a row once it is folded. `row` is as long as the factors.
    pub fn fold(&self, row: &[u8], into: &mut Vec<u8>) {
        match self.route {
            FoldRoute::Scales => self.scale(row, into),
            FoldRoute::Codes => {
                let blocks = row.chunks_exact(self.dtype.block_bytes());
                for (block, factors) in blocks.zip(self.factors.chunks(self.dtype.block_len())) {
                    let of_parts: Vec<f32> = factors.chunks(PART).map(|part| part[0]).collect();
                    recode(self.dtype, block, &of_parts, into);
                }
            }
            FoldRoute::Values | FoldRoute::Unquantized => self.multiply(row, into),
        }
    }

    fn scale(&self, row: &[u8], into: &mut Vec<u8>) {
        let fields = scale_fields(self.dtype);
        let first = into.len();
        into.extend_from_slice(row);
        let blocks = into[first..].chunks_exact_mut(self.dtype.block_bytes());
        for (block, factors) in blocks.zip(self.factors.chunks(self.dtype.block_len())) {
            if factors[0] != 1.0 {
                scale_block(block, fields, factors[0]);
            }
        }
    }

    fn multiply(&self, row: &[u8], into: &mut Vec<u8>) {
        let mut numbers = vec![0.0; self.factors.len()];
        dequantize(self.dtype, row, &mut numbers);
        let size = self.folded_dtype.block_bytes();
        for (column, (&number, &factor)) in numbers.iter().zip(&self.factors).enumerate() {
            let product = number * factor;
            match self.folded_dtype {
                // Even a number that is not multiplied may change its bytes in between, if it is none.
                _ if !self.changes(column) => {
                    into.extend_from_slice(&row[column * size..(column + 1) * size]);
                }
                GgmlType::F16 => into.extend(f16::from_f32(product).to_le_bytes()),
                GgmlType::BF16 => into.extend(bf16::from_f32(product).to_le_bytes()),
                _ => into.extend(product.to_le_bytes()),
            }
        }
    }
}
