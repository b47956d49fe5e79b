//! Text to token ids and back, by the tokenizer that came with a model.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::gguf::{GgufFile, GgufMetadata, GgufTokenizer};
use crate::regular_file::{self, LISTS};

/// The tokenizer of a model.
#[derive(Debug)]
pub struct Tokenizer {
    path: PathBuf,
    inner: Inner,
}

#[derive(Debug)]
enum Inner {
    /// Of a `tokenizer.json`.
    HuggingFace(Box<tokenizers::Tokenizer>),
    /// Of a GGUF file's metadata.
    Gguf(Box<GgufTokenizer>),
}

impl Tokenizer {
    /// Reads `tokenizer.json` of a model directory, or what the metadata of a GGUF file say of its tokenizer.
    ///
    /// What a `tokenizer.json` puts around a text is what stands around it: `add_bos_token` and `add_eos_token` of `tokenizer_config.json`
    /// change nothing where there is a `tokenizer.json`, as in transformers 5; its `truncation` and `padding`, which transformers sets anew in
    /// each call, are ignored. The token ids of GGUF files are those of llama.cpp, which knows
    /// the metadata's `add_bos_token` and `add_eos_token`.
    ///
    /// # Errors
    /// [`Error::Io`] if it is missing, [`Error::Tokenizer`] if it is none; [`Error::Malformed`] or [`Error::Config`] for a GGUF file without a
    /// usable one.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        if path.is_file() {
            return Self::from_metadata(GgufFile::open(path)?.metadata());
        }
        let path = path.join("tokenizer.json");
        let bytes = regular_file::read(&path, LISTS)?;
        let inner = guarded(&path, || {
            let mut tokenizer = tokenizers::Tokenizer::from_bytes(&bytes)?;
            tokenizer.with_truncation(None)?.with_padding(None);
            Ok(tokenizer)
        })?;
        Ok(Self {
            path,
            inner: Inner::HuggingFace(inner.into()),
        })
    }

    pub(crate) fn from_metadata(metadata: &GgufMetadata) -> Result<Self, Error> {
        let inner = GgufTokenizer::from_metadata(metadata)?;
        Ok(Self {
            path: metadata.path().into(),
            inner: Inner::Gguf(inner.into()),
        })
    }

    /// Token ids, with the special tokens that the tokenizer puts around a text (a BOS, for many models).
    ///
    /// # Errors
    /// [`Error::Tokenizer`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        self.encode_with(text, true)
    }

    /// Token ids of a text that has its special tokens in it already, as chat templates write them: none are put
    /// around it.
    ///
    /// # Errors
    /// [`Error::Tokenizer`].
    pub fn encode_rendered(&self, text: &str) -> Result<Vec<u32>, Error> {
        self.encode_with(text, false)
    }

    /// Text, without special tokens.
    ///
    /// # Errors
    /// [`Error::Tokenizer`].
    pub fn decode(&self, tokens: &[u32]) -> Result<String, Error> {
        match &self.inner {
            Inner::HuggingFace(inner) => guarded(&self.path, || inner.decode(tokens, true)),
            Inner::Gguf(inner) => Ok(inner.decode(tokens)),
        }
    }

    fn encode_with(&self, text: &str, add_special: bool) -> Result<Vec<u32>, Error> {
        match &self.inner {
            Inner::HuggingFace(inner) => {
                let encoding = guarded(&self.path, || inner.encode(text, add_special))?;
                Ok(encoding.get_ids().to_vec())
            }
            Inner::Gguf(inner) => Ok(inner.encode(text, add_special)),
        }
    }
}

/// Calls the tokenizers library, which panics at some files and texts.
fn guarded<T>(path: &Path, f: impl FnOnce() -> Result<T, tokenizers::Error>) -> Result<T, Error> {
    let error = |problem: String| Error::Tokenizer {
        path: path.into(),
        problem,
    };
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(result) => result.map_err(|e| error(e.to_string())),
        Err(panic) => {
            let message = panic.downcast_ref::<String>().map(String::as_str);
            let message = message.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(error(format!(
                "the tokenizers library cannot handle it: {}",
                message.unwrap_or("it panicked")
            )))
        }
    }
}
