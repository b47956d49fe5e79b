//! Greedy and sampled decoding with a key/value cache.

mod batch;
mod queue;
mod row;

use std::ops::ControlFlow;

use pear_core::{DecoderModel, HeadEdit, NoEdit};

use crate::error::Error;
use crate::generate_options::GenerateOptions;
use batch::Batch;
use queue::Queue;
use row::Row;

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
        let mut new_tokens = vec![Vec::new(); prompts.len()];
        let mut batch = Batch::padded(&self.model, &self.options, prompts)?;
        while self.options.max_new_tokens > 0 && !batch.is_empty() {
            let logits = batch.read(&self.model, edit)?;
            batch.choose(&logits, &self.options, |row| {
                observe(row.prompt, row.last_token()).map(|flow| flow.is_break())
            })?;
            // Until then they are read along.
            if batch.is_half_ended() {
                for row in batch.drop_ended() {
                    let prompt = row.prompt;
                    new_tokens[prompt] = row.into_new_tokens();
                }
            }
        }
        Ok(new_tokens)
    }

    /// Continues many prompts, as many at a time as `batch_tokens` positions of the key/value cache hold, padding and new tokens included
    /// (or one, where that is longer). A prompt that has ended makes room for others.
    ///
    /// Prompts are read with those of similar length or alone, without padding where they are long, and what a prompt has in common with
    /// the one before it, in the order of their tokens, is read once. Each is continued as it is [alone](generate), up to rounding; draws of
    /// prompt `i` are from stream `i` of the seed.
    ///
    /// `is_complete` sees the new tokens of a prompt after each, and may end it. `ended` is given each prompt's new tokens as it ends, in
    /// whatever order; it may end the whole run with an error of its own.
    ///
    /// # Errors
    /// As [`generate`]; what `is_complete` and `ended` return.
    pub fn run_in_turn<E: From<Error>>(
        &self,
        prompts: &[impl AsRef<[u32]>],
        batch_tokens: usize,
        mut is_complete: impl FnMut(&[u32]) -> Result<bool, E>,
        mut ended: impl FnMut(usize, Vec<u32>) -> Result<(), E>,
    ) -> Result<(), E> {
        let (model, options) = (&self.model, &self.options);
        let mut queue = Queue::new(model, options, prompts, batch_tokens)?;
        if options.max_new_tokens == 0 {
            return (0..prompts.len()).try_for_each(|prompt| ended(prompt, Vec::new()));
        }
        let mut batch = Batch::default();
        let mut finish = |rows: Vec<Row>| -> Result<(), E> {
            let mut rows = rows.into_iter();
            rows.try_for_each(|row| ended(row.prompt, row.into_new_tokens()))
        };
        loop {
            let mut batches = vec![batch];
            while let Some(prompts) = queue.next(batches.iter().flat_map(Batch::rows)) {
                let (mut read, logits) = queue.read(model, &prompts)?;
                read.choose(&logits, options, |row| is_complete(row.new_tokens()))?;
                finish(read.drop_ended())?;
                batches.push(read);
            }
            batch = Batch::joined(batches, options);
            // All that were left may have ended with their first token.
            if batch.is_empty() {
                return Ok(());
            }
            let logits = batch.read(model, &mut NoEdit)?;
            batch.choose(&logits, options, |row| is_complete(row.new_tokens()))?;
            if batch.is_half_ended() {
                finish(batch.drop_ended())?;
            }
        }
    }
}
