//! How probable a model finds given tokens.

use pear_core::forward::{check_length, check_vocabulary, not_finite, residual, token_tensor};
use pear_core::kernels::log_sum_exp;
use pear_core::{DecoderModel, NoEdit};

use crate::error::Error;

/// Logits that may stand in memory at once.
pub(crate) const LOGITS_IN_MEMORY: usize = 1 << 24;

/// Natural-log probability of token `i + 1` given tokens `0 ..= i`, for every `i`: one number less than there are tokens.
///
/// # Errors
/// [`Error::Input`] for fewer than two tokens or ids outside the vocabulary; more tokens than the model has positions for;
/// [`pear_core::Error::NotFinite`] for a log-probability that is not finite.
pub fn log_probs<M: DecoderModel>(model: &M, tokens: &[u32]) -> Result<Vec<f64>, Error> {
    check_tokens(model, tokens)?;
    if tokens.len() < 2 {
        return Err(Error::Input(
            "a sequence of 1 token: at least 2 are needed for one to be predicted".into(),
        ));
    }
    check_length(model, tokens.len())?;
    let device = model.device();
    // The last token predicts nothing here, but some rotary scalings depend on how long the sequence is.
    let residual = residual(model, token_tensor(&[tokens], &device), &mut NoEdit)?;
    let labels = &tokens[1..];
    let rows = (LOGITS_IN_MEMORY / model.vocab_size().max(1)).max(1);
    let mut result = Vec::with_capacity(labels.len());
    for (chunk, labels) in labels.chunks(rows).enumerate() {
        let logits = model.logits(residual.clone().narrow(1, chunk * rows, labels.len()));
        let [_, len, vocab] = logits.dims();
        let logits = logits.reshape([len, vocab]);
        let total = log_sum_exp(logits.clone());
        let chosen = logits.gather(1, token_tensor(&[labels], &device).reshape([len, 1]));
        result.extend((chosen - total).into_data().iter::<f64>());
    }
    if let Some(at) = result.iter().position(|log_prob| !log_prob.is_finite()) {
        let found = format!("the log-probability of token {} is {}", at + 1, result[at]);
        return Err(not_finite(model, tokens, &mut NoEdit, found).into());
    }
    Ok(result)
}

/// `exp` of the mean negative log-probability.
pub fn perplexity(log_probs: &[Vec<f64>]) -> f64 {
    let count = log_probs.iter().map(Vec::len).sum::<usize>();
    (-log_probs.iter().flatten().sum::<f64>() / count as f64).exp()
}

pub(crate) fn check_tokens<M: DecoderModel>(model: &M, tokens: &[u32]) -> Result<(), Error> {
    if tokens.is_empty() {
        return Err(Error::Input("no tokens given".into()));
    }
    Ok(check_vocabulary(
        model,
        tokens.iter().map(|&id| i64::from(id)),
    )?)
}
