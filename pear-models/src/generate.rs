//! Greedy and sampled decoding with a key/value cache.

use std::ops::ControlFlow;

use pear_core::forward::{check_length, residual_cached, token_tensor};
use pear_core::{DecoderModel, KvCache, NoEdit};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::error::Error;

/// How tokens are chosen, and when to stop.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateOptions {
    /// New tokens at most.
    pub max_new_tokens: usize,
    /// Tokens that end the text; the one that does is part of the result.
    pub eos_tokens: Vec<u32>,
    /// 0: always the likeliest token. Otherwise logits are divided by this before one is drawn.
    pub temperature: f64,
    /// Draw only from the `top_k` likeliest tokens.
    pub top_k: Option<usize>,
    /// Draw only from the likeliest tokens that together reach this probability.
    pub top_p: Option<f64>,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self { max_new_tokens: 64, eos_tokens: Vec::new(), temperature: 0.0, top_k: None, top_p: None, seed: 0 }
    }
}

impl GenerateOptions {
    /// # Errors
    /// [`Error::Input`] naming the option that is out of range.
    pub fn validate(&self) -> Result<(), Error> {
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return Err(Error::Input(format!("a temperature of {}: expected 0 or more", self.temperature)));
        }
        if self.top_k == Some(0) {
            return Err(Error::Input("a top-k of 0: expected at least 1".into()));
        }
        match self.top_p {
            Some(p) if !(p > 0.0 && p <= 1.0) => Err(Error::Input(format!("a top-p of {p}: expected more than 0, at most 1"))),
            _ => Ok(()),
        }
    }
}

/// Continues `prompt`; `each` sees every new token and may stop.
///
/// Works on any [`DecoderModel`], with whatever coefficients it carries.
///
/// # Errors
/// [`Error::Input`] for an empty prompt, ids outside the vocabulary, options out of range or logits that are no numbers; too long a text
/// for the model's positions.
pub fn generate<M: DecoderModel>(
    model: &M, prompt: &[u32], options: &GenerateOptions, mut each: impl FnMut(u32) -> ControlFlow<()>,
) -> Result<Vec<u32>, Error> {
    options.validate()?;
    crate::score::check_tokens(model, prompt)?;
    // The last new token is never read.
    let longest = prompt.len() + options.max_new_tokens.saturating_sub(1);
    check_length(model, longest)?;
    let device = model.device();
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
    let mut cache = KvCache::new(model.shape().num_layers, prompt.len() + options.max_new_tokens.min(4096));
    let mut tokens = Vec::new();
    let mut unread = prompt.to_vec();
    while tokens.len() < options.max_new_tokens {
        let residual = residual_cached(model, token_tensor(&[&unread], &device), &mut cache, &mut NoEdit);
        let last = residual.narrow(1, unread.len() - 1, 1);
        let logits: Vec<f32> = model.logits(last).into_data().iter::<f32>().collect();
        if let Some(id) = logits.iter().position(|logit| logit.is_nan()) {
            return Err(Error::Input(format!(
                "the model gave no number as the logit of token {id}, after {} tokens",
                cache.len()
            )));
        }
        let token = choose(&logits, options, &mut rng);
        tokens.push(token);
        if each(token).is_break() || options.eos_tokens.contains(&token) {
            break;
        }
        unread = vec![token];
    }
    Ok(tokens)
}

fn choose(logits: &[f32], options: &GenerateOptions, rng: &mut ChaCha8Rng) -> u32 {
    // The first of equal logits wins, as in PyTorch and NumPy.
    let best = || (1..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best });
    if options.temperature == 0.0 {
        return best() as u32;
    }
    let mut ranked: Vec<usize> = (0..logits.len()).collect();
    ranked.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    ranked.truncate(options.top_k.unwrap_or(usize::MAX));
    let largest = f64::from(logits[ranked[0]]);
    let weights: Vec<f64> = ranked.iter().map(|&i| ((f64::from(logits[i]) - largest) / options.temperature).exp()).collect();
    let total: f64 = weights.iter().sum();
    let within = options.top_p.map_or(f64::INFINITY, |p| p * total);
    let mut sum = 0.0;
    let kept = weights
        .iter()
        .take_while(|&&weight| {
            let keep = sum < within;
            sum += weight;
            keep
        })
        .count();
    let mut point = (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64 * weights[..kept].iter().sum::<f64>();
    for (&token, weight) in ranked.iter().zip(&weights[..kept]) {
        point -= weight;
        if point < 0.0 {
            return token as u32;
        }
    }
    ranked[kept - 1] as u32
}
