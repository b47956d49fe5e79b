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
            .name(LONGEST_NAME)
            .map_err(|problem| format!("the name of tensor {index} of {count} {problem}"))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A tensor as the header describes it.
    struct Claim {
        name: &'static str,
        sizes: &'static [u64],
        dtype: u32,
        offset: u64,
    }

    const F32: u32 = 0;
    const Q4_0: u32 = 2;

    fn claim(name: &'static str, sizes: &'static [u64], dtype: u32, offset: u64) -> Claim {
        Claim {
            name,
            sizes,
            dtype,
            offset,
        }
    }

    /// A file of this version with one key, these tensors and 256 bytes of data.
    fn file(version: u32, alignment: u32, tensors: &[Claim]) -> Vec<u8> {
        let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
        let mut bytes = MAGIC.to_vec();
        bytes.extend(version.to_le_bytes());
        bytes.extend((tensors.len() as u64).to_le_bytes());
        bytes.extend(1u64.to_le_bytes());
        bytes.extend(text(ALIGNMENT_KEY));
        bytes.extend(4u32.to_le_bytes());
        bytes.extend(alignment.to_le_bytes());
        for tensor in tensors {
            bytes.extend(text(tensor.name));
            bytes.extend((tensor.sizes.len() as u32).to_le_bytes());
            bytes.extend(tensor.sizes.iter().flat_map(|size| size.to_le_bytes()));
            bytes.extend(tensor.dtype.to_le_bytes());
            bytes.extend(tensor.offset.to_le_bytes());
        }
        let data_start = bytes.len().next_multiple_of(32);
        bytes.resize(data_start + 256, 0);
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Header> {
        Header::read(Path::new("m.gguf"), bytes)
    }

    #[test]
    fn shapes_are_reversed_and_tensors_follow_the_aligned_start_of_the_data() {
        let tensors = [
            claim("a", &[8, 2], F32, 0),
            claim("b", &[32, 3], Q4_0, 64),
            claim("c", &[1], F32, 128),
        ];
        for version in [2, 3] {
            let bytes = file(version, 32, &tensors);
            let header = read(&bytes).unwrap();
            assert_eq!((header.version, header.alignment), (version, 32));
            let start = bytes.len() - 256;
            let found: Vec<_> = header
                .tensors
                .iter()
                .map(|t| (&t.name[..], &t.shape[..], t.range.clone()))
                .collect();
            let expected: [(&str, &[usize], _); 3] = [
                ("a", &[2, 8], start..start + 64),
                ("b", &[3, 32], start + 64..start + 64 + 54),
                ("c", &[1], start + 128..start + 132),
            ];
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn each_contradiction_is_one_line_that_names_the_tensor() {
        let one = |sizes, dtype, offset| file(3, 32, &[claim("t", sizes, dtype, offset)]);
        let long = "x".repeat(65).leak();
        for (bytes, expected) in [
            (b"GGML".to_vec(), "is not a GGUF file"),
            (b"GG".to_vec(), "is not a GGUF file"),
            (file(1, 32, &[]), "of version 1"),
            (file(4, 32, &[]), "of version 4: expected version 2 or 3"),
            (
                file(3u32.swap_bytes(), 32, &[]),
                "is a big-endian GGUF file",
            ),
            (file(3, 24, &[]), "`general.alignment` is no power of two"),
            (file(3, 0, &[]), "`general.alignment` is no power of two"),
            (one(&[], F32, 0), "tensor `t`: has 0 dimensions"),
            (one(&[1; 5], F32, 0), "tensor `t`: has 5 dimensions"),
            (one(&[4, 0], F32, 0), "tensor `t`: has the shape [0, 4]"),
            (one(&[4], 4, 0), "tensor `t`: is of the unknown type 4"),
            (one(&[4], 99, 0), "tensor `t`: is of the unknown type 99"),
            (
                one(&[48], Q4_0, 0),
                "tensor `t`: has rows of 48 numbers: expected a multiple of 32, a block of Q4_0",
            ),
            (
                one(&[1 << 32, 1 << 32], F32, 0),
                "tensor `t`: has the shape [4294967296, 4294967296], which is too large",
            ),
            (
                one(&[65], F32, 0),
                "tensor `t`: has 260 bytes at offset 0, beyond the end of the file",
            ),
            (
                one(&[1], F32, u64::MAX - 31),
                "tensor `t`: has 4 bytes at offset 18446744073709551584, beyond",
            ),
            (
                one(&[1], F32, 8),
                "tensor `t`: has the offset 8: expected a multiple of 32",
            ),
            (
                file(
                    3,
                    32,
                    &[claim("t", &[9], F32, 0), claim("u", &[1], F32, 32)],
                ),
                "tensor `u` overlaps tensor `t`",
            ),
            (
                file(
                    3,
                    32,
                    &[claim("t", &[1], F32, 0), claim("t", &[1], F32, 32)],
                ),
                "has the tensor `t` twice",
            ),
            (
                file(3, 32, &[claim(long, &[1], F32, 0)]),
                "the name of tensor 0 of 1 has 65 bytes: expected 1 to 64",
            ),
            (
                file(3, 32, &[claim("a\nb", &[1], F32, 0)]),
                "the name of tensor 0 of 1 is \"a\\nb\": expected no control characters",
            ),
        ] {
            let problem = read(&bytes).unwrap_err();
            assert!(problem.contains(expected), "{problem}");
        }
    }
}
