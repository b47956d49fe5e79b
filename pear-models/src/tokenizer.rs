//! Text to token ids and back, by the model's own `tokenizer.json`.

use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::regular_file;

/// The tokenizer of a model directory.
#[derive(Debug)]
pub struct Tokenizer {
    path: PathBuf,
    inner: tokenizers::Tokenizer,
}

impl Tokenizer {
    /// Reads `tokenizer.json` of a model directory. What it puts around a text is what stands around it: `add_bos_token` and `add_eos_token` of
    /// `tokenizer_config.json` change nothing where there is a `tokenizer.json`, as in transformers 5.
    ///
    /// # Errors
    /// [`Error::Io`] if it is missing, [`Error::Tokenizer`] if it is none.
    pub fn open(directory: impl AsRef<Path>) -> Result<Self, Error> {
        let directory = directory.as_ref();
        let path = directory.join("tokenizer.json");
        let inner = tokenizers::Tokenizer::from_bytes(regular_file::read(&path)?).map_err(|e| {
            Error::Tokenizer {
                path: path.clone(),
                problem: e.to_string(),
            }
        })?;
        Ok(Self { path, inner })
    }

    /// Token ids, with the special tokens that the tokenizer puts around a text (a BOS, for many models).
    ///
    /// # Errors
    /// [`Error::Tokenizer`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        let encoding = self.inner.encode(text, true).map_err(|e| self.error(e))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Token ids of a text that has its special tokens in it already, as chat templates write them: none are put
    /// around it.
    ///
    /// # Errors
    /// [`Error::Tokenizer`].
    pub fn encode_rendered(&self, text: &str) -> Result<Vec<u32>, Error> {
        let encoding = self.inner.encode(text, false).map_err(|e| self.error(e))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Text, without special tokens.
    ///
    /// # Errors
    /// [`Error::Tokenizer`].
    pub fn decode(&self, tokens: &[u32]) -> Result<String, Error> {
        self.inner.decode(tokens, true).map_err(|e| self.error(e))
    }

    fn error(&self, problem: tokenizers::Error) -> Error {
        Error::Tokenizer {
            path: self.path.clone(),
            problem: problem.to_string(),
        }
    }
}
