//! Keys of a `config.json` that nothing here reads.

use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::Error;

/// The keys of a `config.json` that the model's code does not read, with their values: what transformers' code for the model's `model_type`
/// does not read either cannot change what the model computes.
///
/// Keys that are known to change it, and that are not supported, are errors instead; names, versions and training settings that every
/// config has are in neither.
///
/// ```
/// use pear_models::DecoderConfig;
///
/// let json = serde_json::json!({
///     "model_type": "gpt2", "vocab_size": 100, "n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 64,
///     "output_past": true,
/// });
/// let (_, ignored) = DecoderConfig::from_json_reporting(&json)?;
/// assert_eq!(ignored.to_string(), "output_past (true)");
/// assert!(ignored.refuse().is_err());
/// # Ok::<(), pear_models::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct IgnoredKeys {
    path: PathBuf,
    keys: Vec<(String, String)>,
}

impl IgnoredKeys {
    pub(super) fn new(path: &Path, keys: Vec<(String, String)>) -> Self {
        Self {
            path: path.into(),
            keys,
        }
    }

    /// Whether every key was read.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The keys, those of nested objects as `rope_scaling.finetuned`, and their values, long ones shortened.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.keys
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// The file that they are in.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// For those who take only configs that are understood to the last key.
    ///
    /// # Errors
    /// [`Error::IgnoredKeys`] with all of them, if there are any.
    pub fn refuse(&self) -> Result<(), Error> {
        if self.is_empty() {
            return Ok(());
        }
        Err(Error::IgnoredKeys {
            path: self.path.clone(),
            keys: self.to_string(),
        })
    }
}

/// `output_past (true), rope_scaling.finetuned (true)`
impl fmt::Display for IgnoredKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (key, value)) in self.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{key} ({value})")?;
        }
        Ok(())
    }
}

/// A value as it is shown in a message.
pub(super) fn shorten(value: &Value) -> String {
    shorten_text(value.to_string())
}

/// A name from a file as it is shown in a message.
pub(super) fn escape(name: &str) -> String {
    shorten_text(name.escape_debug().to_string())
}

fn shorten_text(text: String) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
