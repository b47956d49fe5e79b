//! One GGUF file, mapped into memory and checked.

use std::path::Path;
use std::sync::Arc;

use super::header::{GgufTensor, Header};
use super::metadata::GgufMetadata;
use crate::error::Error;
use crate::mapped_file::MappedFile;

/// A GGUF file whose header has been read and checked against its size.
#[derive(Debug)]
pub(crate) struct GgufFile {
    file: MappedFile,
    header: Header,
}

impl GgufFile {
    /// # Errors
    /// [`Error::Io`], or [`Error::Malformed`] for what is not a whole GGUF file.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = MappedFile::open(path)?;
        let header =
            Header::read(path, file.bytes()).map_err(|problem| Error::malformed(path, problem))?;
        Ok(Self { file, header })
    }

    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// Version of the format.
    pub fn version(&self) -> u32 {
        self.header.version
    }

    pub fn metadata(&self) -> &Arc<GgufMetadata> {
        &self.header.metadata
    }

    /// The tensors, in the order of the file.
    pub fn tensors(&self) -> &[GgufTensor] {
        &self.header.tensors
    }

    /// The starts of the data section and of all tensors are multiples of it.
    pub fn alignment(&self) -> usize {
        self.header.alignment
    }

    /// The whole file.
    pub fn bytes(&self) -> &[u8] {
        self.file.bytes()
    }

    /// The bytes of one of its tensors.
    pub fn tensor_bytes(&self, tensor: &GgufTensor) -> &[u8] {
        &self.bytes()[tensor.range.clone()]
    }

    /// Gives back the pages of a tensor: they no longer count as this process's memory.
    pub fn release(&self, tensor: &GgufTensor) {
        self.file.release(tensor.range.clone());
    }
}
