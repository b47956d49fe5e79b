//! What a model expects after many prompts, which it reads together.

use burn::prelude::*;
use burn::tensor::DType;
use pear_core::forward::{check_length, not_finite, residual};
use pear_core::{DecoderModel, NoEdit};

use crate::error::Error;
use crate::length_batches::length_batches;
use crate::score::{LOGITS_IN_MEMORY, check_tokens};

/// Logits of the next token, one for each token of the vocabulary.
#[derive(Clone, Copy, Debug)]
pub struct NextTokenLogits<'a>(&'a [f32]);

impl<'a> NextTokenLogits<'a> {
    /// All logits: `[vocab]`.
    pub fn logits(&self) -> &'a [f32] {
        self.0
    }

    /// The logit of one token.
    ///
    /// # Panics
    /// If the token is not in the vocabulary.
    pub fn logit(&self, token: u32) -> f64 {
        f64::from(self.0[token as usize])
    }

    /// The most likely token; of equal ones the first.
    pub fn top_token(&self) -> u32 {
        let top = (1..self.0.len()).fold(0, |top, token| {
            if self.0[token] > self.0[top] {
                token
            } else {
                top
            }
        });
        top as u32
    }

    /// Natural logarithm of the sum of `exp` of all logits: what a logit exceeds its log-probability by.
    pub fn log_sum_exp(&self) -> f64 {
        let largest = f64::from(self.logits()[self.top_token() as usize]);
        let terms = self
            .0
            .iter()
            .map(|&logit| (f64::from(logit) - largest).exp());
        terms.sum::<f64>().ln() + largest
    }

    /// Natural-log probability of one token.
    ///
    /// # Panics
    /// If the token is not in the vocabulary.
    pub fn log_prob(&self, token: u32) -> f64 {
        self.logit(token) - self.log_sum_exp()
    }
}

/// Tells `observe` what `model` expects after each prompt: the index of the prompt and the logits of the next token.
///
/// Prompts of similar length go through the model together, at most `batch_tokens` tokens with their padding at once (or one prompt, where
/// that is longer). Only the logits after the last token are computed, and those of a few prompts are in memory at a time, whatever their
/// number. `observe` is called once for each prompt, for the longest ones first.
///
/// Padding stands after a prompt, where its tokens do not see it: results are those of the prompt alone, up to rounding. Only rotary
/// positions whose frequencies depend on the length of a text (dynamic, LongRoPE) take the longest's for a whole batch.
///
/// ```
/// use burn::prelude::*;
/// use pear_models::{DecoderConfig, DecoderSizes, Error, next_token_logits};
///
/// let sizes = DecoderSizes {
///     vocab_size: 100,
///     hidden_size: 32,
///     intermediate_size: 64,
///     num_hidden_layers: 2,
///     num_attention_heads: 4,
/// };
/// let model = DecoderConfig::llama(sizes).init(&Device::flex())?;
/// let mut top_tokens = [0; 3];
/// next_token_logits(&model, &[vec![1, 2, 3], vec![4], vec![5, 6]], 4096, |prompt, next| {
///     top_tokens[prompt] = next.top_token();
///     Ok::<_, Error>(())
/// })?;
/// # Ok::<(), Error>(())
/// ```
///
/// # Errors
/// [`Error::Input`] for an empty prompt, ids outside the vocabulary or a logit that is NaN; more tokens than the model has positions for;
/// what `observe` returns, after which nothing more is read.
pub fn next_token_logits<M: DecoderModel, E: From<Error>>(
    model: &M,
    prompts: &[impl AsRef<[u32]>],
    batch_tokens: usize,
    mut observe: impl FnMut(usize, NextTokenLogits) -> Result<(), E>,
) -> Result<(), E> {
    let sequences: Vec<Sequence> = prompts
        .iter()
        .map(|prompt| Sequence {
            tokens: prompt.as_ref().to_vec(),
            wanted: 1,
        })
        .collect();
    last_logits(model, &sequences, batch_tokens, |prompt, _, next| {
        observe(prompt, next)
    })
}

/// How probable a model finds a text after a prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct ContinuationScore {
    /// Natural-log probability of each of its tokens, given the prompt and the tokens before it.
    pub log_probs: Vec<f64>,
    /// Whether each of its tokens is the most likely one: whether greedy decoding would begin with this text.
    pub is_greedy: bool,
}

impl ContinuationScore {
    /// Natural-log probability of the whole text.
    pub fn log_prob(&self) -> f64 {
        self.log_probs.iter().sum()
    }
}

/// How probable `model` finds each text after its prompt, both as tokens, in the order of `continuations`; read as
/// [`next_token_logits`] reads prompts. `observe` is told of each score as it comes, with the index of its text.
///
/// The last token of a text is not read, as it is not when the text is generated.
///
/// # Errors
/// As [`next_token_logits`]; an empty text.
pub fn continuation_scores<M: DecoderModel, E: From<Error>>(
    model: &M,
    continuations: &[(impl AsRef<[u32]>, impl AsRef<[u32]>)],
    batch_tokens: usize,
    mut observe: impl FnMut(usize, &ContinuationScore) -> Result<(), E>,
) -> Result<Vec<ContinuationScore>, E> {
    let mut sequences = Vec::with_capacity(continuations.len());
    for (prompt, text) in continuations {
        let (prompt, text) = (prompt.as_ref(), text.as_ref());
        check_tokens(model, prompt)?;
        check_tokens(model, text)?;
        let tokens = [prompt, &text[..text.len() - 1]].concat();
        let wanted = text.len();
        sequences.push(Sequence { tokens, wanted });
    }
    let empty = ContinuationScore {
        log_probs: Vec::new(),
        is_greedy: true,
    };
    let mut scores = vec![empty; continuations.len()];
    last_logits::<M, E>(model, &sequences, batch_tokens, |index, place, next| {
        let token = continuations[index].1.as_ref()[place];
        let score = &mut scores[index];
        score.log_probs.push(next.log_prob(token));
        score.is_greedy &= next.top_token() == token;
        if place + 1 == sequences[index].wanted {
            observe(index, score)?;
        }
        Ok(())
    })?;
    Ok(scores)
}

/// Tokens to read, of which the logits after the last `wanted` ones are asked for.
struct Sequence {
    tokens: Vec<u32>,
    wanted: usize,
}

/// Tells `observe` the index of a sequence, which of its wanted positions it is, from 0, and the logits there, in this order within a
/// sequence.
fn last_logits<M: DecoderModel, E: From<Error>>(
    model: &M,
    sequences: &[Sequence],
    batch_tokens: usize,
    mut observe: impl FnMut(usize, usize, NextTokenLogits) -> Result<(), E>,
) -> Result<(), E> {
    let lengths: Vec<usize> = sequences.iter().map(|s| s.tokens.len()).collect();
    // What cannot be read is found before the first batch.
    for sequence in sequences {
        check_tokens(model, &sequence.tokens)?;
    }
    let longest = lengths.iter().copied().max().unwrap_or(0);
    check_length(model, longest).map_err(Error::from)?;
    for batch in length_batches(&lengths, batch_tokens) {
        let rows: Vec<&Sequence> = batch.iter().map(|&index| &sequences[index]).collect();
        let residual = read(model, &rows)?;
        let places: Vec<Place> = batch
            .iter()
            .enumerate()
            .flat_map(|(row, &sequence)| places(row, sequence, &sequences[sequence]))
            .collect();
        let at_once = (LOGITS_IN_MEMORY / model.vocab_size().max(1)).max(1);
        for places in places.chunks(at_once) {
            let logits = logits_at(model, &residual, places)?;
            let rows = logits.chunks_exact(model.vocab_size());
            for (place, logits) in places.iter().zip(rows) {
                if let Some(found) = nan_at(logits, place) {
                    let tokens = &sequences[place.sequence].tokens;
                    return Err(Error::from(not_finite(model, tokens, &mut NoEdit, found)).into());
                }
                observe(place.sequence, place.index, NextTokenLogits(logits))?;
            }
        }
    }
    Ok(())
}

/// A position of which logits are wanted.
struct Place {
    sequence: usize,
    /// Which of the wanted positions of the sequence.
    index: usize,
    row: usize,
    column: usize,
}

fn places(row: usize, index: usize, sequence: &Sequence) -> impl Iterator<Item = Place> + use<> {
    let first = sequence.tokens.len() - sequence.wanted;
    (0..sequence.wanted).map(move |wanted| Place {
        sequence: index,
        index: wanted,
        row,
        column: first + wanted,
    })
}

/// The residual stream after the last layer, `[rows, longest, hidden]`.
fn read<M: DecoderModel>(model: &M, rows: &[&Sequence]) -> Result<Tensor<3>, Error> {
    let longest = rows.iter().map(|row| row.tokens.len()).max().unwrap_or(0);
    let mut ids: Vec<i32> = Vec::with_capacity(rows.len() * longest);
    for row in rows {
        ids.extend(row.tokens.iter().map(|&id| id as i32));
        // Padding holds an arbitrary token: nothing that is wanted comes after it.
        ids.resize(ids.len() + longest - row.tokens.len(), 0);
    }
    let tokens =
        Tensor::<2, Int>::from_data(TensorData::new(ids, [rows.len(), longest]), &model.device());
    Ok(residual(model, tokens, &mut NoEdit)?)
}

/// The logits at these places, one row of the vocabulary after the other.
fn logits_at<M: DecoderModel>(
    model: &M,
    residual: &Tensor<3>,
    places: &[Place],
) -> Result<Vec<f32>, Error> {
    let [batch, longest, hidden] = residual.dims();
    let flat: Vec<i32> = places
        .iter()
        .map(|place| (place.row * longest + place.column) as i32)
        .collect();
    let flat =
        Tensor::<1, Int>::from_data(TensorData::new(flat, [places.len()]), &residual.device());
    let chosen = residual
        .clone()
        .reshape([batch * longest, hidden])
        .select(0, flat)
        .unsqueeze_dim(0);
    let logits = model.logits(chosen).cast(DType::F32).into_data();
    logits
        .try_into_vec::<f32>()
        .map_err(|e| Error::Input(format!("logits that cannot be read: {e:?}")))
}

/// What is wrong where a logit is NaN.
fn nan_at(logits: &[f32], place: &Place) -> Option<String> {
    let token = logits.iter().position(|logit| logit.is_nan())?;
    let (sequence, after) = (place.sequence, place.column + 1);
    Some(format!(
        "prompt {sequence}: the logit of token {token} after {after} tokens is NaN"
    ))
}
