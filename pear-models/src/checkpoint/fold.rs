//! Files of weights, written again with blocks of some matrices multiplied.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::Path;

use half::{bf16, f16};
use pear_core::HeadId;

use super::convert::FloatDtype;
use super::safetensors::{Entry, SafetensorsCheckpoint};
use super::tensor_source::TensorSource;
use crate::error::Error;
use crate::fold_plan::{Deviation, FoldPlan, FoldRoute, FoldedTensor};
use crate::mapped_file::MappedFile;

/// Bytes that are copied or multiplied at once.
const PIECE: usize = 4 << 20;

/// A format of checkpoints that can be written again with coefficients folded in.
pub(super) trait Fold: TensorSource {
    /// The files that hold weights, and so are written by [`write_folded`](Self::write_folded).
    fn weight_files(&self) -> Vec<&Path>;

    /// What multiplying the given blocks of the tensors changes. Reads these tensors.
    ///
    /// # Errors
    /// [`Error::Tensor`] for a tensor that is not there, or a product that is no finite number of its type.
    fn plan_fold(&self, blocks: &ScaledBlocks) -> Result<FoldPlan, Error>;

    /// Writes every file of weights into `folder`, under the name that it has. The given blocks of the tensors are multiplied, and
    /// everything else is copied byte for byte.
    ///
    /// # Errors
    /// As [`plan_fold`](Self::plan_fold), and [`Error::Io`].
    fn write_folded(&self, folder: &Path, blocks: &ScaledBlocks) -> Result<FoldPlan, Error>;
}

/// Blocks of matrices, by the names of the tensors.
pub(super) type ScaledBlocks = BTreeMap<String, Vec<ScaledBlock>>;

/// A block of a matrix, all of which is multiplied by one number.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ScaledBlock {
    pub rows: Range<usize>,
    pub columns: Range<usize>,
    pub factor: f32,
    /// The head whose outputs meet these weights.
    pub head: HeadId,
}

impl Fold for SafetensorsCheckpoint {
    fn weight_files(&self) -> Vec<&Path> {
        self.shards().iter().map(|shard| &*shard.path).collect()
    }

    fn plan_fold(&self, blocks: &ScaledBlocks) -> Result<FoldPlan, Error> {
        let mut tensors = Vec::new();
        for (index, shard) in self.shards().iter().enumerate() {
            for change in changes(self, index, blocks) {
                tensors.push(change.write(shard, &mut |_| Ok(()))?);
            }
        }
        Ok(FoldPlan::new(tensors))
    }

    fn write_folded(&self, folder: &Path, blocks: &ScaledBlocks) -> Result<FoldPlan, Error> {
        let mut tensors = Vec::new();
        for (index, shard) in self.shards().iter().enumerate() {
            let changes = changes(self, index, blocks);
            let name = shard.path.file_name().unwrap_or_default();
            tensors.extend(write_shard(shard, &changes, &folder.join(name))?);
        }
        Ok(FoldPlan::new(tensors))
    }
}

/// The tensors of a shard that change, in the order of the file.
fn changes<'a>(
    checkpoint: &'a SafetensorsCheckpoint,
    shard: usize,
    blocks: &'a ScaledBlocks,
) -> Vec<Change<'a>> {
    let of_shard = blocks.iter().filter_map(|(name, blocks)| {
        let entry = checkpoint.entry(name)?;
        (entry.shard == shard).then_some(Change {
            name,
            entry,
            blocks,
        })
    });
    let mut changes: Vec<Change> = of_shard.collect();
    changes.sort_by_key(|change| change.entry.range.start);
    changes
}

/// A tensor that changes.
struct Change<'a> {
    name: &'a str,
    entry: &'a Entry,
    blocks: &'a [ScaledBlock],
}

fn write_shard(
    shard: &MappedFile,
    changes: &[Change],
    target: &Path,
) -> Result<Vec<FoldedTensor>, Error> {
    let mut file = File::create(target).map_err(Error::io("write", target))?;
    let mut write = |bytes: &[u8]| file.write_all(bytes).map_err(Error::io("write", target));
    let mut folded = Vec::new();
    let mut written = 0;
    for change in changes {
        copy(shard, written..change.entry.range.start, &mut write)?;
        folded.push(change.write(shard, &mut write)?);
        written = change.entry.range.end;
    }
    copy(shard, written..shard.bytes().len(), &mut write)?;
    file.sync_all().map_err(Error::io("write", target))?;
    Ok(folded)
}

fn copy(
    shard: &MappedFile,
    range: Range<usize>,
    write: &mut impl FnMut(&[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let end = range.end;
    for start in range.step_by(PIECE) {
        let piece = start..end.min(start + PIECE);
        write(&shard.bytes()[piece.clone()])?;
        shard.release(piece);
    }
    Ok(())
}

impl Change<'_> {
    /// Writes the tensor, a few rows at a time.
    fn write(
        &self,
        shard: &MappedFile,
        write: &mut impl FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<FoldedTensor, Error> {
        let Entry { info, range, .. } = self.entry;
        let fail = |problem| Error::Tensor {
            path: shard.path.clone(),
            name: self.name.into(),
            problem,
        };
        let dtype = FloatDtype::of(&info.dtype)
            .ok_or_else(|| fail(format!("is {}, expected F32, F16 or BF16", info.dtype)))?;
        let row_bytes = info.row_len() * dtype.size();
        let rows_at_once = (PIECE / row_bytes.max(1)).max(1);
        let mut band = Vec::new();
        let mut deviation = Deviation::default();
        let num_rows = info.shape.first().copied().unwrap_or(1);
        for first in (0..num_rows).step_by(rows_at_once) {
            let rows = first..num_rows.min(first + rows_at_once);
            let piece = range.start + rows.start * row_bytes..range.start + rows.end * row_bytes;
            band.clear();
            band.extend_from_slice(&shard.bytes()[piece.clone()]);
            for block in self.blocks {
                block
                    .scale(&mut band, &rows, row_bytes, dtype, &mut deviation)
                    .map_err(|number| {
                        let ScaledBlock { head, factor, .. } = block;
                        fail(format!(
                            "head {head}: {number} × {factor} is no finite {} number",
                            info.dtype
                        ))
                    })?;
            }
            write(&band)?;
            shard.release(piece);
        }
        let mut heads: Vec<HeadId> = self.blocks.iter().map(|block| block.head).collect();
        heads.dedup();
        Ok(FoldedTensor {
            layer: heads.first().map_or(0, |head| head.layer),
            name: self.name.into(),
            heads,
            dtype: info.dtype.to_string(),
            folded_dtype: info.dtype.to_string(),
            route: FoldRoute::Values,
            relative_error: deviation.relative(),
            num_bytes: info.num_bytes,
            folded_num_bytes: info.num_bytes,
        })
    }
}

impl ScaledBlock {
    /// Multiplies the part of the block that lies in `band`, the matrix's rows `rows` of `row_bytes` bytes each, and adds what rounding
    /// changes to `deviation`.
    ///
    /// # Errors
    /// A number whose product is not finite.
    fn scale(
        &self,
        band: &mut [u8],
        rows: &Range<usize>,
        row_bytes: usize,
        dtype: FloatDtype,
        deviation: &mut Deviation,
    ) -> Result<(), f32> {
        let columns = self.columns.start * dtype.size()..self.columns.end * dtype.size();
        for row in self.rows.start.max(rows.start)..self.rows.end.min(rows.end) {
            let numbers = &mut band[(row - rows.start) * row_bytes..][columns.clone()];
            match dtype {
                FloatDtype::F32 => multiply(
                    numbers,
                    self.factor,
                    deviation,
                    f32::from_le_bytes,
                    f32::to_le_bytes,
                ),
                FloatDtype::F16 => multiply(
                    numbers,
                    self.factor,
                    deviation,
                    |bytes| f16::from_le_bytes(bytes).to_f32(),
                    |x| f16::from_f32(x).to_le_bytes(),
                ),
                FloatDtype::BF16 => multiply(
                    numbers,
                    self.factor,
                    deviation,
                    |bytes| bf16::from_le_bytes(bytes).to_f32(),
                    |x| bf16::from_f32(x).to_le_bytes(),
                ),
            }?;
        }
        Ok(())
    }
}

/// Multiplies numbers where they stand. `to` rounds.
///
/// # Errors
/// The first number whose product is not finite.
fn multiply<const BYTES: usize>(
    numbers: &mut [u8],
    factor: f32,
    deviation: &mut Deviation,
    from: impl Fn([u8; BYTES]) -> f32,
    to: impl Fn(f32) -> [u8; BYTES],
) -> Result<(), f32> {
    let (numbers, _) = numbers.as_chunks_mut();
    for number in numbers {
        let x = from(*number);
        let product = to(x * factor);
        let rounded = from(product);
        if !rounded.is_finite() {
            return Err(x);
        }
        deviation.add(rounded, f64::from(x) * f64::from(factor));
        *number = product;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use safetensors::Dtype;
    use safetensors::tensor::TensorView;

    use super::*;

    /// Multiplies blocks of a matrix of 1, 2, 3, … in `dtype`, and returns what is written.
    fn fold(
        dtype: Dtype,
        shape: [usize; 2],
        first: f32,
        blocks: Vec<ScaledBlock>,
    ) -> Result<Vec<f32>, Error> {
        let folder = tempfile::tempdir().unwrap();
        let numbers = (0..shape[0] * shape[1]).map(|i| i as f32 + first);
        let bytes: Vec<u8> = match dtype {
            Dtype::F32 => numbers.flat_map(f32::to_le_bytes).collect(),
            Dtype::F16 => numbers
                .flat_map(|x| f16::from_f32(x).to_le_bytes())
                .collect(),
            _ => numbers
                .flat_map(|x| bf16::from_f32(x).to_le_bytes())
                .collect(),
        };
        let view = TensorView::new(dtype, shape.to_vec(), &bytes).unwrap();
        let file = safetensors::serialize([("o_proj.weight", view)], None).unwrap();
        fs::write(folder.path().join("model.safetensors"), file).unwrap();
        let out = folder.path().join("out");
        fs::create_dir(&out).unwrap();
        let blocks = BTreeMap::from([("o_proj.weight".into(), blocks)]);
        SafetensorsCheckpoint::open(folder.path())?.write_folded(&out, &blocks)?;
        let mut values = vec![0f32; shape[0] * shape[1]];
        SafetensorsCheckpoint::open(&out)?.rows(
            "o_proj.weight",
            0..shape[0],
            (&mut values[..]).into(),
        )?;
        Ok(values)
    }

    fn block(rows: Range<usize>, columns: Range<usize>, factor: f32, head: usize) -> ScaledBlock {
        ScaledBlock {
            rows,
            columns,
            factor,
            head: HeadId::new(7, head),
        }
    }

    #[test]
    fn only_the_blocks_are_multiplied_in_each_type() {
        for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
            let blocks = vec![block(0..3, 1..2, 0.5, 0), block(1..3, 2..4, -2.0, 1)];
            let folded = fold(dtype, [3, 4], 1.0, blocks).unwrap();
            assert_eq!(
                folded,
                [1., 1., 3., 4., 5., 3., -14., -16., 9., 5., -22., -24.],
                "{dtype:?}"
            );
        }
    }

    #[test]
    fn blocks_across_several_pieces_are_multiplied_whole() {
        // Rows of 1.5 MiB: two of them fit a piece.
        let width = 3 * (PIECE >> 5);
        let folded = fold(
            Dtype::F32,
            [7, width],
            0.0,
            vec![block(1..6, width - 2..width, 2.0, 0)],
        )
        .unwrap();
        for (index, x) in folded.into_iter().enumerate() {
            let (row, column) = (index / width, index % width);
            let is_in_block = (1..6).contains(&row) && column >= width - 2;
            assert_eq!(x, index as f32 * if is_in_block { 2.0 } else { 1.0 });
        }
    }

    #[test]
    fn a_product_that_is_not_finite_names_tensor_and_head() {
        let blocks = vec![block(0..2, 0..2, 40.0, 0), block(0..2, 2..4, 1e4, 3)];
        let error = fold(Dtype::F16, [2, 4], 1.0, blocks.clone())
            .unwrap_err()
            .to_string();
        assert!(
            error.ends_with(
                "model.safetensors: tensor `o_proj.weight`: head 7.3: 7 × 10000 is no finite F16 number"
            ),
            "{error}"
        );
        assert!(fold(Dtype::BF16, [2, 4], 1.0, blocks.clone()).is_ok());
        assert!(fold(Dtype::F32, [2, 4], 1.0, blocks).is_ok());
        let overflow = vec![block(0..2, 0..4, f32::MAX, 5)];
        let error = fold(Dtype::F32, [2, 4], 1.0, overflow).unwrap_err();
        assert!(error.to_string().contains("head 7.5: 2 × "), "{error}");
    }
}
