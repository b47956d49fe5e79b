//! Special tokens: the ids that stand for no text.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::config::DecoderConfig;
use crate::error::Error;
use crate::python_json;
use crate::regular_file::{self, SETTINGS};

/// The parts of `tokenizer.json` that say which tokens are special; the tokenizer itself is not built.
#[derive(Deserialize)]
struct TokenizerFile {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    model: Option<TokenizerModel>,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct TokenizerModel {
    vocab: Option<Value>,
}

/// The ids that stand for no text: those that the configs and the tokenizer call special, and those that the tokenizer lacks.
pub(crate) fn special_tokens(directory: &Path, config: &DecoderConfig) -> Result<Vec<u32>, Error> {
    let mut special: BTreeSet<u32> = config.special_tokens.iter().copied().collect();
    special.extend(generation_eos(directory)?);
    if let Some(tokenizer) = read::<TokenizerFile>(&directory.join("tokenizer.json"))? {
        let added = tokenizer.added_tokens.iter();
        special.extend(added.filter(|token| token.special).map(|token| token.id));
        if let Some(known) = tokenizer.ids() {
            let all = 0..config.vocab_size as u32;
            special.extend(all.filter(|id| !known.contains(id)));
        }
    }
    special.retain(|&id| (id as usize) < config.vocab_size);
    Ok(special.into_iter().collect())
}

impl TokenizerFile {
    /// The ids of all tokens; `None` where the vocabulary has a form that is not known here.
    fn ids(&self) -> Option<BTreeSet<u32>> {
        let mut ids: BTreeSet<u32> = match self.model.as_ref()?.vocab.as_ref()? {
            Value::Object(vocab) => {
                let ids = vocab.values().filter_map(Value::as_u64);
                ids.map(|id| id as u32).collect()
            }
            Value::Array(vocab) => (0..vocab.len() as u32).collect(),
            _ => return None,
        };
        ids.extend(self.added_tokens.iter().map(|token| token.id));
        Some(ids)
    }
}

/// The end tokens of `generation_config.json`, which for chat models are often more than those of `config.json`.
pub(crate) fn generation_eos(directory: &Path) -> Result<Vec<u32>, Error> {
    let path = directory.join("generation_config.json");
    let Some(config) = read::<Value>(&path)? else {
        return Ok(Vec::new());
    };
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let ids = match &config["eos_token_id"] {
        Value::Null => Some(Vec::new()),
        Value::Array(ids) => ids.iter().map(id).collect(),
        one => id(one).map(|id| vec![id]),
    };
    ids.ok_or_else(|| {
        Error::malformed(
            &path,
            "`eos_token_id` is neither a token id nor a list of them",
        )
    })
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    let Some(text) = regular_file::read_if_present(path, SETTINGS)? else {
        return Ok(None);
    };
    python_json::from_slice(&text)
        .map(Some)
        .map_err(|e| Error::malformed(path, format!("not valid JSON: {e}")))
}
