//! The safetensors files of a model directory, mapped into memory and checked.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Component, Path, PathBuf};

use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use crate::error::Error;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// One file.
#[derive(Debug)]
pub(super) struct Shard {
    pub path: PathBuf,
    map: Mmap,
}

impl Shard {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.map
    }
}

/// Where a tensor is.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub shard: usize,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// Its bytes, counted from the start of the file.
    pub range: std::ops::Range<usize>,
}

/// All tensors of a checkpoint.
#[derive(Debug)]
pub(super) struct Weights {
    pub shards: Vec<Shard>,
    pub tensors: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Weights {
    pub(super) fn open(directory: &Path) -> Result<Self, Error> {
        let (single, index) = (directory.join(SINGLE), directory.join(INDEX));
        let mut weights = Self {
            shards: Vec::new(),
            tensors: BTreeMap::new(),
        };
        if single.exists() {
            weights.add(&single, |_| true)?;
        } else if index.exists() {
            weights.add_shards(directory, &index)?;
        } else {
            return Err(Error::malformed(
                directory,
                format!("holds neither {SINGLE} nor {INDEX}"),
            ));
        }
        Ok(weights)
    }

    fn add_shards(&mut self, directory: &Path, index_path: &Path) -> Result<(), Error> {
        let text = std::fs::read(index_path).map_err(Error::io("read", index_path))?;
        let index: Index = serde_json::from_slice(&text)
            .map_err(|e| Error::malformed(index_path, format!("not a shard index: {e}")))?;
        let mut shards: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (tensor, shard) in &index.weight_map {
            shards.entry(shard).or_default().push(tensor);
        }
        if shards.is_empty() {
            return Err(Error::malformed(index_path, "names no shard"));
        }
        for (shard, tensors) in shards {
            let mut components = Path::new(shard).components();
            if !matches!(
                (components.next(), components.next()),
                (Some(Component::Normal(_)), None)
            ) {
                return Err(Error::malformed(
                    index_path,
                    format!("shard `{shard}` is not a file in the same directory"),
                ));
            }
            let path = directory.join(shard);
            // A stray tensor in a shard that the index does not know is not part of the model.
            self.add(&path, |name| {
                index.weight_map.get(name).is_some_and(|s| s == shard)
            })?;
            if let Some(missing) = tensors
                .iter()
                .find(|tensor| !self.tensors.contains_key(**tensor))
            {
                return Err(Error::malformed(
                    &path,
                    format!("lacks tensor `{missing}`, which {INDEX} says is there"),
                ));
            }
        }
        Ok(())
    }

    fn add(&mut self, path: &Path, wanted: impl Fn(&str) -> bool) -> Result<(), Error> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        if !file.metadata().map_err(Error::io("read", path))?.is_file() {
            return Err(Error::malformed(path, "is not a file"));
        }
        // SAFETY: the map is only read, and as bytes; should another process shorten the file meanwhile, reading faults, as it would
        // in every program that maps weights.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io("read", path))?;
        let malformed = |e: safetensors::SafeTensorError| {
            Error::malformed(path, format!("not a whole safetensors file: {e}"))
        };
        // The header is checked against the length of the file: no offset reaches beyond it, none overlap, nothing is left over.
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(malformed)?;
        let data = header + size_of::<u64>();
        for (name, info) in metadata.tensors() {
            if wanted(&name) {
                let range = data + info.data_offsets.0..data + info.data_offsets.1;
                let entry = Entry {
                    shard: self.shards.len(),
                    dtype: info.dtype,
                    shape: info.shape.clone(),
                    range,
                };
                self.tensors.insert(name, entry);
            }
        }
        self.shards.push(Shard {
            path: path.into(),
            map,
        });
        Ok(())
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    pub(super) fn bytes(&self, entry: &Entry) -> &[u8] {
        &self.shards[entry.shard].map[entry.range.clone()]
    }

    /// Says that a tensor will not be read again soon: its pages no longer count as this process's memory.
    pub(super) fn release(&self, entry: &Entry) {
        #[cfg(unix)]
        {
            // SAFETY: the map is read-only and of a file: pages that are read again come from the file again.
            let released = unsafe {
                let advice = memmap2::UncheckedAdvice::DontNeed;
                self.shards[entry.shard].map.unchecked_advise_range(
                    advice,
                    entry.range.start,
                    entry.range.len(),
                )
            };
            // Advice that is not taken costs memory, nothing else.
            if let Err(error) = released {
                log::debug!("{}: {error}", self.shards[entry.shard].path.display());
            }
        }
        #[cfg(not(unix))]
        let _ = entry;
    }
}
