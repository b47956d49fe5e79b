//! A GGUF file, written again with some tensors folded.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use super::record::put_text;
use super::tensor::TensorFold;
use crate::error::Error;
use crate::gguf::file::GgufFile;
use crate::gguf::ggml_type::GgmlType;
use crate::gguf::header::GgufTensor;

/// Bytes that are copied or folded at once.
const PIECE: usize = 4 << 20;

/// Where a tensor comes to lie.
struct Placed<'a> {
    tensor: &'a GgufTensor,
    fold: Option<&'a TensorFold<'a>>,
    /// From the start of the data section.
    offset: usize,
}

impl Placed<'_> {
    fn dtype(&self) -> GgmlType {
        self.fold
            .map_or(self.tensor.dtype, |fold| fold.rows.folded_dtype)
    }

    fn num_bytes(&self) -> usize {
        self.fold
            .map_or(self.tensor.range.len(), TensorFold::folded_num_bytes)
    }
}

/// Writes `source` as `target`, with `folds` of some of its tensors and `added` keys at the end of its metadata: their count and their
/// bytes. Everything else is copied byte for byte, in the order that it has.
///
/// # Errors
/// [`Error::Io`].
pub(super) fn write(
    source: &GgufFile,
    folds: &BTreeMap<&str, TensorFold>,
    added: (usize, &[u8]),
    target: &Path,
) -> Result<(), Error> {
    let mut file = File::create(target).map_err(Error::io("write", target))?;
    let mut write = |bytes: &[u8]| file.write_all(bytes).map_err(Error::io("write", target));
    let placed = place(source, folds);
    let mut header = header(source, &placed, added);
    header.resize(header.len().next_multiple_of(source.alignment()), 0);
    write(&header)?;

    let mut in_order: Vec<&Placed> = placed.iter().collect();
    in_order.sort_by_key(|placed| placed.offset);
    for placed in in_order {
        match placed.fold {
            Some(fold) => write_folded(source, fold, &mut write)?,
            None => copy(source, placed.tensor, &mut write)?,
        }
        let num_bytes = placed.num_bytes();
        let padding = num_bytes.next_multiple_of(source.alignment()) - num_bytes;
        write(&vec![0; padding])?;
    }
    file.sync_all().map_err(Error::io("write", target))
}

/// The tensors in the order of the header. Their data keep the order that they have.
fn place<'a>(source: &'a GgufFile, folds: &'a BTreeMap<&str, TensorFold<'a>>) -> Vec<Placed<'a>> {
    let tensors = source.tensors().iter();
    let mut placed: Vec<Placed> = tensors
        .map(|tensor| Placed {
            tensor,
            fold: folds.get(tensor.name.as_str()),
            offset: 0,
        })
        .collect();
    let mut in_order: Vec<&mut Placed> = placed.iter_mut().collect();
    in_order.sort_by_key(|placed| placed.tensor.range.start);
    let mut end = 0usize;
    for placed in in_order {
        placed.offset = end.next_multiple_of(source.alignment());
        end = placed.offset + placed.num_bytes();
    }
    placed
}

fn header(source: &GgufFile, placed: &[Placed], added: (usize, &[u8])) -> Vec<u8> {
    let (num_keys, metadata) = source.metadata().section();
    let (num_added, added) = added;
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(source.version().to_le_bytes());
    bytes.extend((placed.len() as u64).to_le_bytes());
    bytes.extend((num_keys as u64 + num_added as u64).to_le_bytes());
    bytes.extend_from_slice(metadata);
    bytes.extend_from_slice(added);
    for placed in placed {
        let shape = &placed.tensor.shape;
        put_text(&mut bytes, &placed.tensor.name);
        bytes.extend((shape.len() as u32).to_le_bytes());
        for &size in shape.iter().rev() {
            bytes.extend((size as u64).to_le_bytes());
        }
        bytes.extend(placed.dtype().id().to_le_bytes());
        bytes.extend((placed.offset as u64).to_le_bytes());
    }
    bytes
}

fn copy(
    source: &GgufFile,
    tensor: &GgufTensor,
    write: &mut impl FnMut(&[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    for piece in source.tensor_bytes(tensor).chunks(PIECE) {
        write(piece)?;
    }
    source.release(tensor);
    Ok(())
}

/// Writes a tensor, a few rows at a time.
fn write_folded(
    source: &GgufFile,
    fold: &TensorFold,
    write: &mut impl FnMut(&[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut folded = Vec::new();
    for row in source
        .tensor_bytes(fold.tensor)
        .chunks_exact(fold.rows.row_bytes())
    {
        fold.rows.fold(row, &mut folded);
        if folded.len() >= PIECE {
            write(&folded)?;
            folded.clear();
        }
    }
    write(&folded)?;
    source.release(fold.tensor);
    Ok(())
}
