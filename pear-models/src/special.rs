//! Which ids stand for no words.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::config::DecoderConfig;
use crate::error::Error;
use crate::regular_file;

/// The parts of `tokenizer.json` that tell special tokens apart; the tokenizer itself need not be built for them.
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

pub(crate) fn special_tokens(directory: &Path, config: &DecoderConfig) -> Result<Vec<u32>, Error> {
    let mut special: BTreeSet<u32> = config.special_tokens.iter().copied().collect();
    special.extend(generation_eos(directory)?);
    if let Some(tokenizer) = read::<TokenizerFile>(&directory.join("tokenizer.json"))? {
        special.extend(
            tokenizer
                .added_tokens
                .iter()
                .filter(|token| token.special)
                .map(|token| token.id),
        );
        let words: Option<BTreeSet<u32>> = match tokenizer.model.and_then(|model| model.vocab) {
            Some(Value::Object(vocab)) => Some(
                vocab
                    .values()
                    .filter_map(Value::as_u64)
                    .map(|id| id as u32)
                    .collect(),
            ),
            Some(Value::Array(vocab)) => Some((0..vocab.len() as u32).collect()),
            _ => None,
        };
        if let Some(mut words) = words {
            words.extend(tokenizer.added_tokens.iter().map(|token| token.id));
            special.extend((0..config.vocab_size as u32).filter(|id| !words.contains(id)));
        }
    }
    Ok(special
        .into_iter()
        .filter(|&id| (id as usize) < config.vocab_size)
        .collect())
}

/// The end tokens of `generation_config.json`, of which chat models often have more than `config.json` says.
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
    let Some(text) = regular_file::read_if_present(path)? else {
        return Ok(None);
    };
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|e| Error::malformed(path, format!("not valid JSON: {e}")))
}
