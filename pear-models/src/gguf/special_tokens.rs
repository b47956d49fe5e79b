//! Special tokens, as the metadata of GGUF files say.

use std::collections::BTreeSet;

use super::metadata::GgufMetadata;
use crate::error::Error;

const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";

/// Types of tokens that stand for no text: unknown, control and unused ones.
const NO_TEXT: [i64; 3] = [2, 3, 5];
const CONTROL: i64 = 3;

/// Keys of single tokens that stand for no text.
const SPECIAL_KEYS: [&str; 8] = [
    "tokenizer.ggml.bos_token_id",
    "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.eot_token_id",
    "tokenizer.ggml.eom_token_id",
    "tokenizer.ggml.unknown_token_id",
    "tokenizer.ggml.seperator_token_id",
    "tokenizer.ggml.padding_token_id",
    "tokenizer.ggml.mask_token_id",
];

/// Keys of tokens that end a text or a turn.
const END_KEYS: [&str; 3] = [
    "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.eot_token_id",
    "tokenizer.ggml.eom_token_id",
];

/// Control tokens that end a turn wherever they are, as llama.cpp holds: most files name only one of them.
const END_TOKENS: [&str; 11] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<EOT>",
    "<end_of_utterance>",
];

/// The ids below `vocab_size` that stand for no text, in ascending order.
///
/// # Errors
/// [`Error::Config`] for metadata of another type.
pub(super) fn special_tokens(
    metadata: &GgufMetadata,
    vocab_size: usize,
) -> Result<Vec<u32>, Error> {
    let mut special = ids(metadata, &SPECIAL_KEYS)?;
    if let Some(types) = metadata.integers(TYPES)? {
        let no_text = (0..).zip(types).filter(|(_, kind)| NO_TEXT.contains(kind));
        special.extend(no_text.map(|(id, _)| id));
    }
    // The embedding may have more rows than there are tokens.
    if let Some(tokens) = metadata.texts(TOKENS)? {
        special.extend(tokens.len() as u32..vocab_size.max(tokens.len()) as u32);
    }
    special.retain(|&id| (id as usize) < vocab_size);
    Ok(special.into_iter().collect())
}

/// The ids below `vocab_size` that end a text or a turn, in ascending order.
///
/// # Errors
/// [`Error::Config`] for metadata of another type.
pub(super) fn eos_tokens(metadata: &GgufMetadata, vocab_size: usize) -> Result<Vec<u32>, Error> {
    let mut ends = ids(metadata, &END_KEYS)?;
    let tokens = metadata.texts(TOKENS)?.unwrap_or_default();
    let types = metadata.integers(TYPES)?.unwrap_or_default();
    for (id, (token, kind)) in (0..).zip(tokens.iter().zip(types)) {
        if kind == CONTROL && END_TOKENS.contains(token) {
            ends.insert(id);
        }
    }
    // Where a conversation has messages within messages, this one only ends a part of a turn.
    if tokens.contains(&"<|return|>") {
        ends.retain(|&id| tokens.get(id as usize) != Some(&"<|end|>"));
    }
    ends.retain(|&id| (id as usize) < vocab_size);
    Ok(ends.into_iter().collect())
}

fn ids(metadata: &GgufMetadata, keys: &[&str]) -> Result<BTreeSet<u32>, Error> {
    let mut ids = BTreeSet::new();
    for key in keys {
        // -1 stands for none.
        let id = metadata.integer(key)?.and_then(|id| u32::try_from(id).ok());
        ids.extend(id);
    }
    Ok(ids)
}
