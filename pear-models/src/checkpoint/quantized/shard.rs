//! A safetensors file, written again with some of its tensors exchanged.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::fold::FoldedWeight;
use super::new_tensor::{Contents, NewTensor};
use crate::checkpoint::safetensors::SafetensorsCheckpoint;
use crate::error::Error;
use crate::fold_plan::Deviation;
use crate::mapped_file::MappedFile;

/// Bytes that are copied at once.
const PIECE: usize = 4 << 20;
const METADATA: &str = "__metadata__";

/// A tensor as the header describes it.
#[derive(Deserialize)]
struct Description {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [usize; 2],
}

/// A tensor of the new file.
struct Item<'a> {
    name: String,
    dtype: String,
    shape: Vec<usize>,
    /// Where it, or the tensor whose place it takes, is among the data of the old file.
    old: Range<usize>,
    /// Its new contents, if it has any.
    new: Option<(&'a FoldedWeight<'a>, &'a NewTensor)>,
}

/// Writes the file number `index` of a checkpoint as `target`. What is not exchanged is copied byte for byte; the header too, if names,
/// types and shapes stay.
///
/// # Errors
/// [`Error::Io`], and those of the numbers.
pub(super) fn write_shard(
    files: &SafetensorsCheckpoint,
    index: usize,
    folded: &[FoldedWeight],
    target: &Path,
) -> Result<(), Error> {
    let shard = &files.shards()[index];
    let (header_end, header) = read_header(shard)?;
    let (items, is_same) = items(files, index, shard, &header, folded)?;
    let file = File::create(target).map_err(Error::io("write", target))?;
    let mut file = BufWriter::new(file);
    let mut write = |bytes: &[u8]| file.write_all(bytes).map_err(Error::io("write", target));
    if is_same {
        write(&shard.bytes()[..header_end])?;
    } else {
        write(&new_header(&header, &items))?;
    }
    for item in &items {
        match item.new {
            None => copy(shard, header_end, &item.old, &mut write)?,
            Some((weight, tensor)) => match &tensor.contents {
                Contents::Bytes(bytes) => write(bytes)?,
                Contents::Numbers(dtype) => {
                    weight.write_numbers(files, *dtype, &mut Deviation::default(), &mut write)?;
                }
            },
        }
    }
    let file = file
        .into_inner()
        .map_err(|e| Error::io("write", target)(e.into_error()))?;
    file.sync_all().map_err(Error::io("write", target))
}

/// The header and where it ends.
fn read_header(shard: &MappedFile) -> Result<(usize, Map<String, Value>), Error> {
    let fail = || Error::malformed(&shard.path, "is no longer a whole safetensors file");
    let (length, rest) = shard.bytes().split_first_chunk().ok_or_else(fail)?;
    let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| fail())?;
    let header = rest.get(..length).ok_or_else(fail)?;
    Ok((
        8 + length,
        serde_json::from_slice(header).map_err(|_| fail())?,
    ))
}

/// The tensors of the new file in their order, and whether the old header describes them.
fn items<'a>(
    files: &SafetensorsCheckpoint,
    index: usize,
    shard: &MappedFile,
    header: &Map<String, Value>,
    folded: &'a [FoldedWeight],
) -> Result<(Vec<Item<'a>>, bool), Error> {
    let mut added: Vec<_> = folded
        .iter()
        .flat_map(|weight| weight.added.iter().map(move |tensor| (weight, tensor)))
        .filter(|(_, tensor)| {
            files
                .entry(&tensor.beside)
                .is_some_and(|entry| entry.shard == index)
        })
        .collect();
    let is_removed = |name: &str| folded.iter().any(|weight| weight.removed.contains(&name));
    let (mut items, mut is_same) = (Vec::new(), true);
    for (name, value) in header.iter().filter(|(name, _)| *name != METADATA) {
        let description = Description::deserialize(value)
            .map_err(|_| Error::malformed(&shard.path, "is no longer a safetensors file"))?;
        let [start, end] = description.data_offsets;
        let mut item = Item {
            name: name.clone(),
            dtype: description.dtype,
            shape: description.shape,
            old: start..end,
            new: None,
        };
        let place = added.iter().position(|(_, tensor)| tensor.name == *name);
        match place.map(|place| added.swap_remove(place)) {
            Some((weight, tensor)) => {
                is_same &= item.dtype == tensor.dtype && item.shape == tensor.shape;
                item.dtype = tensor.dtype.into();
                item.shape.clone_from(&tensor.shape);
                item.new = Some((weight, tensor));
            }
            None if is_removed(name) => {
                is_same = false;
                continue;
            }
            None => {}
        }
        items.push(item);
    }
    for (weight, tensor) in added {
        is_same = false;
        let start = files
            .entry(&tensor.beside)
            .map_or(0, |entry| entry.range.start);
        items.push(Item {
            name: tensor.name.clone(),
            dtype: tensor.dtype.into(),
            shape: tensor.shape.clone(),
            old: start..start,
            new: Some((weight, tensor)),
        });
    }
    items.sort_by_key(|item| (item.old.start, item.old.end));
    if !is_same {
        // As safetensors orders them: every tensor begins at a multiple of the size of its numbers.
        items.sort_by_key(|item| std::cmp::Reverse(alignment(&item.dtype)));
    }
    Ok((items, is_same))
}

/// Bytes of a number of a type.
fn alignment(dtype: &str) -> usize {
    match dtype {
        "F64" | "I64" | "U64" | "C64" => 8,
        "F32" | "I32" | "U32" => 4,
        "F16" | "BF16" | "I16" | "U16" => 2,
        _ => 1,
    }
}

fn new_header(old: &Map<String, Value>, items: &[Item]) -> Vec<u8> {
    let mut header = Map::new();
    if let Some(metadata) = old.get(METADATA) {
        header.insert(METADATA.into(), metadata.clone());
    }
    let mut start = 0;
    for item in items {
        let length = item
            .new
            .map_or(item.old.len(), |(_, tensor)| tensor.num_bytes());
        let description = json!({
            "dtype": item.dtype,
            "shape": item.shape,
            "data_offsets": [start, start + length],
        });
        header.insert(item.name.clone(), description);
        start += length;
    }
    let mut text = Value::Object(header).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text);
    bytes
}

fn copy(
    shard: &MappedFile,
    header_end: usize,
    range: &Range<usize>,
    write: &mut impl FnMut(&[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let end = header_end + range.end;
    for start in (header_end + range.start..end).step_by(PIECE) {
        let piece = start..end.min(start + PIECE);
        write(&shard.bytes()[piece.clone()])?;
        shard.release(piece);
    }
    Ok(())
}
