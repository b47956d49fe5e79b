//! Greedy and sampled decoding with a key/value cache.

use std::ops::ControlFlow;

use pear_core::forward::{check_length, residual_cached, token_tensor};
use pear_core::{DecoderModel, KvCache, NoEdit};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::error::Error;
use crate::sample::choose;

/// How tokens are chosen, and when to stop.
///
/// Where several of them are given, they act in the order of transformers: repetition penalty, temperature, top-k, top-p, min-p.
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
    /// Draw only from tokens at least this share as likely as the likeliest.
    pub min_p: Option<f64>,
    /// Logits of tokens that are in the prompt or were chosen before are divided by this, or multiplied where they are negative
    /// ([arXiv 1909.05858](https://arxiv.org/abs/1909.05858)); 1 changes nothing.
    pub repetition_penalty: f64,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            max_new_tokens: 64,
            eos_tokens: Vec::new(),
            temperature: 0.0,
            top_k: None,
            top_p: None,
            min_p: None,
            repetition_penalty: 1.0,
            seed: 0,
        }
    }
}

impl GenerateOptions {
    /// # Errors
    /// [`Error::Input`] naming the option that is out of range.
    pub fn validate(&self) -> Result<(), Error> {
        let Self {
            temperature,
            repetition_penalty,
            ..
        } = *self;
        let share = |name: &str, value: Option<f64>| match value {
            Some(p) if !(p > 0.0 && p <= 1.0) => Err(Error::Input(format!(
                "a {name} of {p}: expected more than 0, at most 1"
            ))),
            _ => Ok(()),
        };
        if !(temperature.is_finite() && temperature >= 0.0) {
            return Err(Error::Input(format!(
                "a temperature of {temperature}: expected 0 or more"
            )));
        }
        if !(repetition_penalty.is_finite() && repetition_penalty > 0.0) {
            return Err(Error::Input(format!(
                "a repetition penalty of {repetition_penalty}: expected more than 0"
            )));
        }
        if self.top_k == Some(0) {
            return Err(Error::Input("a top-k of 0: expected at least 1".into()));
        }
        share("top-p", self.top_p)?;
        share("min-p", self.min_p)
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
    model: &M,
    prompt: &[u32],
    options: &GenerateOptions,
    mut each: impl FnMut(u32) -> ControlFlow<()>,
) -> Result<Vec<u32>, Error> {
    let mut rows = generate_batch(model, &[prompt], options, |_, token| each(token))?;
    Ok(rows.pop().unwrap_or_default())
}

/// Continues several prompts at once, of whatever lengths: the weights are read once for a token of each. `each` is told which prompt a
/// new token belongs to, and may stop that one.
///
/// A prompt is continued as it is alone, up to rounding; draws of prompt `i` are from stream `i` of the seed. Rotary positions whose
/// frequencies depend on the length of a text (dynamic, LongRoPE) take the longest's for all, as transformers does.
///
/// # Errors
/// As [`generate`].
pub fn generate_batch<M: DecoderModel>(
    model: &M,
    prompts: &[impl AsRef<[u32]>],
    options: &GenerateOptions,
    mut each: impl FnMut(usize, u32) -> ControlFlow<()>,
) -> Result<Vec<Vec<u32>>, Error> {
    options.validate()?;
    for prompt in prompts {
        crate::score::check_tokens(model, prompt.as_ref())?;
    }
    let longest = prompts
        .iter()
        .map(|prompt| prompt.as_ref().len())
        .max()
        .unwrap_or(0);
    // The last new token is never read.
    check_length(model, longest + options.max_new_tokens.saturating_sub(1))?;
    let mut rows: Vec<Row> = prompts
        .iter()
        .enumerate()
        .map(|(index, prompt)| Row::new(index, prompt.as_ref(), options))
        .collect();
    let mut done = vec![Vec::new(); prompts.len()];
    let device = model.device();
    let padding: Vec<usize> = rows.iter().map(|row| longest - row.prompt_len).collect();
    let cache = KvCache::new(
        model.shape().num_layers,
        longest + options.max_new_tokens.min(MOST_RESERVED),
    );
    let mut cache = if padding.iter().any(|&empty| empty > 0) {
        cache.padded(padding)
    } else {
        cache
    };
    // An empty column holds some token or other.
    let mut unread: Vec<Vec<u32>> = rows
        .iter()
        .map(|row| [vec![0; longest - row.prompt_len], row.tokens.clone()].concat())
        .collect();
    for _ in 0..options.max_new_tokens {
        if rows.is_empty() {
            break;
        }
        let residual = residual_cached(
            model,
            token_tensor(&unread, &device),
            &mut cache,
            &mut NoEdit,
        )?;
        let last = residual.narrow(1, unread[0].len() - 1, 1);
        let logits: Vec<f32> = model.logits(last).into_data().iter::<f32>().collect();
        for (row, logits) in rows.iter_mut().zip(logits.chunks_exact(model.vocab_size())) {
            if row.ended {
                continue;
            }
            if let Some(id) = logits.iter().position(|logit| logit.is_nan()) {
                let after = cache.len();
                return Err(Error::Input(format!(
                    "the model gave no number as the logit of token {id}, after {after} tokens"
                )));
            }
            let token = choose(logits, &row.tokens, options, &mut row.random);
            row.tokens.push(token);
            row.ended = each(row.index, token).is_break() || options.eos_tokens.contains(&token);
        }
        // Rows that have ended are read along until they are half of all.
        let going: Vec<usize> = (0..rows.len()).filter(|&row| !rows[row].ended).collect();
        if 2 * going.len() <= rows.len() {
            if !going.is_empty() {
                cache.keep_rows(&going);
            }
            let (ended, kept) = rows.into_iter().partition(|row| row.ended);
            rows = kept;
            finish(ended, &mut done);
        }
        unread = rows
            .iter()
            .filter_map(|row| Some(vec![*row.tokens.last()?]))
            .collect();
    }
    finish(rows, &mut done);
    Ok(done)
}

/// Positions that the cache has room for from the start; it grows when more come.
const MOST_RESERVED: usize = 4096;

/// One prompt and what follows it.
struct Row {
    index: usize,
    /// The prompt, and what was chosen.
    tokens: Vec<u32>,
    prompt_len: usize,
    random: ChaCha8Rng,
    ended: bool,
}

impl Row {
    fn new(index: usize, prompt: &[u32], options: &GenerateOptions) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(options.seed);
        random.set_stream(index as u64);
        Self {
            index,
            tokens: prompt.to_vec(),
            prompt_len: prompt.len(),
            random,
            ended: false,
        }
    }
}

fn finish(rows: Vec<Row>, done: &mut [Vec<u32>]) {
    for row in rows {
        done[row.index] = row.tokens[row.prompt_len..].to_vec();
    }
}
