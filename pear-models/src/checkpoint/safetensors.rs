//! Safetensors files, mapped into memory and checked.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use safetensors::{Dtype, SafeTensorError, SafeTensors};
use serde::Deserialize;

use super::convert::{FloatDtype, decode};
use super::tensor_source::{FloatsMut, StoredDtype, TensorInfo, TensorSource};
use crate::error::Error;
use crate::mapped_file::MappedFile;
use crate::regular_file::{self, LISTS};

const SINGLE: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// The weights of a Hugging Face directory: `model.safetensors`, or the shards that `model.safetensors.index.json` names.
///
/// Files are mapped into memory: their pages are read when they are needed, and the system drops them when it needs the memory. A file
/// that another process shortens meanwhile makes the next read of its missing part fail with a bus error.
#[derive(Debug)]
pub struct SafetensorsCheckpoint {
    directory: PathBuf,
    shards: Vec<MappedFile>,
    tensors: BTreeMap<String, Entry>,
}

/// Where a tensor is.
#[derive(Debug)]
pub(super) struct Entry {
    pub info: TensorInfo,
    pub shard: usize,
    /// Its bytes, counted from the start of the file.
    pub range: Range<usize>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl SafetensorsCheckpoint {
    /// Opens the files and checks their headers.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Malformed`] for a directory without weights, an index that names files outside it or tensors that are
    /// not there, and a file that is not whole.
    pub fn open(directory: impl AsRef<Path>) -> Result<Self, Error> {
        let directory = directory.as_ref();
        let mut checkpoint = Self {
            directory: directory.into(),
            shards: Vec::new(),
            tensors: BTreeMap::new(),
        };
        let single = directory.join(SINGLE);
        if single.exists() {
            checkpoint.add_shard(&single, |_| true)?;
        } else if directory.join(INDEX).exists() {
            checkpoint.add_indexed_shards()?;
        } else {
            return Err(Error::malformed(
                directory,
                format!("holds neither {SINGLE} nor {INDEX}"),
            ));
        }
        Ok(checkpoint)
    }

    fn add_indexed_shards(&mut self) -> Result<(), Error> {
        let index_path = self.directory.join(INDEX);
        let index: Index = serde_json::from_slice(&regular_file::read(&index_path, LISTS)?)
            .map_err(|e| Error::malformed(&index_path, format!("not a shard index: {e}")))?;
        let mut shards: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (tensor, shard) in &index.weight_map {
            shards.entry(shard).or_default().push(tensor);
        }
        if shards.is_empty() {
            return Err(Error::malformed(&index_path, "names no shard"));
        }
        for (shard, tensors) in shards {
            if !is_file_name(shard) {
                return Err(Error::malformed(
                    &index_path,
                    format!("shard `{shard}` is not a file in the same directory"),
                ));
            }
            let path = self.directory.join(shard);
            // A tensor that the index does not assign to this shard is not part of the model.
            self.add_shard(&path, |name| {
                index.weight_map.get(name).is_some_and(|s| s == shard)
            })?;
            let missing = tensors
                .into_iter()
                .find(|&tensor| !self.tensors.contains_key(tensor));
            if let Some(missing) = missing {
                return Err(Error::malformed(
                    &path,
                    format!("lacks tensor `{missing}`, which {INDEX} says is there"),
                ));
            }
        }
        Ok(())
    }

    /// Maps a file and takes in those of its tensors that are `wanted`.
    fn add_shard(&mut self, path: &Path, wanted: impl Fn(&str) -> bool) -> Result<(), Error> {
        let file = MappedFile::open(path)?;
        // No range reaches beyond the end of the file, ranges do not overlap, and each is as long as shape and dtype say.
        let (header, metadata) =
            SafeTensors::read_metadata(file.bytes()).map_err(|e: SafeTensorError| {
                Error::malformed(path, format!("not a whole safetensors file: {e}"))
            })?;
        let data = header + size_of::<u64>();
        for (name, info) in metadata.tensors() {
            if !wanted(&name) {
                continue;
            }
            let (start, end) = info.data_offsets;
            let entry = Entry {
                info: TensorInfo {
                    shape: info.shape.clone(),
                    dtype: stored_dtype(info.dtype),
                    num_bytes: (end - start) as u64,
                },
                shard: self.shards.len(),
                range: data + start..data + end,
            };
            self.tensors.insert(name, entry);
        }
        self.shards.push(file);
        Ok(())
    }

    pub(super) fn shards(&self) -> &[MappedFile] {
        &self.shards
    }

    pub(super) fn entry(&self, name: &str) -> Option<&Entry> {
        self.tensors.get(name)
    }

    fn bytes(&self, entry: &Entry) -> &[u8] {
        &self.shards[entry.shard].bytes()[entry.range.clone()]
    }

    pub(super) fn error(&self, name: &str, problem: impl Into<String>) -> Error {
        let path = match self.tensors.get(name) {
            Some(entry) => &self.shards[entry.shard].path,
            None => &self.directory,
        };
        Error::Tensor {
            path: path.clone(),
            name: name.into(),
            problem: problem.into(),
        }
    }
}

impl TensorSource for SafetensorsCheckpoint {
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.tensors.keys().map(String::as_str))
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name).map(|entry| &entry.info)
    }

    fn read(&self, name: &str, range: Range<usize>, into: FloatsMut<'_>) -> Result<(), Error> {
        let Some(entry) = self.tensors.get(name) else {
            return Err(self.error(name, "is not in the checkpoint"));
        };
        let Some(dtype) = FloatDtype::of(&entry.info.dtype) else {
            let problem = format!("is {}, expected F32, F16 or BF16", entry.info.dtype);
            return Err(self.error(name, problem));
        };
        entry
            .info
            .check_range(&range, into.len())
            .map_err(|problem| self.error(name, problem))?;
        // No more numbers than the file has bytes: nothing overflows.
        let bytes = range.start * dtype.size()..range.end * dtype.size();
        decode(dtype, &self.bytes(entry)[bytes], into);
        Ok(())
    }

    fn raw(&self, name: &str) -> Vec<&[u8]> {
        self.tensors
            .get(name)
            .map(|entry| self.bytes(entry))
            .into_iter()
            .collect()
    }

    fn release(&self, name: &str) {
        if let Some(entry) = self.tensors.get(name) {
            self.shards[entry.shard].release(entry.range.clone());
        }
    }
}

/// Whether a path is the bare name of a file.
fn is_file_name(path: &str) -> bool {
    let mut components = Path::new(path).components();
    matches!(
        (components.next(), components.next()),
        (Some(Component::Normal(_)), None)
    )
}

fn stored_dtype(dtype: Dtype) -> StoredDtype {
    match dtype {
        Dtype::F32 => StoredDtype::F32,
        Dtype::F16 => StoredDtype::F16,
        Dtype::BF16 => StoredDtype::BF16,
        other => StoredDtype::Opaque(other.to_string()),
    }
}
