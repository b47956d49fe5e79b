//! Reading `config.json` as a whole: which family it is of, what it says, and what was not read of it.

use std::path::Path;

use serde_json::Value;

use super::custom_code::refuse_custom_code;
use super::ignored::escape;
use super::{ConfigReader, Family, IgnoredKeys, find, supported_model_types};
use crate::config::DecoderConfig;
use crate::error::Error;
use crate::python_json;
use crate::regular_file::{self, SETTINGS};

impl DecoderConfig {
    /// What the contents of a `config.json` say. Keys that nothing reads are ignored; [`from_json_reporting`](Self::from_json_reporting)
    /// names them.
    ///
    /// ```
    /// use pear_models::DecoderConfig;
    ///
    /// let config = DecoderConfig::from_json(&serde_json::json!({
    ///     "model_type": "mpt", "vocab_size": 100, "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64,
    /// }))?;
    /// assert_eq!(config.shape().num_heads, 4);
    /// # Ok::<(), pear_models::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) for a key that is missing, holds something impossible, or asks for something that is not
    /// supported.
    pub fn from_json(config: &Value) -> Result<Self, Error> {
        Ok(Self::from_json_reporting(config)?.0)
    }

    /// Same as [`from_json`](Self::from_json), with the keys that were not read.
    ///
    /// # Errors
    /// As `from_json`; a strict reader goes on with [`IgnoredKeys::refuse`].
    pub fn from_json_reporting(config: &Value) -> Result<(Self, IgnoredKeys), Error> {
        let read = config_of(Path::new("config.json"), config.clone())?;
        Ok((read.config, read.ignored))
    }

    /// Reads a `config.json`, which may hold `NaN` and `Infinity` as Python writes them, and reports the keys that were not read.
    ///
    /// # Errors
    /// As [`from_json`](Self::from_json), and for a file that cannot be read or is not JSON.
    pub fn read(path: impl AsRef<Path>) -> Result<(Self, IgnoredKeys), Error> {
        let read = read_config(path.as_ref())?;
        Ok((read.config, read.ignored))
    }
}

/// Keys of a larger model that concern its text model, whose config may have them, too.
const BESIDE_TEXT_CONFIG: &[&str] = &[
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "boi_token_index",
    "eoi_token_index",
    "image_token_index",
    "tie_word_embeddings",
];

/// What a `config.json` says.
pub(crate) struct ModelConfig {
    pub family: &'static Family,
    pub config: DecoderConfig,
    /// The keys that nothing read.
    pub ignored: IgnoredKeys,
}

/// Reads `config.json`.
pub(crate) fn read_config(path: &Path) -> Result<ModelConfig, Error> {
    config_of(path, read_json(path)?)
}

/// Reads the contents of `config.json`.
pub(crate) fn read_json(path: &Path) -> Result<Value, Error> {
    let text = regular_file::read(path, SETTINGS)?;
    python_json::from_slice(&text)
        .map_err(|e| Error::malformed(path, format!("not valid JSON: {e}")))
}

/// What the contents of a `config.json` say; `path` is named in errors.
pub(crate) fn config_of(path: &Path, contents: Value) -> Result<ModelConfig, Error> {
    let reader = ConfigReader::new(path, contents)?;
    let Some(model_type) = reader.text("model_type")? else {
        return Err(reader.error("model_type", "is missing"));
    };
    let Some(family) = find(&model_type) else {
        let known = supported_model_types().collect::<Vec<_>>().join(", ");
        let problem = format!("is `{model_type}`: supported are {known}");
        return Err(reader.error("model_type", problem));
    };
    refuse_quantized(&reader)?;
    refuse_custom_code(&reader)?;
    let reader = match family.text_config {
        Some(key) => reader.inner(key, BESIDE_TEXT_CONFIG)?,
        None => reader,
    };
    let reader = reader.with_defaults(family.defaults);
    let config = family.read(&reader)?;
    reader.finish()?;
    let ignored = reader.ignored();
    match config.validate() {
        Ok(()) => Ok(ModelConfig {
            family,
            config,
            ignored,
        }),
        Err(pear_core::Error::Config {
            field,
            value,
            expected,
        }) => Err(reader.error(field, format!("is {value}: {expected}"))),
        Err(other) => Err(other.into()),
    }
}

/// Refuses what a config says of quantised weights, under the keys of transformers, of compressed-tensors and of MLX: whether they can be
/// read depends on the tensors beside it.
fn refuse_quantized(reader: &ConfigReader) -> Result<(), Error> {
    for key in ["quantization_config", "compression_config", "quantization"] {
        let Some(Value::Object(format)) = reader.get(key) else {
            continue;
        };
        if !format.is_empty() {
            let method = format.get("quant_method").and_then(Value::as_str);
            let advice = if key == "quantization" {
                "take the original model in f32, bf16 or f16"
            } else {
                "open the model's directory"
            };
            let problem = format!(
                "the weights are quantised ({}): a config alone cannot say how to read them; {advice}",
                method.map_or_else(|| "in an unnamed format".into(), escape)
            );
            return Err(reader.error(key, problem));
        }
    }
    Ok(())
}
