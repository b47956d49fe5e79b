//! The tokenizer and the chat template of a model.

use super::ModelDirectory;
use super::origin::Origin;
use crate::error::Error;

impl ModelDirectory {
    /// The tokenizer: that of `tokenizer.json`, or that of a GGUF file's metadata.
    ///
    /// # Errors
    /// As [`Tokenizer::open`](crate::Tokenizer::open).
    #[cfg(feature = "tokenizer")]
    pub fn tokenizer(&self) -> Result<crate::Tokenizer, Error> {
        match &self.origin {
            Origin::Directory(path) => crate::Tokenizer::open(path),
            Origin::Gguf(metadata) => crate::Tokenizer::from_metadata(metadata),
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

    /// The chat template, if the model has one.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Malformed`] for one that cannot be read.
    #[cfg(feature = "chat")]
    pub fn find_chat_template(&self) -> Result<Option<crate::ChatTemplate>, Error> {
        match &self.origin {
            Origin::Directory(path) => crate::ChatTemplate::find(path),
            Origin::Gguf(metadata) => crate::ChatTemplate::find_in_metadata(metadata),
        }
    }
}
