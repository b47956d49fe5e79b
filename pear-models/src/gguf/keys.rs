//! What a GGUF file says of its model: the metadata under the name of its architecture, and which tensors there are.

use serde_json::{Map, Value};

use super::metadata::GgufMetadata;
use crate::error::Error;

/// The tensors of a model, as far as its config depends on them.
pub(crate) trait TensorLookup {
    /// How many tensors there are.
    fn count(&self) -> usize;

    /// The shape of a tensor, the outermost size first.
    fn shape(&self, name: &str) -> Option<&[usize]>;

    /// All numbers of a vector.
    ///
    /// # Errors
    /// [`Error::Tensor`] for one that cannot be decoded.
    fn vector(&self, name: &str) -> Result<Vec<f32>, Error>;
}

/// More than the channels of any head, for which vectors have numbers.
const LONGEST_VECTOR: usize = 1 << 16;

/// A `config.json`, as it is built.
pub(super) type Json = Map<String, Value>;

/// Metadata and tensors of one model.
pub(super) struct Keys<'a> {
    pub metadata: &'a GgufMetadata,
    /// `general.architecture`, which all keys of the model begin with.
    pub architecture: &'a str,
    pub tensors: &'a dyn TensorLookup,
}

impl Keys<'_> {
    /// A key of this architecture: `llama.block_count` for `block_count`.
    pub fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    /// An error about a key of this architecture.
    pub fn error(&self, name: &str, problem: impl Into<String>) -> Error {
        self.metadata.error(&self.key(name), problem)
    }

    pub fn number(&self, name: &str) -> Result<Option<f64>, Error> {
        self.metadata.number(&self.key(name))
    }

    pub fn flag(&self, name: &str) -> Result<Option<bool>, Error> {
        self.metadata.flag(&self.key(name))
    }

    pub fn text(&self, name: &str) -> Result<Option<&str>, Error> {
        self.metadata.text(&self.key(name))
    }

    /// A whole number from 0 up.
    pub fn size(&self, name: &str) -> Result<Option<usize>, Error> {
        let key = self.key(name);
        let size = |value: i64| {
            usize::try_from(value).map_err(|_| {
                self.metadata
                    .error(&key, format!("is {value}: expected at least 0"))
            })
        };
        self.metadata.integer(&key)?.map(size).transpose()
    }

    pub fn required(&self, name: &str) -> Result<usize, Error> {
        self.size(name)?
            .ok_or_else(|| self.error(name, "is missing"))
    }

    /// A size of each layer, which may be one for all of them.
    pub fn sizes(&self, name: &str, num_layers: usize) -> Result<Option<Vec<usize>>, Error> {
        let key = self.key(name);
        let Some(value) = self.metadata.get(&key) else {
            return Ok(None);
        };
        if value.integer().is_some() {
            return Ok(self.size(name)?.map(|size| vec![size; num_layers]));
        }
        let integers = self.metadata.integers(&key)?.unwrap_or_default();
        let sizes: Option<Vec<usize>> = integers
            .iter()
            .map(|&size| usize::try_from(size).ok())
            .collect();
        let sizes = sizes.filter(|sizes| sizes.len() == num_layers);
        let expected = || {
            self.metadata.error(
                &key,
                format!("expected a size for each of {num_layers} layers"),
            )
        };
        sizes.map(Some).ok_or_else(expected)
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, tensor: &str) -> bool {
        self.tensors.shape(tensor).is_some()
    }

    /// Whether a layer has a tensor of this name: `attn_q.bias`.
    pub fn layer_has(&self, layer: usize, tensor: &str) -> bool {
        self.has(&format!("blk.{layer}.{tensor}"))
    }

    /// The numbers of a vector, as those of a list in `config.json`; `None` if it is not there.
    pub fn vector(&self, tensor: &str) -> Result<Option<Vec<f64>>, Error> {
        match self.tensors.shape(tensor) {
            None => return Ok(None),
            Some(&[len]) if len <= LONGEST_VECTOR => {}
            Some(shape) => {
                let problem = format!(
                    "tensor `{tensor}` has the shape {shape:?}: expected at most {LONGEST_VECTOR} numbers"
                );
                return Err(Error::malformed(self.metadata.path(), problem));
            }
        }
        let numbers = self.tensors.vector(tensor)?;
        Ok(Some(
            numbers.into_iter().map(super::value::shortest).collect(),
        ))
    }
}
