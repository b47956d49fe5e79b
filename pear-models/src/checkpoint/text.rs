//! The tokenizer and the chat template of a model.

use super::ModelDirectory;
use super::origin::Origin;
use crate::error::Error;

impl ModelDirectory {
    /// The tokenizer: that of `tokenizer.json`, or that of a GGUF file's metadata.
    ///
    /// # Errors
    /// [`Error::Io`] if there is none, [`Error::Tokenizer`] if it cannot be read.
    #[cfg(feature = "tokenizer")]
    pub fn tokenizer(&self) -> Result<crate::Tokenizer, Error> {
        match &self.origin {
            Origin::Directory(path) => crate::Tokenizer::open(path),
            Origin::Gguf(metadata) => Err(Error::Tokenizer {
                path: metadata.path().into(),
                problem: "the tokenizer of a GGUF file cannot be read".into(),
            }),
        }
    }

    /// The chat template, as [`ChatTemplate::open`](crate::ChatTemplate::open) reads it, or that of a GGUF file's metadata.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Malformed`] where there is none, or one that cannot be read.
    #[cfg(feature = "chat")]
    pub fn chat_template(&self) -> Result<crate::ChatTemplate, Error> {
        match &self.origin {
            Origin::Directory(path) => crate::ChatTemplate::open(path),
            Origin::Gguf(metadata) => crate::ChatTemplate::from_metadata(metadata),
        }
    }
}
