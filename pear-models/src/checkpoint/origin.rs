//! Where a model came from: what is not weights, whatever form it has there.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use crate::config::DecoderConfig;
use crate::error::Error;
use crate::gguf::GgufMetadata;
use crate::regular_file::{self, LISTS, SETTINGS};
use crate::{python_json, special_tokens};

/// Where a model came from.
#[derive(Debug)]
pub(super) enum Origin {
    /// A Hugging Face directory.
    Directory(PathBuf),
    /// A GGUF file, whose metadata hold config, tokenizer and chat template.
    Gguf(Arc<GgufMetadata>),
}

impl Origin {
    /// The directory or file.
    pub fn path(&self) -> &Path {
        match self {
            Self::Directory(path) => path,
            Self::Gguf(metadata) => metadata.path(),
        }
    }

    /// The ids that stand for no text.
    pub fn special_tokens(&self, config: &DecoderConfig) -> Result<Vec<u32>, Error> {
        match self {
            Self::Directory(path) => special_tokens::special_tokens(path, config),
            Self::Gguf(_) => Ok(config.special_tokens.clone()),
        }
    }

    /// The ids that end a text, beyond those of the config.
    pub fn generation_eos(&self) -> Result<Vec<u32>, Error> {
        match self {
            Self::Directory(path) => special_tokens::generation_eos(path),
            Self::Gguf(_) => Ok(Vec::new()),
        }
    }

    /// The length that the model was trained for: rotary models can read more, but not well.
    pub fn trained_length(&self) -> Result<Option<usize>, Error> {
        match self {
            Self::Directory(path) => trained_length(&path.join("config.json")),
            Self::Gguf(metadata) => {
                let architecture = metadata.text("general.architecture")?.unwrap_or_default();
                let length = metadata.integer(&format!("{architecture}.context_length"))?;
                Ok(length.and_then(|length| usize::try_from(length).ok()))
            }
        }
    }

    /// Fingerprint of the tokenizer: of `tokenizer.json`, or of what the metadata say of tokens.
    pub fn tokenizer_fingerprint(&self) -> Result<Option<String>, Error> {
        match self {
            Self::Directory(path) => {
                let bytes = regular_file::read_if_present(&path.join("tokenizer.json"), LISTS)?;
                Ok(bytes.map(|bytes| blake3::hash(&bytes).to_hex().to_string()))
            }
            Self::Gguf(metadata) => Ok(metadata.fingerprint("tokenizer.ggml.")),
        }
    }

    /// Whether there is a tokenizer.
    pub fn has_tokenizer(&self) -> bool {
        match self {
            Self::Directory(path) => path.join("tokenizer.json").exists(),
            Self::Gguf(metadata) => {
                let has = |list| metadata.get(&format!("tokenizer.ggml.{list}")).is_some();
                // Tokens alone do not say how a text becomes them.
                has("tokens") && (has("merges") || has("scores"))
            }
        }
    }
}

/// What `config.json` says of the length that the model was trained for.
fn trained_length(path: &Path) -> Result<Option<usize>, Error> {
    const KEYS: [&str; 5] = [
        "max_position_embeddings",
        "n_positions",
        "max_seq_len",
        "seq_length",
        "model_max_length",
    ];
    let text = regular_file::read(path, SETTINGS)?;
    let config: Value =
        python_json::from_slice(&text).map_err(|e| Error::malformed(path, e.to_string()))?;
    // A multimodal model says it of its text model.
    let configs = [&config["text_config"], &config];
    let values = configs
        .into_iter()
        .flat_map(|config| KEYS.iter().map(move |key| &config[key]));
    Ok(values
        .filter_map(Value::as_u64)
        .next()
        .map(|length| length as usize))
}
