//! The perplexity of a plain text, read in windows: what coefficients must not spoil.

use std::path::Path;

use anyhow::{Context, Result, bail};
use pear_core::DecoderModel;
use pear_models::{ModelDirectory, Tokenizer, log_probs, perplexity};

/// No text is longer.
const LONGEST_TEXT: u64 = 64 << 20;

/// A text as tokens, in windows that follow one another.
#[derive(Clone, Debug)]
pub struct TextPerplexity {
    windows: Vec<Vec<u32>>,
}

impl TextPerplexity {
    /// Reads a text by the model's tokenizer; windows have `window` tokens at most, no more than the model has positions for, and each
    /// begins with the BOS that the tokenizer put before the text, if it did.
    ///
    /// # Errors
    /// A file that cannot be read or is too short, a model without a tokenizer.
    pub fn read(path: &Path, directory: &ModelDirectory, window: usize) -> Result<Self> {
        let cannot_read = || format!("{}: cannot read", path.display());
        let size = std::fs::metadata(path).with_context(cannot_read)?.len();
        if size > LONGEST_TEXT {
            bail!(
                "{}: {size} bytes: expected a text of at most {} MiB",
                path.display(),
                LONGEST_TEXT >> 20
            );
        }
        let text = std::fs::read_to_string(path).with_context(cannot_read)?;
        let tokens = Tokenizer::open(directory.path())?.encode(&text)?;
        let config = directory.config();
        if let Some(id) = tokens.iter().find(|&&id| id as usize >= config.vocab_size) {
            bail!(
                "{}: the tokenizer gives token {id}, which is not in the vocabulary of {}",
                path.display(),
                config.vocab_size
            );
        }
        let window = window.min(
            config
                .attention
                .position_embedding
                .max_positions()
                .unwrap_or(window),
        );
        let bos = config.bos_token.filter(|bos| tokens.first() == Some(bos));
        let (head, body) = tokens.split_at(usize::from(bos.is_some()));
        let of = |part: &[u32]| [head, part].concat();
        let windows: Vec<_> = body
            .chunks(window.saturating_sub(head.len()).max(1))
            .map(of)
            .filter(|w| w.len() >= 2)
            .collect();
        if windows.is_empty() {
            bail!(
                "{}: {} tokens: expected at least 2, for one to be predicted",
                path.display(),
                tokens.len()
            );
        }
        Ok(Self { windows })
    }

    /// Tokens that are predicted.
    pub fn predicted(&self) -> usize {
        self.windows.iter().map(|window| window.len() - 1).sum()
    }

    /// What `model` makes of it.
    ///
    /// # Errors
    /// A model of another vocabulary.
    pub fn of<M: DecoderModel>(&self, model: &M) -> Result<f64, pear_models::Error> {
        let rows: Vec<Vec<f64>> = self
            .windows
            .iter()
            .map(|window| log_probs(model, window))
            .collect::<Result<_, _>>()?;
        Ok(perplexity(&rows))
    }
}
