//! What the metadata say of the tokenizer as a whole.

use crate::error::Error;
use crate::gguf::metadata::GgufMetadata;

const MODEL: &str = "tokenizer.ggml.model";
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";
/// Names the rule by which a text is divided into words.
pub(super) const PRE: &str = "tokenizer.ggml.pre";

/// The models of tokenizers that are supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ModelName {
    /// Merges of bytes.
    Gpt2,
    /// Merges of letters, by a list.
    Gemma4,
    /// Merges of letters, by the scores of the results.
    Llama,
}

/// # Errors
/// [`Error::Config`] for any other model.
pub(super) fn model_name(metadata: &GgufMetadata) -> Result<ModelName, Error> {
    match metadata.text(MODEL)? {
        Some("gpt2") => Ok(ModelName::Gpt2),
        Some("gemma4") => Ok(ModelName::Gemma4),
        Some("llama") => Ok(ModelName::Llama),
        Some(other) => {
            let problem = format!("is {other:?}: expected gpt2, gemma4 or llama");
            Err(metadata.error(MODEL, problem))
        }
        None => Err(metadata.error(MODEL, "is missing: the file has no tokenizer")),
    }
}

/// What holds where the metadata do not say otherwise.
#[derive(Clone, Copy, Debug)]
pub(super) struct Defaults {
    pub bos_rule: BosRule,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
}

/// Whether a BOS stands before a text.
#[derive(Clone, Copy, Debug)]
pub(super) enum BosRule {
    /// Whatever the metadata say.
    Always,
    /// Where the metadata say nothing.
    UnlessSaid(bool),
}

/// The tokens that stand around a text.
#[derive(Debug)]
pub(super) struct AroundText {
    pub before: Option<u32>,
    pub after: Option<u32>,
}

impl AroundText {
    /// # Errors
    /// [`Error::Config`] where a token is to be added and there is none.
    pub fn from_metadata(
        metadata: &GgufMetadata,
        vocab_size: usize,
        defaults: Defaults,
    ) -> Result<Self, Error> {
        let token = |name: &str, default: Option<u32>| {
            let key = format!("tokenizer.ggml.{name}_token_id");
            // -1 and other numbers that are no ids leave it at the default.
            let said = metadata.integer(&key)?;
            let said = said.and_then(|id| u32::try_from(id).ok());
            let mut ids = [said, default].into_iter().flatten();
            let id = ids.find(|&id| (id as usize) < vocab_size);
            id.map(Some).ok_or_else(|| {
                let problem = format!("is missing, but the tokenizer adds the {name} token");
                metadata.error(&key, problem)
            })
        };
        let add_bos = match defaults.bos_rule {
            BosRule::Always => true,
            BosRule::UnlessSaid(add) => metadata.flag(ADD_BOS)?.unwrap_or(add),
        };
        let add_eos = metadata.flag(ADD_EOS)?.unwrap_or(false);
        Ok(Self {
            before: if add_bos {
                token("bos", defaults.bos)?
            } else {
                None
            },
            after: if add_eos {
                token("eos", defaults.eos)?
            } else {
                None
            },
        })
    }
}
