//! GGUF files as a source of tensors, dequantised while they are read.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::slice::HalfFloatSliceExt;

use super::convert::{FloatDtype, decode};
use super::fold::{Fold, ScaledBlock, ScaledBlocks};
use super::tensor_source::{FloatsMut, StoredDtype, TensorInfo, TensorSource};
use crate::error::Error;
use crate::fold_plan::FoldPlan;
use crate::gguf::dequantize::dequantize;
use crate::gguf::fold::{GgufFold, HeadColumns};
use crate::gguf::ggml_type::GgmlType;
use crate::gguf::{self, GgufFile, GgufMetadata, GgufTensor, TensorLookup};

/// Numbers that are dequantised at once: a multiple of every block, and little enough to stay in the first-level cache.
const PIECE: usize = 2048;

/// The tensors of a GGUF file, or of the files that a model is split into.
///
/// Files are mapped into memory, and numbers dequantised when they are asked for; see
/// [`SafetensorsCheckpoint`](crate::SafetensorsCheckpoint) for what mapping means. [`ModelDirectory`](crate::ModelDirectory) opens them as
/// models.
///
/// ```no_run
/// use pear_models::{GgufCheckpoint, TensorSource};
///
/// let checkpoint = GgufCheckpoint::open("SmolLM2-135M-Instruct.Q4_1.gguf")?;
/// println!("{:?}", checkpoint.metadata().text("general.architecture")?);
/// let mut row = vec![0f32; checkpoint.info("token_embd.weight").unwrap().row_len()];
/// checkpoint.rows("token_embd.weight", 0..1, (&mut row[..]).into())?;
/// # Ok::<(), pear_models::Error>(())
/// ```
#[derive(Debug)]
pub struct GgufCheckpoint {
    /// The first one holds the metadata of the model.
    files: Vec<GgufFile>,
    tensors: BTreeMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    info: TensorInfo,
    tensor: GgufTensor,
    file: usize,
}

impl GgufCheckpoint {
    /// Opens a file or, if it is the first one of several, all of them, and checks their headers.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Malformed`] or [`Error::Config`] for a file that is not whole, contradicts itself, or lacks its siblings.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let files = gguf::open_all(path.as_ref())?;
        let mut tensors = BTreeMap::new();
        for (file, opened) in files.iter().enumerate() {
            for tensor in opened.tensors() {
                let info = TensorInfo {
                    shape: tensor.shape.clone(),
                    dtype: stored_dtype(tensor.dtype),
                    num_bytes: tensor.range.len() as u64,
                };
                let entry = Entry {
                    info,
                    tensor: tensor.clone(),
                    file,
                };
                tensors.insert(tensor.name.clone(), entry);
            }
        }
        Ok(Self { files, tensors })
    }

    /// The metadata of the model.
    pub fn metadata(&self) -> &GgufMetadata {
        self.files[0].metadata()
    }

    /// The same, to be kept.
    pub(super) fn shared_metadata(&self) -> Arc<GgufMetadata> {
        self.files[0].metadata().clone()
    }

    fn bytes(&self, entry: &Entry) -> &[u8] {
        self.files[entry.file].tensor_bytes(&entry.tensor)
    }

    fn error(&self, name: &str, problem: impl Into<String>) -> Error {
        let file = self.tensors.get(name).map_or(0, |entry| entry.file);
        Error::Tensor {
            path: self.files[file].path().into(),
            name: name.into(),
            problem: problem.into(),
        }
    }
}

impl TensorSource for GgufCheckpoint {
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.tensors.keys().map(String::as_str))
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name).map(|entry| &entry.info)
    }

    fn read(&self, name: &str, range: Range<usize>, into: FloatsMut<'_>) -> Result<(), Error> {
        let Some(entry) = self.tensors.get(name) else {
            return Err(self.error(name, "is not in the file"));
        };
        if !entry.info.dtype.is_readable() {
            let problem = format!("is {}, expected numbers with a fraction", entry.info.dtype);
            return Err(self.error(name, problem));
        }
        entry
            .info
            .check_range(&range, into.len())
            .map_err(|problem| self.error(name, problem))?;
        let (bytes, dtype) = (self.bytes(entry), entry.tensor.dtype);
        match FloatDtype::of(&entry.info.dtype) {
            Some(float) => {
                let bytes = range.start * float.size()..range.end * float.size();
                decode(float, &self.bytes(entry)[bytes], into);
                Ok(())
            }
            None => {
                read_blocks(dtype, bytes, range, into);
                Ok(())
            }
        }
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
            self.files[entry.file].release(&entry.tensor);
        }
    }
}

impl TensorLookup for GgufCheckpoint {
    fn count(&self) -> usize {
        self.tensors.len()
    }

    fn shape(&self, name: &str) -> Option<&[usize]> {
        self.info(name).map(|info| &info.shape[..])
    }

    fn vector(&self, name: &str) -> Result<Vec<f32>, Error> {
        let len = self.info(name).map_or(0, TensorInfo::num_elements);
        let mut numbers = vec![0.0; len];
        self.read(name, 0..len, (&mut numbers[..]).into())?;
        Ok(numbers)
    }
}

impl Fold for GgufCheckpoint {
    fn weight_files(&self) -> Vec<&Path> {
        self.files.iter().map(GgufFile::path).collect()
    }

    fn plan_fold(&self, blocks: &ScaledBlocks) -> Result<FoldPlan, Error> {
        Ok(self.fold(blocks)?.summary())
    }

    fn write_folded(&self, folder: &Path, blocks: &ScaledBlocks) -> Result<FoldPlan, Error> {
        let fold = self.fold(blocks)?;
        let names = self.files.iter().map(|file| file.path().file_name());
        let targets: Vec<PathBuf> = names
            .map(|name| folder.join(name.unwrap_or_default()))
            .collect();
        fold.write(&targets)?;
        Ok(fold.summary())
    }
}

impl GgufCheckpoint {
    /// Chooses a route for each of the tensors.
    fn fold(&self, blocks: &ScaledBlocks) -> Result<GgufFold<'_>, Error> {
        let columns = |block: &ScaledBlock| HeadColumns {
            head: block.head,
            columns: block.columns.clone(),
            factor: block.factor,
        };
        let of_tensors = blocks
            .iter()
            .map(|(name, blocks)| (name.clone(), blocks.iter().map(columns).collect()))
            .collect();
        GgufFold::plan(&self.files, &of_tensors)
    }
}

/// Decodes the numbers of a range, which may begin and end within blocks.
///
/// Rows are whole blocks, so that blocks can be counted through the whole tensor.
fn read_blocks(dtype: GgmlType, bytes: &[u8], range: Range<usize>, mut into: FloatsMut<'_>) {
    let (len, size) = (dtype.block_len(), dtype.block_bytes());
    let mut wide = [0.0; PIECE];
    let mut start = range.start;
    while start < range.end {
        let first = start / len;
        let end = range.end.min((first + PIECE / len) * len);
        let last = end.div_ceil(len);
        let wide = &mut wide[..(last - first) * len];
        dequantize(dtype, &bytes[first * size..last * size], wide);
        let numbers = &wide[start - first * len..end - first * len];
        let target = start - range.start..end - range.start;
        match &mut into {
            FloatsMut::F32(into) => into[target].copy_from_slice(numbers),
            FloatsMut::F16(into) => into[target].convert_from_f32_slice(numbers),
            FloatsMut::BF16(into) => into[target].convert_from_f32_slice(numbers),
        }
        start = end;
    }
}

fn stored_dtype(dtype: GgmlType) -> StoredDtype {
    match dtype {
        GgmlType::F32 => StoredDtype::F32,
        GgmlType::F16 => StoredDtype::F16,
        GgmlType::BF16 => StoredDtype::BF16,
        integers if integers.is_integer() => StoredDtype::Opaque(integers.to_string()),
        other => StoredDtype::Quantized(other.to_string()),
    }
}
