//! Hugging Face model directories: opening, checking and loading them, saving a decoder as one, folding coefficients into one.

mod convert;
mod export;
mod fingerprint;
mod fold;
mod load;
mod parameter;
mod safetensors;
mod save;
mod tensor_source;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use pear_core::ModelShape;

use crate::config::DecoderConfig;
use crate::error::Error;
use crate::family::{Family, IgnoredKeys, ModelConfig, TensorNames, read_config};
use crate::param::{ModuleId, ParamId};
use crate::tensor_part::TensorPart;
use fold::Fold;
pub use safetensors::SafetensorsCheckpoint;
pub use tensor_source::{FloatsMut, StoredDtype, TensorInfo, TensorSource};

/// A model directory whose `config.json` has been read and whose tensors have been checked against it; no weights are loaded yet.
///
/// ```no_run
/// use burn::prelude::*;
/// use burn::tensor::DType;
/// use pear_models::ModelDirectory;
///
/// let directory = ModelDirectory::open("Llama-3.2-1B")?;
/// println!("{}", directory.shape());
/// let model = directory.load(&Device::default(), DType::BF16)?;
/// # Ok::<(), pear_models::Error>(())
/// ```
#[derive(Debug)]
pub struct ModelDirectory {
    path: PathBuf,
    family: &'static Family,
    config: DecoderConfig,
    ignored: IgnoredKeys,
    tensors: Box<dyn Fold>,
    /// The prefix of the names of this checkpoint's tensors.
    prefix: &'static str,
    /// Computed when first asked for.
    fingerprint: OnceLock<String>,
}

impl ModelDirectory {
    /// Opens a directory with `config.json` and `model.safetensors`, or shards named in `model.safetensors.index.json`.
    ///
    /// Headers are checked against the sizes of the files, and the name, shape and dtype of every tensor against the config, before memory is
    /// allocated for weights.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Malformed`], [`Error::Config`] or [`Error::Tensors`], naming the file and what was expected.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let ModelConfig {
            family,
            config,
            ignored,
        } = read_config(&path.join("config.json"))?;
        let tensors: Box<dyn Fold> = Box::new(SafetensorsCheckpoint::open(path)?);
        let prefix = Self::prefix(family, &config, tensors.as_ref());
        let directory = Self {
            path: path.into(),
            family,
            config,
            ignored,
            tensors,
            prefix,
            fingerprint: OnceLock::new(),
        };
        directory.check_tensors()?;
        Ok(directory)
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What `config.json` says.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// The keys of `config.json` that nothing read. They change nothing as far as transformers' code goes; who wants to be sure calls
    /// [`IgnoredKeys::refuse`].
    pub fn ignored_keys(&self) -> &IgnoredKeys {
        &self.ignored
    }

    /// The grid of heads.
    pub fn shape(&self) -> ModelShape {
        self.config.shape()
    }

    /// The ids that proxy sequences are not drawn from: BOS, EOS and padding of the configs, those that `tokenizer.json` calls special, and
    /// those that it has no token for.
    ///
    /// # Errors
    /// A `generation_config.json` or `tokenizer.json` that exists but cannot be read.
    pub fn special_tokens(&self) -> Result<Vec<u32>, Error> {
        crate::special_tokens::special_tokens(&self.path, &self.config)
    }

    /// The ids that end a text: those of `config.json` and of `generation_config.json`.
    ///
    /// # Errors
    /// A `generation_config.json` that exists but cannot be read.
    pub fn eos_tokens(&self) -> Result<Vec<u32>, Error> {
        let mut tokens = self.config.eos_tokens.clone();
        tokens.extend(crate::special_tokens::generation_eos(&self.path)?);
        tokens.sort_unstable();
        tokens.dedup();
        Ok(tokens)
    }

    /// The first prefix with which the embedding is found, or else the first of all.
    fn prefix(family: &Family, config: &DecoderConfig, tensors: &dyn TensorSource) -> &'static str {
        let names = (family.names)(config);
        let embedding = ParamId::model_weight(ModuleId::EmbedTokens);
        let holds_embedding = |prefix: &&&str| {
            names
                .part(config, prefix, embedding)
                .is_some_and(|part| tensors.info(&part.name).is_some())
        };
        let found = names.prefixes.iter().find(holds_embedding);
        found.copied().unwrap_or(names.prefixes[0])
    }

    /// How the tensors are named.
    fn names(&self) -> &'static TensorNames {
        (self.family.names)(&self.config)
    }

    /// The part of a tensor that holds a parameter.
    fn part(&self, id: ParamId) -> Option<TensorPart> {
        self.names().part(&self.config, self.prefix, id)
    }
}
