//! The header of a GGUF file: its metadata, and what tensors there are and where.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::cursor::{Cursor, Result};
use super::ggml_type::GgmlType;
use super::metadata::GgufMetadata;

const MAGIC: &[u8] = b"GGUF";
/// Bytes of the longest name of a tensor.
const LONGEST_NAME: usize = 64;
/// Dimensions of a tensor.
const MAX_DIMS: u32 = 4;
const ALIGNMENT_KEY: &str = "general.alignment";
/// Where the key is missing.
const DEFAULT_ALIGNMENT: usize = 32;

/// Everything before the data of a GGUF file.
#[derive(Debug)]
pub(super) struct Header {
    pub version: u32,
    pub metadata: Arc<GgufMetadata>,
    /// In the order of the file.
    pub tensors: Vec<GgufTensor>,
    /// The starts of the data section and of all tensors are multiples of it.
    pub alignment: usize,
}

/// A tensor of a GGUF file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GgufTensor {
    pub name: String,
    /// Sizes, the outermost first: those of the file, reversed.
    pub shape: Vec<usize>,
    pub dtype: GgmlType,
    /// Its bytes, counted from the start of the file.
    pub range: Range<usize>,
}

impl Header {
    /// Reads the header of a file and checks it against the file's size.
    pub fn read(path: &Path, bytes: &[u8]) -> Result<Self> {
        let mut cursor = Cursor::new(bytes);
        if cursor.take(MAGIC.len()) != Ok(MAGIC) {
            return Err("is not a GGUF file: it does not begin with `GGUF`".into());
        }
        let version = cursor.u32()?;
        check_version(version)?;
        let num_tensors = cursor.u64()?;
        let num_keys = cursor.u64()?;
        let metadata = GgufMetadata::read(path, &mut cursor, num_keys)?;
        let alignment = alignment(&metadata)?;
        let infos = infos(&mut cursor, num_tensors)?;
        let data_start = cursor
            .position()
            .checked_next_multiple_of(alignment)
            .ok_or_else(|| format!("`{ALIGNMENT_KEY}` is {alignment}"))?;
        let tensors = infos
            .into_iter()
            .map(|info| {
                let name = info.name.clone();
                info.place(data_start, alignment, bytes.len())
                    .map_err(|problem| format!("tensor `{name}`: {problem}"))
            })
            .collect::<Result<Vec<_>>>()?;
        check_overlaps(&tensors)?;
        Ok(Self {
            version,
            metadata: metadata.into(),
            tensors,
            alignment,
        })
    }
}

fn check_version(version: u32) -> Result<()> {
    match version {
        2 | 3 => Ok(()),
        1 => Err("is a GGUF file of version 1, which llama.cpp no longer reads either: convert the model again".into()),
        _ if version.swap_bytes() <= 3 => {
            Err("is a big-endian GGUF file: expected a little-endian one".into())
        }
        _ => Err(format!(
            "is a GGUF file of version {version}: expected version 2 or 3"
        )),
    }
}

fn alignment(metadata: &GgufMetadata) -> Result<usize> {
    let Some(value) = metadata.get(ALIGNMENT_KEY) else {
        return Ok(DEFAULT_ALIGNMENT);
    };
    let alignment = value
        .integer()
        .and_then(|value| usize::try_from(value).ok());
    alignment
        .filter(|alignment| alignment.is_power_of_two())
        .ok_or_else(|| format!("`{ALIGNMENT_KEY}` is no power of two"))
}

/// What the header says of a tensor.
struct Info {
    name: String,
    shape: Vec<usize>,
    dtype: u32,
    /// From the start of the data section.
    offset: u64,
}

fn infos(cursor: &mut Cursor, count: u64) -> Result<Vec<Info>> {
    let mut names = BTreeSet::new();
    let mut infos = Vec::new();
    for index in 0..count {
        let name = cursor
            .text()
            .map_err(|problem| format!("the name of tensor {index} of {count}: {problem}"))?;
        if name.is_empty() || name.len() > LONGEST_NAME {
            return Err(format!(
                "the name of tensor {index} of {count} has {} bytes: expected 1 to {LONGEST_NAME}",
                name.len()
            ));
        }
        if !names.insert(name.to_owned()) {
            return Err(format!("has the tensor `{name}` twice"));
        }
        let info = Info::read(cursor, name.into());
        infos.push(info.map_err(|problem| format!("tensor `{name}`: {problem}"))?);
    }
    Ok(infos)
}

impl Info {
    fn read(cursor: &mut Cursor, name: String) -> Result<Self> {
        let num_dims = cursor.u32()?;
        if !(1..=MAX_DIMS).contains(&num_dims) {
            return Err(format!(
                "has {num_dims} dimensions: expected 1 to {MAX_DIMS}"
            ));
        }
        let mut shape = (0..num_dims)
            .map(|_| cursor.len())
            .collect::<Result<Vec<usize>>>()?;
        shape.reverse();
        Ok(Self {
            name,
            shape,
            dtype: cursor.u32()?,
            offset: cursor.u64()?,
        })
    }

    /// The tensor in a file of `file_len` bytes.
    fn place(self, data_start: usize, alignment: usize, file_len: usize) -> Result<GgufTensor> {
        let Self {
            name,
            shape,
            dtype,
            offset,
        } = self;
        if shape.contains(&0) {
            return Err(format!("has the shape {shape:?}"));
        }
        let dtype =
            GgmlType::from_id(dtype).ok_or_else(|| format!("is of the unknown type {dtype}"))?;
        let row_len = shape.last().copied().unwrap_or(1);
        if !row_len.is_multiple_of(dtype.block_len()) {
            return Err(format!(
                "has rows of {row_len} numbers: expected a multiple of {}, a block of {dtype}",
                dtype.block_len()
            ));
        }
        let rows = shape[..shape.len() - 1].iter();
        let too_large = || format!("has the shape {shape:?}, which is too large");
        let num_bytes = rows
            .fold(dtype.row_bytes(row_len), |bytes, &size| {
                bytes?.checked_mul(size)
            })
            .ok_or_else(too_large)?;
        // Numbers are counted, too: a block may be smaller than what it holds.
        shape
            .iter()
            .try_fold(1usize, |numbers, &size| numbers.checked_mul(size))
            .filter(|&numbers| numbers <= isize::MAX as usize / size_of::<f32>())
            .ok_or_else(too_large)?;
        if !offset.is_multiple_of(alignment as u64) {
            return Err(format!(
                "has the offset {offset}: expected a multiple of {alignment}"
            ));
        }
        let start = usize::try_from(offset)
            .ok()
            .and_then(|offset| data_start.checked_add(offset));
        let end = start.and_then(|start| start.checked_add(num_bytes));
        match (start, end) {
            (Some(start), Some(end)) if end <= file_len => Ok(GgufTensor {
                name,
                shape,
                dtype,
                range: start..end,
            }),
            _ => Err(format!(
                "has {num_bytes} bytes at offset {offset}, beyond the end of the file"
            )),
        }
    }
}

/// Refuses tensors that share bytes.
fn check_overlaps(tensors: &[GgufTensor]) -> Result<()> {
    let mut by_start: Vec<&GgufTensor> = tensors.iter().collect();
    by_start.sort_by_key(|tensor| tensor.range.start);
    match by_start
        .windows(2)
        .find(|pair| pair[0].range.end > pair[1].range.start)
    {
        Some(pair) => Err(format!(
            "tensor `{}` overlaps tensor `{}`",
            pair[1].name, pair[0].name
        )),
        None => Ok(()),
    }
}
