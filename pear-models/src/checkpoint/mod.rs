//! Hugging Face model directories and GGUF files: opening, checking and loading them, saving a decoder as one, folding coefficients into one.

mod convert;
mod export;
mod fingerprint;
mod fold;
mod gguf;
mod load;
mod origin;
mod parameter;
mod quantized;
mod safetensors;
mod save;
mod tensor_source;
#[cfg(any(feature = "chat", feature = "tokenizer"))]
mod text;

use std::collections::HashMap;
use std::path::Path;
use std::sync::OnceLock;

use burn::tensor::DType;
use pear_core::ModelShape;

use crate::config::DecoderConfig;
use crate::error::Error;
use crate::family::{IgnoredKeys, ModelConfig, TensorNames, config_of, read_json};
use crate::param::{ModuleId, ParamId};
use crate::tensor_part::TensorPart;
use fold::Fold;
pub use gguf::GgufCheckpoint;
use origin::Origin;
use quantized::{QuantizedCheckpoint, Settings};
pub use safetensors::SafetensorsCheckpoint;
pub use tensor_source::{FloatsMut, StoredDtype, TensorInfo, TensorSource};

/// A Hugging Face directory, or a GGUF file, whose config has been read and whose tensors have been checked against it; no weights are
/// loaded yet.
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
    origin: Origin,
    /// How the tensors are named.
    names: &'static TensorNames,
    config: DecoderConfig,
    ignored: IgnoredKeys,
    tensors: Box<dyn Fold>,
    /// The prefix of the names of this checkpoint's tensors.
    prefix: &'static str,
    /// Computed when first asked for.
    fingerprint: OnceLock<String>,
}

impl ModelDirectory {
    /// Opens a directory with `config.json` and `model.safetensors`, or shards named in `model.safetensors.index.json`; or a GGUF
    /// file, which may be the first of several that a model is split into.
    ///
    /// Headers are checked against the sizes of the files, and the name, shape and dtype of every tensor against the config, before memory is
    /// allocated for weights.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Malformed`], [`Error::Config`] or [`Error::Tensors`], naming the file and what was expected.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        if is_gguf(path) {
            let tensors = GgufCheckpoint::open(path)?;
            let metadata = tensors.shared_metadata();
            let (names, config, ignored) = crate::gguf::read_config(&metadata, &tensors)?;
            let origin = Origin::Gguf(metadata);
            return Self::of(origin, names, config, ignored, Box::new(tensors));
        }
        let config_path = path.join("config.json");
        let mut contents = read_json(&config_path)?;
        let settings = Settings::take(path, &mut contents)?;
        let ModelConfig {
            family,
            config,
            ignored,
        } = config_of(&config_path, contents)?;
        let names = (family.names)(&config);
        let tensors: Box<dyn Fold> = match settings {
            Some(settings) => Box::new(QuantizedCheckpoint::open(path, settings)?),
            None => Box::new(SafetensorsCheckpoint::open(path)?),
        };
        let origin = Origin::Directory(path.into());
        Self::of(origin, names, config, ignored, tensors)
    }

    /// The model of these tensors, which are checked.
    fn of(
        origin: Origin,
        names: &'static TensorNames,
        config: DecoderConfig,
        ignored: IgnoredKeys,
        tensors: Box<dyn Fold>,
    ) -> Result<Self, Error> {
        let prefix = Self::prefix(names, &config, tensors.as_ref());
        let directory = Self {
            origin,
            names,
            config,
            ignored,
            tensors,
            prefix,
            fingerprint: OnceLock::new(),
        };
        directory.check_tensors()?;
        Ok(directory)
    }

    /// The directory or file itself.
    pub fn path(&self) -> &Path {
        self.origin.path()
    }

    /// What `config.json`, or the metadata of the GGUF file, say.
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

    /// The type that most of the weights are stored in; `None` where these are codes with shared scales.
    pub fn stored_dtype(&self) -> Option<DType> {
        let mut elements: HashMap<&StoredDtype, usize> = HashMap::new();
        for name in self.used_tensors() {
            if let Some(info) = self.tensors.info(&name) {
                let count = elements.entry(&info.dtype).or_default();
                *count = count.saturating_add(info.num_elements());
            }
        }
        match elements.into_iter().max_by_key(|&(_, count)| count)?.0 {
            StoredDtype::F32 => Some(DType::F32),
            StoredDtype::F16 => Some(DType::F16),
            StoredDtype::BF16 => Some(DType::BF16),
            StoredDtype::Quantized(_) | StoredDtype::Opaque(_) => None,
        }
    }

    /// The ids that proxy sequences are not drawn from: BOS, EOS and padding of the configs, those that `tokenizer.json` calls special, and
    /// those that it has no token for. The metadata of a GGUF file say the same of its tokens.
    ///
    /// # Errors
    /// A `generation_config.json` or `tokenizer.json` that exists but cannot be read.
    pub fn special_tokens(&self) -> Result<Vec<u32>, Error> {
        self.origin.special_tokens(&self.config)
    }

    /// The ids that end a text: those of `config.json` and of `generation_config.json`, or those of a GGUF file that llama.cpp stops at.
    ///
    /// # Errors
    /// A `generation_config.json` that exists but cannot be read.
    pub fn eos_tokens(&self) -> Result<Vec<u32>, Error> {
        let mut tokens = self.config.eos_tokens.clone();
        tokens.extend(self.origin.generation_eos()?);
        tokens.sort_unstable();
        tokens.dedup();
        Ok(tokens)
    }

    /// The length that the model was trained for, if it is known: rotary models can read more, but not well.
    ///
    /// # Errors
    /// A `config.json` that cannot be read.
    pub fn trained_length(&self) -> Result<Option<usize>, Error> {
        self.origin.trained_length()
    }

    /// Whether the model has a tokenizer.
    pub fn has_tokenizer(&self) -> bool {
        self.origin.has_tokenizer()
    }

    /// The first prefix with which the embedding is found, or else the first of all.
    fn prefix(
        names: &TensorNames,
        config: &DecoderConfig,
        tensors: &dyn TensorSource,
    ) -> &'static str {
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
        self.names
    }

    /// The part of a tensor that holds a parameter.
    fn part(&self, id: ParamId) -> Option<TensorPart> {
        self.names().part(&self.config, self.prefix, id)
    }
}

/// Whether a path is that of a file, which must then be a GGUF file, or has the name of one that is not there.
fn is_gguf(path: &Path) -> bool {
    let is_named_so = path.extension().is_some_and(|end| end == "gguf");
    path.is_file() || is_named_so && !path.is_dir()
}
