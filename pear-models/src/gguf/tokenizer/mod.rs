//! The tokenizer that the metadata of a GGUF file describe: the token ids are those of llama.cpp.
//!
//! It is written anew because nothing else gave the same ids. On the 2,100 awkward strings of the tests with SmolLM2's vocabulary shimmytok
//! 0.8.4 differs in one, of control characters; a conversion for the `tokenizers` crate, as transformers makes it, has no place for what
//! llama.cpp does with equal scores, with special tokens that overlap, and with the rule for words that the file names.

mod bpe;
mod byte_level;
mod kind;
mod merge;
mod metadata;
mod patterns;
mod pre_tokenizer;
mod sentencepiece;
mod special;
mod vocabulary;

use bpe::Bpe;
use kind::Kind;
use metadata::{AroundText, ModelName};
use sentencepiece::SentencePiece;
use special::{Fragment, SpecialTokens};
use vocabulary::Vocabulary;

use super::metadata::GgufMetadata;
use crate::error::Error;

/// Text to token ids and back.
#[derive(Debug)]
pub(crate) struct GgufTokenizer {
    vocabulary: Vocabulary,
    special: SpecialTokens,
    model: Model,
    around: AroundText,
}

/// How text without special tokens becomes tokens.
#[derive(Debug)]
enum Model {
    Bpe(Box<Bpe>),
    SentencePiece(SentencePiece),
}

impl GgufTokenizer {
    /// # Errors
    /// [`Error::Config`] for a tokenizer that is missing, of an unknown kind, or in contradiction with itself.
    pub fn from_metadata(metadata: &GgufMetadata) -> Result<Self, Error> {
        let name = metadata::model_name(metadata)?;
        let vocabulary = Vocabulary::from_metadata(metadata)?;
        let (model, defaults) = match name {
            ModelName::Llama => {
                let model = SentencePiece::from_metadata(metadata, &vocabulary)?;
                (Model::SentencePiece(model), sentencepiece::DEFAULTS)
            }
            ModelName::Gpt2 | ModelName::Gemma4 => {
                let pre = match name {
                    ModelName::Gemma4 => Some("gemma4"),
                    _ => metadata.text(metadata::PRE)?,
                };
                let pre_tokenizer = pre_tokenizer::by_name(metadata, pre)?;
                let defaults = pre_tokenizer.defaults();
                let model = Bpe::from_metadata(metadata, &vocabulary, pre_tokenizer)?;
                (Model::Bpe(model.into()), defaults)
            }
        };
        Ok(Self {
            special: SpecialTokens::new(metadata, &vocabulary)?,
            around: AroundText::from_metadata(metadata, vocabulary.len(), defaults)?,
            vocabulary,
            model,
        })
    }

    /// Token ids; with `add_special` between the tokens that the metadata put around a text.
    pub fn encode(&self, text: &str, add_special: bool) -> Vec<u32> {
        let mut ids = Vec::new();
        if add_special {
            ids.extend(self.around.before);
        }
        let mut after_special = true;
        for fragment in self.special.partition(text) {
            match fragment {
                Fragment::Token(id) => ids.push(id),
                Fragment::Text(text) => match &self.model {
                    Model::Bpe(bpe) => bpe.encode(&self.vocabulary, text, &mut ids),
                    Model::SentencePiece(model) => {
                        model.encode(&self.vocabulary, text, after_special, &mut ids);
                    }
                },
            }
            after_special = matches!(fragment, Fragment::Token(_));
        }
        if add_special {
            ids.extend(self.around.after);
        }
        ids
    }

    /// Text without special tokens; bytes that are not UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut bytes = Vec::new();
        for &id in ids {
            let Some((text, kind)) = self.vocabulary.get(id) else {
                continue;
            };
            match kind {
                Kind::Normal => match &self.model {
                    Model::Bpe(bpe) => bpe.decode(text, &mut bytes),
                    Model::SentencePiece(_) => {
                        bytes.extend(sentencepiece::with_spaces(text).bytes());
                    }
                },
                Kind::UserDefined => bytes.extend(text.bytes()),
                Kind::Byte => bytes.extend(byte_level::of_name(text)),
                Kind::Unknown | Kind::Control | Kind::Unused => {}
            }
        }
        let text = String::from_utf8_lossy(&bytes);
        match &self.model {
            Model::SentencePiece(model) => model.without_prefix(&text).to_owned(),
            Model::Bpe(_) => text.into_owned(),
        }
    }
}
