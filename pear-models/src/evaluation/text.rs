//! Plain text in windows: what re-weighted heads cost where there is nothing to retrieve.

use pear_core::DecoderModel;

use super::divergence::{TextDivergence, TextReference};
#[cfg(feature = "tokenizer")]
use super::{prompt::check_vocabulary, template::read_text};
#[cfg(feature = "tokenizer")]
use crate::ModelDirectory;
use crate::{Error, log_probs, perplexity};

/// A larger file is not a text to be held in memory.
#[cfg(feature = "tokenizer")]
const MAX_TEXT_BYTES: u64 = 64 << 20;

/// A text as token ids, divided into windows that follow one another and are read on their own.
///
/// ```
/// use burn::prelude::*;
/// use pear_models::{DecoderConfig, DecoderSizes};
/// use pear_models::evaluation::TextWindows;
///
/// let sizes = DecoderSizes {
///     vocab_size: 100,
///     hidden_size: 32,
///     intermediate_size: 64,
///     num_hidden_layers: 2,
///     num_attention_heads: 4,
/// };
/// let model = DecoderConfig::llama(sizes).init(&Device::flex())?;
/// let text = TextWindows::new(&[1, 2, 3, 4, 5, 6, 7], None, 4)?;
/// assert_eq!(text.windows(), [vec![1, 2, 3, 4], vec![5, 6, 7]]);
/// assert_eq!(text.num_predicted(), 5);
/// assert!(text.perplexity(&model)? > 1.0);
/// # Ok::<(), pear_models::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextWindows {
    windows: Vec<Vec<u32>>,
}

impl TextWindows {
    /// Divides `tokens` into windows of at most `window` tokens. If they begin with `bos_token`, each window does. A last window in
    /// which nothing is predicted is left out.
    ///
    /// # Errors
    /// [`Error::Input`] for fewer than two tokens, or a window too short for one to be predicted.
    pub fn new(tokens: &[u32], bos_token: Option<u32>, window: usize) -> Result<Self, Error> {
        let has_bos = bos_token.is_some() && tokens.first().copied() == bos_token;
        let (bos, body) = tokens.split_at(usize::from(has_bos));
        if window < 2 {
            return Err(Error::Input(format!(
                "windows of {window} tokens: expected at least 2, for one to be predicted"
            )));
        }
        let windows: Vec<Vec<u32>> = body
            .chunks(window - bos.len())
            .map(|part| [bos, part].concat())
            .filter(|window| window.len() >= 2)
            .collect();
        if windows.is_empty() {
            return Err(Error::Input(format!(
                "{} tokens: expected at least 2, for one to be predicted",
                tokens.len()
            )));
        }
        Ok(Self { windows })
    }

    /// Reads a text file of at most 64 MiB with the tokenizer of a model. Windows have at most `window` tokens and no more than the
    /// model has positions; if the tokenizer begins the text with a BOS, each window begins with it.
    ///
    /// # Errors
    /// As [`read_text_tokens`]; [`Error::Malformed`] if the text is too short.
    #[cfg(feature = "tokenizer")]
    pub fn read(
        path: impl AsRef<std::path::Path>,
        directory: &ModelDirectory,
        window: usize,
    ) -> Result<Self, Error> {
        let path = path.as_ref();
        let tokens = read_text_tokens(path, directory)?;
        let config = directory.config();
        let max_positions = config.max_positions();
        let window = window.min(max_positions.unwrap_or(window));
        Self::new(&tokens, config.bos_token, window).map_err(|e| Error::malformed(path, e))
    }

    /// The windows, each of at least two tokens.
    pub fn windows(&self) -> &[Vec<u32>] {
        &self.windows
    }

    /// How many tokens are predicted: all but the first of each window.
    pub fn num_predicted(&self) -> usize {
        self.windows.iter().map(|window| window.len() - 1).sum()
    }

    /// The perplexity that `model` has on the text: see [`perplexity`](crate::perplexity()).
    ///
    /// # Errors
    /// As [`log_probs`].
    pub fn perplexity<M: DecoderModel>(&self, model: &M) -> Result<f64, Error> {
        let log_probs: Vec<Vec<f64>> = self
            .windows
            .iter()
            .map(|window| log_probs(model, window))
            .collect::<Result<_, _>>()?;
        Ok(perplexity(&log_probs))
    }

    /// How far the predictions of `reweighted` are from those of the unmodified model `original`, over all positions of all windows.
    ///
    /// # Errors
    /// As [`divergences`](super::divergences).
    pub fn divergence<M: DecoderModel, N: DecoderModel>(
        &self,
        original: &M,
        reweighted: &N,
    ) -> Result<TextDivergence, Error> {
        TextReference::new(original, &self.windows).divergence(reweighted)
    }
}

/// The tokens of a text file of at most 64 MiB, with the special tokens that the tokenizer puts around a text.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read, [`Error::Malformed`] if it is too large, not UTF-8, or has tokens outside the model's
/// vocabulary; [`Error::Tokenizer`].
#[cfg(feature = "tokenizer")]
pub fn read_text_tokens(
    path: impl AsRef<std::path::Path>,
    directory: &ModelDirectory,
) -> Result<Vec<u32>, Error> {
    let path = path.as_ref();
    let text = read_text(path, MAX_TEXT_BYTES)?;
    let tokens = directory.tokenizer()?.encode(&text)?;
    check_vocabulary(&tokens, directory.config().vocab_size)
        .map_err(|e| Error::malformed(path, e))?;
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_window_begins_with_the_bos_of_the_text() {
        let windows = |tokens: &[u32], bos, window| {
            TextWindows::new(tokens, bos, window).map(|text| text.windows)
        };
        let expected = [vec![9, 1, 2], vec![9, 3, 4], vec![9, 5]];
        assert_eq!(windows(&[9, 1, 2, 3, 4, 5], Some(9), 3).unwrap(), expected);
        // Without a BOS, a single last token predicts nothing.
        assert_eq!(
            windows(&[1, 2, 3, 4, 5], Some(9), 2).unwrap(),
            [vec![1, 2], vec![3, 4]]
        );
    }

    #[test]
    fn a_text_in_which_nothing_is_predicted_is_an_error() {
        for (tokens, bos, window) in [
            (&[][..], None, 4),
            (&[1], None, 4),
            (&[1], Some(1), 4),
            (&[1, 2, 3], None, 1),
        ] {
            let error = TextWindows::new(tokens, bos, window).unwrap_err();
            assert!(error.to_string().contains("expected at least 2"), "{error}");
        }
    }
}
