//! Greedy and sampled decoding with a key/value cache.

use std::ops::ControlFlow;

use pear_core::forward::{check_length, not_finite, residual_cached, token_tensor};
use pear_core::{DecoderModel, HeadEdit, KvCache, NoEdit};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::error::Error;
use crate::generate_options::GenerateOptions;
use crate::sample::choose;
use crate::score::check_tokens;

/// Continues `prompt` and returns the new tokens.
///
/// Works on any [`DecoderModel`], with whatever coefficients it carries. A [`Generator`] can be observed and takes a head edit.
///
/// # Errors
/// [`Error::Input`] for an empty prompt, ids outside the vocabulary, options out of range or logits that are NaN; a text too
/// long for the model's positions; a model whose weights or coefficients are tracked by autodiff.
pub fn generate<M: DecoderModel>(
    model: &M,
    prompt: &[u32],
    options: &GenerateOptions,
) -> Result<Vec<u32>, Error> {
    let mut rows = generate_batch(model, &[prompt], options)?;
    Ok(rows.pop().unwrap_or_default())
}

/// Continues several prompts at once and returns the new tokens of each; see [`Generator`].
///
/// # Errors
/// As [`generate`].
pub fn generate_batch<M: DecoderModel>(
    model: &M,
    prompts: &[impl AsRef<[u32]>],
    options: &GenerateOptions,
) -> Result<Vec<Vec<u32>>, Error> {
    let generator = Generator::new(model, options.clone())?;
    generator.run_with(prompts, &mut NoEdit, |_, _| Ok(ControlFlow::Continue(())))
}

/// Continues prompts of whatever lengths at once: the weights are read once for a token of each.
///
/// It owns its model, which may be a reference or an `Arc` as well. A prompt is continued as it is alone, up to rounding; draws
/// of prompt `i` are from stream `i` of the seed. Rotary positions whose frequencies depend on the length of a text (dynamic,
/// LongRoPE) take the longest's for all, as transformers does.
///
/// ```
/// use std::ops::ControlFlow;
/// use burn::prelude::*;
/// use pear_core::{DecoderModel, HeadCoefficients, HeadId};
/// use pear_models::{DecoderConfig, Error, GenerateOptions, Generator};
///
/// let config = DecoderConfig::from_json(&serde_json::json!({
///     "model_type": "llama", "vocab_size": 100, "hidden_size": 32, "intermediate_size": 64,
///     "num_hidden_layers": 2, "num_attention_heads": 4,
/// }))?;
/// let model = config.init(&Device::flex())?;
/// let mut coefficients = HeadCoefficients::new(&[(HeadId::new(1, 3), 0.5)], &model.shape(), &model.device())?;
/// let generator = Generator::new(model, GenerateOptions { max_new_tokens: 8, ..GenerateOptions::default() })?;
///
/// // Both prompts with a head re-weighted; the second ends after three tokens.
/// let mut seen = [0, 0];
/// let rows = generator.run_with(&[vec![1, 2, 3], vec![4]], &mut coefficients, |prompt, _token| {
///     seen[prompt] += 1;
///     let done = prompt == 1 && seen[1] == 3;
///     Ok::<_, Error>(if done { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
/// })?;
/// assert_eq!((rows[0].len(), rows[1].len()), (8, 3));
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Generator<M> {
    model: M,
    options: GenerateOptions,
}

impl<M: DecoderModel> Generator<M> {
    /// A generator with these options.
    ///
    /// # Errors
    /// As [`GenerateOptions::validate`].
    pub fn new(model: M, options: GenerateOptions) -> Result<Self, Error> {
        options.validate()?;
        Ok(Self { model, options })
    }

    /// Continues `prompts` and returns the new tokens of each. `edit` acts on the heads at every position, prompts included; it
    /// sees only the prompts that have not ended. `observe` is told which prompt a new token belongs to; it may end that prompt,
    /// or the whole run with an error of its own.
    ///
    /// # Errors
    /// As [`generate`]; what `edit` and `observe` return.
    pub fn run_with<E: From<Error>>(
        &self,
        prompts: &[impl AsRef<[u32]>],
        edit: &mut (impl HeadEdit + ?Sized),
        mut observe: impl FnMut(usize, u32) -> Result<ControlFlow<()>, E>,
    ) -> Result<Vec<Vec<u32>>, E> {
        let mut batch = Batch::new(&self.model, &self.options, prompts)?;
        for _ in 0..self.options.max_new_tokens {
            if batch.rows.is_empty() {
                break;
            }
            let logits = batch.read(&self.model, edit)?;
            for (row, logits) in batch
                .rows
                .iter_mut()
                .zip(logits.chunks_exact(self.model.vocab_size()))
            {
                if row.ended {
                    continue;
                }
                let token = row.choose(logits, &self.options);
                row.ended = observe(row.prompt, token)?.is_break()
                    || self.options.eos_tokens.contains(&token);
            }
            batch.drop_ended();
        }
        Ok(batch.finish())
    }
}

/// Positions that the cache has room for from the start; it grows when more come.
const MOST_RESERVED: usize = 4096;

/// The prompts that are being continued, with the cache of what the model has read of them.
struct Batch {
    rows: Vec<Row>,
    cache: KvCache,
    /// Tokens of each row that the model has not read yet: as many for every row.
    unread: Vec<Vec<u32>>,
    /// The new tokens of prompts that have ended.
    done: Vec<Vec<u32>>,
}

impl Batch {
    fn new<M: DecoderModel>(
        model: &M,
        options: &GenerateOptions,
        prompts: &[impl AsRef<[u32]>],
    ) -> Result<Self, Error> {
        for prompt in prompts {
            check_tokens(model, prompt.as_ref())?;
        }
        let longest = prompts
            .iter()
            .map(|prompt| prompt.as_ref().len())
            .max()
            .unwrap_or(0);
        // The last new token is never read.
        check_length(
            model,
            longest.saturating_add(options.max_new_tokens.saturating_sub(1)),
        )?;
        let rows: Vec<Row> = prompts
            .iter()
            .enumerate()
            .map(|(index, prompt)| Row::new(index, prompt.as_ref(), options))
            .collect();
        let capacity = longest + options.max_new_tokens.min(MOST_RESERVED);
        let mut cache = KvCache::new(model.shape().num_layers, capacity);
        let padding: Vec<usize> = rows.iter().map(|row| longest - row.prompt_len).collect();
        if padding.iter().any(|&empty| empty > 0) {
            cache = cache.padded(padding.clone());
        }
        // Padding holds an arbitrary token: it is masked.
        let padded = |(row, empty): (&Row, &usize)| [vec![0; *empty], row.tokens.clone()].concat();
        let unread = rows.iter().zip(&padding).map(padded).collect();
        Ok(Self {
            rows,
            cache,
            unread,
            done: vec![Vec::new(); prompts.len()],
        })
    }

    /// Lets the model read what it has not read, and returns the logits of the next token, one row after the other.
    fn read<M: DecoderModel>(
        &mut self,
        model: &M,
        edit: &mut (impl HeadEdit + ?Sized),
    ) -> Result<Vec<f32>, Error> {
        let tokens = token_tensor(&self.unread, &model.device());
        let last = self.unread[0].len() - 1;
        let residual = residual_cached(model, tokens, &mut self.cache, edit)?.narrow(1, last, 1);
        let logits: Vec<f32> = model.logits(residual).into_data().iter::<f32>().collect();
        if let Some(index) = logits.iter().position(|logit| logit.is_nan()) {
            let (token, after) = (index % model.vocab_size(), self.cache.len());
            let tokens = &self.rows[index / model.vocab_size()].tokens;
            let found = format!("the logit of token {token} after {after} tokens is NaN");
            return Err(not_finite(model, tokens, edit, found).into());
        }
        Ok(logits)
    }

    /// Drops the rows that have ended once they are half of all; until then they are read along.
    fn drop_ended(&mut self) {
        let going: Vec<usize> = (0..self.rows.len())
            .filter(|&row| !self.rows[row].ended)
            .collect();
        if 2 * going.len() <= self.rows.len() {
            if !going.is_empty() {
                self.cache.keep_rows(&going);
            }
            let (ended, going) = std::mem::take(&mut self.rows)
                .into_iter()
                .partition(|row| row.ended);
            self.rows = going;
            self.keep_new_tokens(ended);
        }
        self.unread = self
            .rows
            .iter()
            .filter_map(|row| Some(vec![*row.tokens.last()?]))
            .collect();
    }

    fn keep_new_tokens(&mut self, rows: Vec<Row>) {
        for row in rows {
            self.done[row.prompt] = row.tokens[row.prompt_len..].to_vec();
        }
    }

    /// The new tokens of every prompt.
    fn finish(mut self) -> Vec<Vec<u32>> {
        let rows = std::mem::take(&mut self.rows);
        self.keep_new_tokens(rows);
        self.done
    }
}

/// One prompt and what follows it.
struct Row {
    /// Index of the prompt.
    prompt: usize,
    /// The prompt, then the new tokens.
    tokens: Vec<u32>,
    prompt_len: usize,
    random: ChaCha8Rng,
    ended: bool,
}

impl Row {
    fn new(prompt: usize, tokens: &[u32], options: &GenerateOptions) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(options.seed);
        random.set_stream(prompt as u64);
        Self {
            prompt,
            tokens: tokens.to_vec(),
            prompt_len: tokens.len(),
            random,
            ended: false,
        }
    }

    /// Adds the next token.
    fn choose(&mut self, logits: &[f32], options: &GenerateOptions) -> u32 {
        let token = choose(logits, &self.tokens, options, &mut self.random);
        self.tokens.push(token);
        token
    }
}
