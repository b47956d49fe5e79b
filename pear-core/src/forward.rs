//! The forward pass, written once for every model: whole sequences, cached chunks, and a self-test of a model's two halves.
//!
//! [`logits`], [`residual`] and [`residual_cached`] are for inference: they refuse to build an autodiff graph, which burn would
//! keep until a backward pass. [`training_logits`], [`training_residual`] and the layer-by-layer functions keep what is tracked tracked.

use std::fmt;

use burn::prelude::*;

use crate::attend::{attend, attend_padded};
use crate::cache::KvCache;
use crate::edit::{HeadEdit, NoEdit};
use crate::model::{DecoderLayer, DecoderModel, HeadAttention, Qkv};
use crate::position::Positions;
use crate::{Error, Result};

/// # Errors
/// [`Error::TooLong`] if the model has no positions for `length` tokens.
pub fn check_length<M: DecoderModel>(model: &M, length: usize) -> Result<()> {
    match model.max_positions() {
        Some(max_positions) if length > max_positions => Err(Error::TooLong {
            length,
            max_positions,
        }),
        _ => Ok(()),
    }
}

/// # Errors
/// [`Error::OutOfVocabulary`] for the first token that the model does not know.
pub fn check_vocabulary<M: DecoderModel>(
    model: &M,
    tokens: impl IntoIterator<Item = i64>,
) -> Result<()> {
    let vocab_size = model.vocab_size();
    let known = |&token: &i64| usize::try_from(token).is_ok_and(|id| id < vocab_size);
    match tokens.into_iter().find(|token| !known(token)) {
        Some(token) => Err(Error::OutOfVocabulary { token, vocab_size }),
        None => Ok(()),
    }
}

/// Token ids as the tensor `[batch, seq]` that [`DecoderModel::embed`] takes.
///
/// # Panics
/// If the rows are not all of the same length.
pub fn token_tensor(rows: &[impl AsRef<[u32]>], device: &Device) -> Tensor<2, Int> {
    let seq = rows.first().map_or(0, |row| row.as_ref().len());
    let ids: Vec<i32> = rows
        .iter()
        .flat_map(|row| row.as_ref().iter().map(|&id| id as i32))
        .collect();
    assert_eq!(
        ids.len(),
        rows.len() * seq,
        "token_tensor: rows of different lengths"
    );
    Tensor::from_data(TensorData::new(ids, [rows.len(), seq]), device)
}

/// Where the tokens that are run stand, and what was read before them.
#[derive(Debug)]
pub struct TokenContext<'a> {
    /// Their positions.
    pub positions: Positions<'a>,
    /// Keys and values of the tokens before them, to which theirs are added; `None` for whole sequences.
    pub cache: Option<&'a mut KvCache>,
}

impl<'a> TokenContext<'a> {
    /// Whole sequences at these positions.
    pub fn uncached(positions: Positions<'a>) -> Self {
        Self {
            positions,
            cache: None,
        }
    }
}

/// Runs layer `index` on a residual stream `[batch, seq, hidden]`, with `edit` between the halves of its attention.
///
/// With a cache, the caller [advances](KvCache::advance) it after the last layer.
///
/// # Errors
/// A layer that cannot be made, what `edit` returns, and [`Error::AlreadyReweighted`] for coefficients on top of others.
pub fn run_layer<M: DecoderModel>(
    model: &M,
    index: usize,
    residual: Tensor<3>,
    context: TokenContext<'_>,
    edit: &mut (impl HeadEdit + ?Sized),
) -> Result<Tensor<3>> {
    run_layer_to(
        model,
        index,
        residual,
        context,
        edit,
        |layer, residual, output| layer.output(residual, output),
    )
}

/// As [`run_layer`], ended by `end`, which takes the layer, the residual stream before it and the attention's output.
///
/// # Errors
/// As [`run_layer`].
pub fn run_layer_to<'m, M: DecoderModel, T>(
    model: &'m M,
    index: usize,
    residual: Tensor<3>,
    context: TokenContext<'_>,
    edit: &mut (impl HeadEdit + ?Sized),
    end: impl FnOnce(&M::Layer<'m>, Tensor<3>, Tensor<3>) -> T,
) -> Result<T> {
    let TokenContext { positions, cache } = context;
    let layer = model.layer(index)?;
    let attention = layer.attention();
    check_not_reweighted(attention, index, edit)?;
    let input = layer.attention_input(residual.clone());
    let Qkv {
        query,
        mut key,
        mut value,
    } = attention.project_qkv(input, positions);
    if let Some(cache) = cache {
        (key, value) = cache.append(index, key, value);
    }
    let heads = edit.edit(
        index,
        attend_padded(attention, query, key, value, positions.padding),
    )?;
    let output = attention.output_projection(heads);
    Ok(end(&layer, residual, output))
}

/// # Errors
/// [`Error::AlreadyReweighted`] if `edit` would multiply heads whose attention applies coefficients already.
pub fn check_not_reweighted<A: HeadAttention>(
    attention: &A,
    layer: usize,
    edit: &(impl HeadEdit + ?Sized),
) -> Result<()> {
    if edit.reweights() && attention.coefficients().is_some() {
        return Err(Error::AlreadyReweighted { layer });
    }
    Ok(())
}

/// The residual stream after the last layer for whole sequences: `[batch, seq]` to `[batch, seq, hidden]`.
///
/// # Errors
/// Sequences that are too long or hold a token that the model does not know, an edit for another model, a layer that cannot be
/// made, and [`Error::Tracked`] where the outcome would keep an autodiff graph.
pub fn residual<M: DecoderModel>(
    model: &M,
    tokens: Tensor<2, Int>,
    edit: &mut (impl HeadEdit + ?Sized),
) -> Result<Tensor<3>> {
    check_input(model, &tokens, 0, edit)?;
    let context = TokenContext::uncached(Positions::first(tokens.dims()[1]));
    run(model, tokens, context, edit, untracked)
}

/// The logits of whole sequences: `[batch, seq]` to `[batch, seq, vocab]`.
///
/// # Errors
/// As [`residual`].
pub fn logits<M: DecoderModel>(
    model: &M,
    tokens: Tensor<2, Int>,
    edit: &mut (impl HeadEdit + ?Sized),
) -> Result<Tensor<3>> {
    Ok(model.logits(residual(model, tokens, edit)?))
}

/// As [`logits`], but tracked where `edit` or the model is: what a loss of your own is computed from.
///
/// burn keeps the graph until `backward` is called on the loss.
///
/// # Errors
/// As [`residual`], but for the last.
pub fn training_logits<M: DecoderModel>(
    model: &M,
    tokens: Tensor<2, Int>,
    edit: &mut (impl HeadEdit + ?Sized),
) -> Result<Tensor<3>> {
    Ok(model.logits(training_residual(model, tokens, edit)?))
}

/// As [`residual`], but tracked where `edit` or the model is: for losses that compute logits themselves, a part at a time.
///
/// # Errors
/// As [`training_logits`].
pub fn training_residual<M: DecoderModel>(
    model: &M,
    tokens: Tensor<2, Int>,
    edit: &mut (impl HeadEdit + ?Sized),
) -> Result<Tensor<3>> {
    check_input(model, &tokens, 0, edit)?;
    let context = TokenContext::uncached(Positions::first(tokens.dims()[1]));
    run(model, tokens, context, edit, Ok)
}

/// Reads the next tokens `[batch, seq]` after those in the cache and returns the residual stream after the last layer,
/// `[batch, seq, hidden]`. A prompt may come in one piece, in chunks, or token by token.
///
/// # Errors
/// As [`residual`]. The cache is of no use afterwards.
pub fn residual_cached<M: DecoderModel>(
    model: &M,
    tokens: Tensor<2, Int>,
    cache: &mut KvCache,
    edit: &mut (impl HeadEdit + ?Sized),
) -> Result<Tensor<3>> {
    check_input(model, &tokens, cache.len(), edit)?;
    let seq = tokens.dims()[1];
    let padding = cache.padding().to_vec();
    let context = TokenContext {
        positions: Positions::after(cache.len(), seq).padded(&padding),
        cache: Some(&mut *cache),
    };
    let residual = run(model, tokens, context, edit, untracked)?;
    cache.advance(seq);
    Ok(residual)
}

/// Embeds `tokens` and runs all layers; `check` sees the residual stream before the first and after each.
fn run<M: DecoderModel>(
    model: &M,
    tokens: Tensor<2, Int>,
    context: TokenContext<'_>,
    edit: &mut (impl HeadEdit + ?Sized),
    mut check: impl FnMut(Tensor<3>) -> Result<Tensor<3>>,
) -> Result<Tensor<3>> {
    let TokenContext {
        positions,
        mut cache,
    } = context;
    let mut residual = check(model.embed(tokens, positions))?;
    for layer in 0..model.shape().num_layers {
        let context = TokenContext {
            positions,
            cache: cache.as_deref_mut(),
        };
        residual = check(run_layer(model, layer, residual, context, edit)?)?;
    }
    Ok(residual)
}

/// Tokens `[batch, seq]` after `start` others.
fn check_input<M: DecoderModel>(
    model: &M,
    tokens: &Tensor<2, Int>,
    start: usize,
    edit: &(impl HeadEdit + ?Sized),
) -> Result<()> {
    edit.check(&model.shape())?;
    check_length(model, start + tokens.dims()[1])?;
    check_vocabulary(model, tokens.clone().into_data().iter::<i64>())
}

/// # Errors
/// [`Error::Tracked`] if an autodiff graph would be kept for `outcome`.
pub fn untracked<const D: usize>(outcome: Tensor<D>) -> Result<Tensor<D>> {
    if outcome.is_autodiff() {
        Err(Error::Tracked)
    } else {
        Ok(outcome)
    }
}

/// Where the numbers of a forward pass stop being finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotFiniteFrom {
    /// The embedding.
    Embedding,
    /// A layer, from 0.
    Layer(usize),
    /// The logits; the residual stream after the last layer is finite.
    Logits,
}

impl fmt::Display for NotFiniteFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedding => f.write_str("the embedding is not finite"),
            Self::Layer(layer) => {
                write!(f, "layer {layer} is the first whose output is not finite")
            }
            Self::Logits => f.write_str("the output of all layers is finite"),
        }
    }
}

/// The error for a sequence whose logits are not finite, with the place where that begins; `found` is what was seen of them.
///
/// The sequence is read once more, with `edit`, one layer after the other.
pub fn not_finite<M: DecoderModel>(
    model: &M,
    tokens: &[u32],
    edit: &mut (impl HeadEdit + ?Sized),
    found: String,
) -> Error {
    match not_finite_from(model, tokens, edit) {
        Ok(from) => Error::NotFinite { found, from },
        Err(error) => error,
    }
}

fn not_finite_from<M: DecoderModel>(
    model: &M,
    tokens: &[u32],
    edit: &mut (impl HeadEdit + ?Sized),
) -> Result<NotFiniteFrom> {
    let tokens = token_tensor(&[tokens], &model.device());
    check_input(model, &tokens, 0, edit)?;
    let context = TokenContext::uncached(Positions::first(tokens.dims()[1]));
    // The embedding, then the layers.
    let (mut seen, mut first) = (0, None);
    run(model, tokens, context, edit, |residual| {
        let residual = untracked(residual)?;
        if first.is_none() && !residual.clone().is_finite().all().into_scalar::<bool>() {
            first = Some(seen);
        }
        seen += 1;
        Ok(residual)
    })?;
    Ok(match first {
        None => NotFiniteFrom::Logits,
        Some(0) => NotFiniteFrom::Embedding,
        Some(after) => NotFiniteFrom::Layer(after - 1),
    })
}

/// What each head adds to the residual stream: `[batch, heads, seq, hidden]`, from head outputs `[batch, heads, seq, head_dim]`.
///
/// The output projection is linear, so these and its bias sum to the attention's output.
pub fn head_contributions<A: HeadAttention>(attention: &A, heads: Tensor<4>) -> Tensor<4> {
    let [_, num_heads, _, _] = heads.dims();
    let bias = attention.output_projection(heads.zeros_like());
    let contribution = |head| {
        let alone = zero_other_heads(heads.clone(), head);
        (attention.output_projection(alone) - bias.clone()).unsqueeze_dim(1)
    };
    Tensor::cat((0..num_heads).map(contribution).collect(), 1)
}

/// A self-test of a model's two halves: how far head contributions and bias are from summing to the attention's output, relative
/// to the largest entry of that output, over all layers. Rounding alone leaves about 1e-6 in f32.
///
/// A large value means that [`output_projection`](HeadAttention::output_projection) is not the output projection of separate
/// heads: the most frequent mistake is to take the tensor *after* W_O for head outputs.
///
/// # Errors
/// As [`residual`].
pub fn additivity_error<M: DecoderModel>(model: &M, tokens: Tensor<2, Int>) -> Result<f32> {
    check_input(model, &tokens, 0, &NoEdit)?;
    let positions = Positions::first(tokens.dims()[1]);
    let mut residual = model.embed(tokens, positions);
    let mut worst = 0f32;
    for index in 0..model.shape().num_layers {
        let layer = model.layer(index)?;
        let attention = layer.attention();
        let qkv = attention.project_qkv(layer.attention_input(residual.clone()), positions);
        let heads = attend(attention, qkv.query, qkv.key, qkv.value);
        let output = untracked(attention.output_projection(heads.clone()))?;
        let bias = attention.output_projection(heads.zeros_like());
        let sum = head_contributions(attention, heads)
            .sum_dim(1)
            .reshape(output.dims())
            + bias;
        let error: f32 = (sum - output.clone()).abs().max().into_scalar();
        let largest: f32 = output.clone().abs().max().into_scalar();
        worst = worst.max(error / largest.max(f32::MIN_POSITIVE));
        residual = layer.output(residual, output);
    }
    Ok(worst)
}

fn zero_other_heads(heads: Tensor<4>, head: usize) -> Tensor<4> {
    let [batch, _, seq, head_dim] = heads.dims();
    let place = [0..batch, head..head + 1, 0..seq, 0..head_dim];
    heads
        .zeros_like()
        .slice_assign(place.clone(), heads.slice(place))
}
