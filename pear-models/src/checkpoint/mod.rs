//! Hugging Face model directories: opened, checked, loaded, and written back with coefficients folded in.

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
use crate::family::{Family, Parameter, read_config};
use crate::source::Source;
use fold::Fold;
pub use safetensors::SafetensorsCheckpoint;
pub use tensor_source::{FloatsMut, StoredDtype, TensorInfo, TensorSource};

/// A model directory: `config.json` read, the headers of the weights checked, nothing loaded yet.
///
/// ```no_run
/// use burn::prelude::*;
/// use burn::tensor::DType;
/// use pear_models::ModelDirectory;
///
/// let directory = ModelDirectory::open("Llama-3.2-1B".as_ref())?;
/// println!("{}", directory.shape());
/// let model = directory.load(&Device::default(), DType::BF16)?;
/// # Ok::<(), pear_models::Error>(())
/// ```
#[derive(Debug)]
pub struct ModelDirectory {
    path: PathBuf,
    family: &'static Family,
    config: DecoderConfig,
    tensors: Box<dyn Fold>,
    /// What stands before the names of this checkpoint's tensors.
    prefix: &'static str,
    /// Computed when first asked for.
    fingerprint: OnceLock<String>,
}

impl ModelDirectory {
    /// Opens a directory with `config.json` and `model.safetensors`, or shards named in `model.safetensors.index.json`.
    ///
    /// Headers are checked against the files' true sizes, and every tensor's name, shape and dtype against the config, before any
    /// memory is taken for weights.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Malformed`], [`Error::Config`] or [`Error::Tensors`], naming the file and what was expected.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let (family, config) = read_config(&path.join("config.json"))?;
        let tensors: Box<dyn Fold> = Box::new(SafetensorsCheckpoint::open(path)?);
        let prefix = Self::prefix(family, &config, tensors.as_ref());
        let directory = Self {
            path: path.into(),
            family,
            config,
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

    /// The grid of heads.
    pub fn shape(&self) -> ModelShape {
        self.config.shape()
    }

    /// The ids that proxy sequences are not drawn from: BOS, EOS and padding of the configs, what `tokenizer.json` calls special, and
    /// ids that it has no token for.
    ///
    /// # Errors
    /// A `generation_config.json` or `tokenizer.json` that is there but cannot be read.
    pub fn special_tokens(&self) -> Result<Vec<u32>, Error> {
        crate::special::special_tokens(&self.path, &self.config)
    }

    /// The ids that end a text: those of `config.json` and of `generation_config.json`.
    ///
    /// # Errors
    /// A `generation_config.json` that is there but cannot be read.
    pub fn eos_tokens(&self) -> Result<Vec<u32>, Error> {
        let mut tokens = self.config.eos_tokens.clone();
        tokens.extend(crate::special::generation_eos(&self.path)?);
        tokens.sort_unstable();
        tokens.dedup();
        Ok(tokens)
    }

    /// The first prefix under which the embedding is found; the first of all if it is found under none.
    fn prefix(family: &Family, config: &DecoderConfig, tensors: &dyn TensorSource) -> &'static str {
        let embedding = (family.source)(
            config,
            &Parameter {
                layer: None,
                name: "embed_tokens",
            },
        );
        let is_there = |prefix: &&&str| {
            embedding
                .as_ref()
                .is_some_and(|e| tensors.info(&format!("{prefix}{}", e.name)).is_some())
        };
        family
            .prefixes
            .iter()
            .find(is_there)
            .copied()
            .unwrap_or(family.prefixes[0])
    }

    /// The tensor of a parameter, by the path it has in the [`Decoder`](crate::Decoder).
    fn source(&self, path: &str) -> Option<Source> {
        source_of(self.family, &self.config, self.prefix, path)
    }
}

/// The tensor of a parameter, by the path it has in the [`Decoder`](crate::Decoder): `layers.3.self_attn.q_proj.weight`.
fn source_of(family: &Family, config: &DecoderConfig, prefix: &str, path: &str) -> Option<Source> {
    match path {
        "lm_head" => return Some(Source::as_is(family.lm_head)),
        "lm_head_bias" => return Some(Source::as_is(family.lm_head.replace(".weight", ".bias"))),
        _ => {}
    }
    let in_layer = path
        .strip_prefix("layers.")
        .and_then(|rest| rest.split_once('.'));
    let parameter = match in_layer {
        Some((layer, name)) => Parameter {
            layer: Some(layer.parse().ok()?),
            name,
        },
        None => Parameter {
            layer: None,
            name: path,
        },
    };
    let mut source = (family.source)(config, &parameter)?;
    source.name.insert_str(0, prefix);
    Some(source)
}
