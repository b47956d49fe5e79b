//! The choice of a route for each tensor.

use std::ops::Range;

use pear_core::HeadId;

use super::codes::type_for_codes;
use super::row::{PART, RowFold};
use super::scales::scale_fields;
use crate::fold_plan::{Deviation, FoldRoute, FoldedTensor};
use crate::gguf::dequantize::dequantize;
use crate::gguf::file::GgufFile;
use crate::gguf::ggml_type::GgmlType;
use crate::gguf::header::GgufTensor;

/// The largest relative error of a route that keeps codes: as large as that of rounding to bf16. Scales that become subnormal in half
/// precision exceed it; the tensor is then stored unquantised.
const LARGEST_ERROR: f64 = 2e-3;

/// The inputs of an output projection that come from one head, and the head's coefficient.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HeadColumns {
    pub head: HeadId,
    pub columns: Range<usize>,
    pub factor: f32,
}

/// A tensor, how it is folded, and how large the error is.
#[derive(Debug)]
pub(super) struct TensorFold<'a> {
    pub tensor: &'a GgufTensor,
    /// Those whose coefficients it takes.
    pub heads: Vec<HeadId>,
    pub rows: RowFold,
    pub relative_error: f64,
}

impl<'a> TensorFold<'a> {
    /// Chooses the first route whose error is small, or else the one whose error is the smallest.
    ///
    /// # Errors
    /// What is wrong with a tensor of integers, one of another shape, or products that are too large for every type.
    pub fn choose(
        file: &GgufFile,
        tensor: &'a GgufTensor,
        heads: &[HeadColumns],
    ) -> Result<Self, String> {
        let dtype = tensor.dtype;
        if dtype.is_integer() {
            return Err(format!("is {dtype}: integers cannot be re-weighted"));
        }
        let factors = factors(tensor, heads)?;
        let mut best: Option<Self> = None;
        let mut failure = None;
        for (route, folded_dtype) in routes(dtype, &factors) {
            let rows = RowFold {
                dtype,
                folded_dtype,
                route,
                factors: factors.clone(),
            };
            let relative_error = match relative_error(file, tensor, &rows) {
                Ok(error) => error,
                Err(NotFinite { column, number }) => {
                    let head = heads.iter().find(|head| head.columns.contains(&column));
                    failure.get_or_insert_with(|| match head {
                        Some(HeadColumns { head, factor, .. }) => {
                            format!(
                                "head {head}: {number} × {factor} is no finite number in any type"
                            )
                        }
                        None => format!("the number {number} is too large for {folded_dtype}"),
                    });
                    continue;
                }
            };
            let fold = Self {
                tensor,
                heads: heads.iter().map(|columns| columns.head).collect(),
                rows,
                relative_error,
            };
            // Products that are rounded to the type that they were in are as good as that type allows.
            if route == FoldRoute::Values || relative_error <= LARGEST_ERROR {
                return Ok(fold);
            }
            if best
                .as_ref()
                .is_none_or(|best| relative_error < best.relative_error)
            {
                best = Some(fold);
            }
        }
        best.ok_or_else(|| failure.unwrap_or_default())
    }

    /// The bytes that the tensor has once it is folded.
    pub fn folded_num_bytes(&self) -> usize {
        let num_rows = self.tensor.range.len() / self.rows.row_bytes();
        num_rows * self.rows.folded_row_bytes()
    }

    pub fn summary(&self) -> FoldedTensor {
        FoldedTensor {
            layer: self.heads.first().map_or(0, |head| head.layer),
            name: self.tensor.name.clone(),
            heads: self.heads.clone(),
            dtype: self.rows.dtype.to_string(),
            folded_dtype: self.rows.folded_dtype.to_string(),
            route: self.rows.route,
            relative_error: self.relative_error,
            num_bytes: self.tensor.range.len() as u64,
            folded_num_bytes: self.folded_num_bytes() as u64,
        }
    }
}

/// What each number of a row is multiplied by.
fn factors(tensor: &GgufTensor, heads: &[HeadColumns]) -> Result<Vec<f32>, String> {
    let row_len = tensor.shape.last().copied().unwrap_or(1);
    let mut factors = vec![1.0; row_len];
    for HeadColumns {
        head,
        columns,
        factor,
    } in heads
    {
        let columns = factors.get_mut(columns.clone()).ok_or_else(|| {
            format!("has rows of {row_len} numbers: head {head} has the numbers {columns:?}")
        })?;
        columns.fill(*factor);
    }
    Ok(factors)
}

/// The routes that a tensor can take, the best first, and the types that it has then.
fn routes(dtype: GgmlType, factors: &[f32]) -> Vec<(FoldRoute, GgmlType)> {
    let in_one_head = |len: usize| {
        let mut groups = factors.chunks(len);
        groups.all(|group| group.iter().all(|&factor| factor == group[0]))
    };
    let mut routes = Vec::new();
    if matches!(dtype, GgmlType::F32 | GgmlType::F16 | GgmlType::BF16) {
        routes.push((FoldRoute::Values, dtype));
    }
    if !scale_fields(dtype).is_empty() && in_one_head(dtype.block_len()) {
        routes.push((FoldRoute::Scales, dtype));
    }
    if let Some(folded_dtype) = type_for_codes(dtype)
        && in_one_head(PART)
    {
        routes.push((FoldRoute::Codes, folded_dtype));
    }
    for unquantized in [GgmlType::F16, GgmlType::F32] {
        if dtype != unquantized {
            routes.push((FoldRoute::Unquantized, unquantized));
        }
    }
    routes
}

/// A number that the folded tensor cannot hold, or that is none itself.
struct NotFinite {
    column: usize,
    number: f32,
}

/// How far the numbers that are written anew are from the exact products, over the whole tensor.
fn relative_error(file: &GgufFile, tensor: &GgufTensor, rows: &RowFold) -> Result<f64, NotFinite> {
    let row_len = rows.factors.len();
    let (mut before, mut after) = (vec![0.0f32; row_len], vec![0.0f32; row_len]);
    let mut folded = Vec::new();
    let mut deviation = Deviation::default();
    for row in file.tensor_bytes(tensor).chunks_exact(rows.row_bytes()) {
        folded.clear();
        rows.fold(row, &mut folded);
        dequantize(rows.dtype, row, &mut before);
        dequantize(rows.folded_dtype, &folded, &mut after);
        for (column, (&number, &product)) in before.iter().zip(&after).enumerate() {
            if !rows.changes(column) {
                continue;
            }
            if !product.is_finite() {
                return Err(NotFinite { column, number });
            }
            deviation.add(product, f64::from(number) * f64::from(rows.factors[column]));
        }
    }
    Ok(deviation.relative())
}
