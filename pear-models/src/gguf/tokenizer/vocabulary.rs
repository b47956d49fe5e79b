//! The tokens of a vocabulary.

use std::collections::HashMap;
use std::sync::Arc;

use super::kind::{Kind, kinds};
use crate::error::Error;
use crate::gguf::metadata::GgufMetadata;

const TOKENS: &str = "tokenizer.ggml.tokens";

/// The tokens of a vocabulary: the text and the kind of each.
#[derive(Debug)]
pub(super) struct Vocabulary {
    texts: Vec<Arc<str>>,
    kinds: Vec<Kind>,
    ids: HashMap<Arc<str>, u32>,
}

impl Vocabulary {
    /// # Errors
    /// [`Error::Config`] where there are no tokens, or what is said of them does not fit.
    pub fn from_metadata(metadata: &GgufMetadata) -> Result<Self, Error> {
        let Some(tokens) = metadata.texts(TOKENS)? else {
            return Err(metadata.error(TOKENS, "is missing: the file has no tokenizer"));
        };
        // A token without text has none to be found by.
        let texts: Vec<Arc<str>> = (tokens.iter().enumerate())
            .map(|(id, &text)| match text {
                "" => format!("[EMPTY_{id}]").into(),
                text => text.into(),
            })
            .collect();
        let ids = (0..).zip(&texts).map(|(id, text)| (text.clone(), id));
        let ids: HashMap<_, _> = ids.collect();
        Ok(Self {
            kinds: kinds(metadata, &ids, texts.len())?,
            texts,
            ids,
        })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// The token with this text.
    pub fn id(&self, text: &str) -> Option<u32> {
        self.ids.get(text).copied()
    }

    /// Text and kind of a token.
    pub fn get(&self, id: u32) -> Option<(&Arc<str>, Kind)> {
        let id = id as usize;
        Some((self.texts.get(id)?, *self.kinds.get(id)?))
    }

    /// Ids, texts and kinds of all tokens.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Arc<str>, Kind)> {
        let texts = (0..).zip(&self.texts);
        (texts.zip(&self.kinds)).map(|((id, text), &kind)| (id, text, kind))
    }
}
