//! What a token stands for.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::Error;
use crate::gguf::metadata::GgufMetadata;

const TYPES: &str = "tokenizer.ggml.token_type";

/// What a token stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A piece of text.
    Normal,
    /// What has no token.
    Unknown,
    /// The start of a text, the end of a turn and the like.
    Control,
    /// Text that is one token wherever it stands.
    UserDefined,
    /// Nothing.
    Unused,
    /// One byte.
    Byte,
}

impl Kind {
    fn from_type(value: i64) -> Self {
        match value {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            6 => Self::Byte,
            _ => Self::Unused,
        }
    }
}

/// Tokens that end a text or a turn, and are control tokens whatever the file says (llama.cpp, `llama-vocab.cpp`).
const ENDS: [&str; 23] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
    "<|plamo:eos|>",
];

/// Tokens around the parts of code to fill in: keys that name one, and the tokens that one of is a control token where none of the keys is
/// there (llama.cpp, `llama-vocab.cpp`).
const FILL_IN: [(&[&str], &[&str]); 6] = [
    (
        &["fim_pre_token_id", "prefix_token_id"],
        &[
            "<|fim_prefix|>",
            "<fim-prefix>",
            "<fim_prefix>",
            "<｜fim▁begin｜>",
            "<PRE>",
            "▁<PRE>",
            "<|code_prefix|>",
            "<|prefix|>",
        ],
    ),
    (
        &["fim_suf_token_id", "suffix_token_id"],
        &[
            "<|fim_suffix|>",
            "<fim-suffix>",
            "<fim_suffix>",
            "<｜fim▁hole｜>",
            "<SUF>",
            "▁<SUF>",
            "<|code_suffix|>",
            "<|suffix|>",
        ],
    ),
    (
        &["fim_mid_token_id", "middle_token_id"],
        &[
            "<|fim_middle|>",
            "<fim-middle>",
            "<fim_middle>",
            "<｜fim▁end｜>",
            "<MID>",
            "▁<MID>",
            "<|code_middle|>",
            "<|middle|>",
        ],
    ),
    (
        &["fim_pad_token_id"],
        &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"],
    ),
    (
        &["fim_rep_token_id"],
        &[
            "<|fim_repo|>",
            "<|repo_name|>",
            "<fim-repo>",
            "<REPO>",
            "<reponame>",
        ],
    ),
    (&["fim_sep_token_id"], &["<|file_sep|>"]),
];

/// Parts of the headers of messages, which models of this format write themselves.
const HEADERS: [&str; 4] = ["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"];

/// The kinds of all tokens: those of the file, but where llama.cpp knows better from a token's name.
///
/// # Errors
/// [`Error::Config`] for a list of types that is shorter than that of tokens.
pub(super) fn kinds(
    metadata: &GgufMetadata,
    ids: &HashMap<Arc<str>, u32>,
    len: usize,
) -> Result<Vec<Kind>, Error> {
    let mut kinds = match metadata.integers(TYPES)? {
        Some(types) if types.len() < len => {
            let problem = format!("has {} values for {len} tokens", types.len());
            return Err(metadata.error(TYPES, problem));
        }
        Some(types) => types.into_iter().map(Kind::from_type).collect(),
        None => vec![Kind::Normal; len],
    };
    let id = |name: &str| ids.get(name).map(|&id| id as usize);
    for (keys, names) in FILL_IN {
        let mut keys = keys
            .iter()
            .map(|key| metadata.get(&format!("tokenizer.ggml.{key}")));
        if keys.any(|value| value.is_some()) {
            continue;
        }
        if let Some(first) = names.iter().filter_map(|name| id(name)).min() {
            kinds[first] = Kind::Control;
        }
    }
    for end in ENDS.iter().filter_map(|name| id(name)) {
        kinds[end] = Kind::Control;
    }
    for header in HEADERS.iter().filter_map(|name| id(name)) {
        kinds[header] = Kind::UserDefined;
    }
    // In these formats, a message goes on behind this token.
    let calls = id("<|call|>").or(id("<|calls|>"));
    if let (Some(_), Some(_), Some(end)) =
        (calls, id("<|return|>").or(id("<|flush|>")), id("<|end|>"))
    {
        kinds[end] = Kind::UserDefined;
    }
    // Here, this is only text.
    if let (Some(_), Some(text)) = (id("<|tool_response>").or(id("<|plamo:eos|>")), id("</s>")) {
        kinds[text] = Kind::Normal;
    }
    Ok(kinds)
}
