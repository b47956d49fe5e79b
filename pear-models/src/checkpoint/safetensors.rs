//! Safetensors files, mapped into memory and checked.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use memmap2::Mmap;
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use serde::Deserialize;

use super::convert::{FloatDtype, decode};
use super::tensor_source::{FloatsMut, StoredDtype, TensorInfo, TensorSource};
use crate::error::Error;
use crate::regular_file;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The weights of a Hugging Face directory: `model.safetensors`, or the shards that `model.safetensors.index.json` names.
///
/// Files are mapped into memory: their pages are read when they are needed, and the system drops them when it needs the memory. A file
/// that another process shortens meanwhile makes the next read of its missing part fail with a bus error.
#[derive(Debug)]
pub struct SafetensorsCheckpoint {
    directory: PathBuf,
    shards: Vec<Shard>,
    tensors: BTreeMap<String, Entry>,
}

/// One file.
#[derive(Debug)]
pub(super) struct Shard {
    pub path: PathBuf,
    map: Mmap,
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
        let index: Index = serde_json::from_slice(&regular_file::read(&index_path)?)
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
        let file = regular_file::open(path, "open")?;
        // SAFETY: nothing writes through the map. What another process does to the file meanwhile cannot be prevented, as in every
        // program that maps weights: bytes that it changes are other numbers, and reading what it has cut off is a bus error.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io("read", path))?;
        // No range reaches beyond the end of the file, ranges do not overlap, and each is as long as shape and dtype say.
        let (header, metadata) =
            SafeTensors::read_metadata(&map).map_err(|e: SafeTensorError| {
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
        self.shards.push(Shard {
            path: path.into(),
            map,
        });
        Ok(())
    }

    pub(super) fn shards(&self) -> &[Shard] {
        &self.shards
    }

    pub(super) fn entry(&self, name: &str) -> Option<&Entry> {
        self.tensors.get(name)
    }

    fn bytes(&self, entry: &Entry) -> &[u8] {
        &self.shards[entry.shard].map[entry.range.clone()]
    }

    fn error(&self, name: &str, problem: impl Into<String>) -> Error {
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

impl Shard {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Gives back the pages of a range: they no longer count as this process's memory.
    pub(super) fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        {
            // SAFETY: the map is of a file and never written: pages that are read again come from the file again.
            let released = unsafe {
                self.map.unchecked_advise_range(
                    memmap2::UncheckedAdvice::DontNeed,
                    range.start,
                    range.len(),
                )
            };
            // Advice that is not taken costs memory, nothing else.
            if let Err(error) = released {
                log::debug!("{}: {error}", self.path.display());
            }
        }
        #[cfg(not(unix))]
        let _ = range;
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

#[cfg(test)]
mod tests {
    use std::fs;

    use half::{bf16, f16};
    use safetensors::tensor::TensorView;

    use super::*;

    fn write(path: &Path, tensors: &[(&str, Dtype, &[usize], Vec<u8>)]) {
        let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
            (
                *name,
                TensorView::new(*dtype, shape.to_vec(), bytes).unwrap(),
            )
        });
        fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
    }

    /// Two shards: `single` and `half` in one, `brain` and `count` in the other, with a tensor that the index does not know.
    fn sharded() -> (tempfile::TempDir, SafetensorsCheckpoint) {
        let folder = tempfile::tempdir().unwrap();
        let single = (0..6).flat_map(|i| (i as f32 + 0.1).to_le_bytes());
        let half = (0..6).flat_map(|i| f16::from_f32(-(i as f32) / 3.0).to_le_bytes());
        let brain = (0..4).flat_map(|i| bf16::from_f32(i as f32 * 1e9).to_le_bytes());
        let count = (0..2).flat_map(i32::to_le_bytes);
        write(
            &folder.path().join("a.safetensors"),
            &[
                ("single", Dtype::F32, &[3, 2], single.collect()),
                ("half", Dtype::F16, &[2, 3], half.collect()),
            ],
        );
        write(
            &folder.path().join("b.safetensors"),
            &[
                ("brain", Dtype::BF16, &[4], brain.collect()),
                ("count", Dtype::I32, &[2], count.collect()),
                ("stray", Dtype::F32, &[1], vec![0; 4]),
            ],
        );
        let index = serde_json::json!({"weight_map": {
            "single": "a.safetensors", "half": "a.safetensors", "brain": "b.safetensors", "count": "b.safetensors",
        }});
        fs::write(folder.path().join(INDEX), index.to_string()).unwrap();
        let checkpoint = SafetensorsCheckpoint::open(folder.path()).unwrap();
        (folder, checkpoint)
    }

    #[test]
    fn tensors_of_all_shards_are_listed_with_shape_and_type() {
        let (_folder, checkpoint) = sharded();
        let source: &dyn TensorSource = &checkpoint;
        let names: Vec<_> = source.names().collect();
        assert_eq!(names, ["brain", "count", "half", "single"]);
        for (name, shape, dtype, num_bytes) in [
            ("single", &[3, 2][..], "F32", 24),
            ("half", &[2, 3], "F16", 12),
            ("brain", &[4], "BF16", 8),
            ("count", &[2], "I32", 8),
        ] {
            let info = source.info(name).unwrap();
            assert_eq!(
                (&info.shape[..], info.dtype.to_string(), info.num_bytes),
                (shape, dtype.to_owned(), num_bytes)
            );
            assert_eq!(info.dtype.is_readable(), name != "count");
        }
        assert_eq!(source.info("stray"), None);
    }

    #[test]
    fn rows_of_each_type_are_read_from_their_shard_in_each_type() {
        let (_folder, source) = sharded();
        let mut wide = [0f32; 4];
        source.rows("single", 1..3, (&mut wide[..]).into()).unwrap();
        assert_eq!(wide, [2.1, 3.1, 4.1, 5.1]);
        let mut brain = [bf16::ZERO; 4];
        source
            .rows("single", 1..3, (&mut brain[..]).into())
            .unwrap();
        assert_eq!(brain, wide.map(bf16::from_f32));

        let mut half = [f16::ZERO; 3];
        source.rows("half", 1..2, (&mut half[..]).into()).unwrap();
        assert_eq!(half, [3., 4., 5.].map(|i: f32| f16::from_f32(-i / 3.0)));
        let mut wide = [0f32; 3];
        source.rows("half", 1..2, (&mut wide[..]).into()).unwrap();
        assert_eq!(wide, half.map(f16::to_f32));

        let mut brain = [bf16::ZERO; 2];
        source.read("brain", 1..3, (&mut brain[..]).into()).unwrap();
        assert_eq!(brain, [1e9, 2e9].map(bf16::from_f32));
        let mut half = [f16::ZERO; 2];
        source.read("brain", 0..2, (&mut half[..]).into()).unwrap();
        assert_eq!(half, [f16::ZERO, f16::INFINITY]);
    }

    #[test]
    fn raw_bytes_are_those_of_the_file_and_are_there_again_after_release() {
        let (_folder, source) = sharded();
        let expected: Vec<u8> = (0..6)
            .flat_map(|i| (i as f32 + 0.1).to_le_bytes())
            .collect();
        assert_eq!(source.raw("single"), [&expected[..]]);
        source.release("single");
        source.release("absent");
        assert_eq!(source.raw("single"), [&expected[..]]);
        assert!(source.raw("absent").is_empty());
    }

    #[test]
    fn errors_name_file_and_tensor() {
        let (folder, source) = sharded();
        let mut three = [0f32; 3];
        for (name, range, file, problem) in [
            ("absent", 0..3, "", "is not in the checkpoint"),
            (
                "count",
                0..3,
                "b.safetensors",
                "is I32, expected F32, F16 or BF16",
            ),
            ("half", 4..7, "a.safetensors", "numbers 4..7 of [2, 3]"),
            (
                "brain",
                0..2,
                "b.safetensors",
                "a buffer of 3 for the numbers 0..2: expected 2",
            ),
            (
                "brain",
                usize::MAX - 3..usize::MAX,
                "b.safetensors",
                "numbers 184",
            ),
        ] {
            let error = source
                .read(name, range, (&mut three[..]).into())
                .unwrap_err();
            let Error::Tensor { path, .. } = &error else {
                panic!("{error:?}");
            };
            assert_eq!(
                *path,
                if file.is_empty() {
                    folder.path().to_path_buf()
                } else {
                    folder.path().join(file)
                }
            );
            let message = error.to_string();
            assert!(
                message.contains(&format!("tensor `{name}`: {problem}")),
                "{message}"
            );
        }
    }

    #[test]
    fn threads_read_from_one_source() {
        let (_folder, source) = sharded();
        let read = || {
            let mut wide = [0f32; 6];
            source.rows("half", 0..2, (&mut wide[..]).into()).unwrap();
            wide
        };
        let (here, there) = std::thread::scope(|scope| {
            let there = scope.spawn(read);
            (read(), there.join().unwrap())
        });
        assert_eq!(here, there);
        assert_eq!(here[3], -1.0);
    }
}
