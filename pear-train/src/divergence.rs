//! What coefficients change about a model's predictions on plain text, and the gradient of it.

use std::collections::BTreeMap;

use burn::prelude::*;
use pear_core::forward::{check_length, token_tensor, training_residual};
use pear_core::kernels::kl_divergence;
use pear_core::{DecoderModel, HeadCoefficients, Positions};

use crate::Result;
use crate::gradients::{LossAndGradients, add};
use crate::recompute::{Graph, Pass, whole_sequences};
use crate::rows::{LOGITS_IN_MEMORY, mean_over_rows};
use crate::text::{PlainText, References};

/// The Kullback–Leibler divergence of a model's predictions on `text` from those of the unmodified model: `Σ p₀ (log p₀ − log p)` over
/// the vocabulary, in nats, the mean over all positions of all pieces. `p₀` is the model without coefficients.
///
/// Pieces are read `at_once` at a time. The unmodified model's probabilities never stand in memory for more than a part of the
/// positions: what is kept of it is its last residual stream.
///
/// # Errors
/// Pieces longer than the model can read or with tokens that it does not know, coefficients for a model of another shape or on top
/// of others, and a layer that cannot be made.
pub fn text_divergence<M: DecoderModel>(
    model: &M,
    text: &PlainText,
    coefficients: &HeadCoefficients,
    at_once: usize,
) -> Result<f64> {
    text.check(model)?;
    let (all, references) = (all_pieces(text), References::default());
    value_of_pieces(model, text, &references, &all, coefficients, at_once)
}

/// [`text_divergence`], and its gradient for each coefficient in the order of [`HeadCoefficients::heads`]. Trainable or not, the
/// coefficients are left as they are.
///
/// # Errors
/// As [`text_divergence`].
pub fn divergence_and_gradients<M: DecoderModel>(
    model: &M,
    text: &PlainText,
    coefficients: &HeadCoefficients,
    at_once: usize,
) -> Result<(f64, Vec<f64>)> {
    text.check(model)?;
    let (all, references) = (all_pieces(text), References::default());
    of_pieces(
        Graph::Whole,
        model,
        text,
        &references,
        &all,
        coefficients,
        at_once,
    )
}

/// The mean divergence of these pieces, `at_once` at a time.
pub(crate) fn value_of_pieces<M: DecoderModel>(
    model: &M,
    text: &PlainText,
    references: &References,
    pieces: &[usize],
    coefficients: &HeadCoefficients,
    at_once: usize,
) -> Result<f64> {
    let mut sum = 0.0;
    for part in parts(text, pieces, at_once) {
        let original = originals(model, text, references, &part)?;
        let tokens = tokens(text, &part, &model.device());
        let residual = training_residual(model, tokens, &mut coefficients.fixed())?;
        let kl = mean_divergence(model, original, residual);
        sum += positions(text, &part) as f64 * kl.into_scalar::<f64>();
    }
    Ok(sum / positions(text, pieces) as f64)
}

/// [`value_of_pieces`], and its gradients.
pub(crate) fn of_pieces<M: DecoderModel>(
    graph: Graph,
    model: &M,
    text: &PlainText,
    references: &References,
    pieces: &[usize],
    coefficients: &HeadCoefficients,
    at_once: usize,
) -> Result<LossAndGradients> {
    let total = positions(text, pieces) as f64;
    let mut sum = (0.0, vec![0.0; coefficients.heads().len()]);
    for part in parts(text, pieces, at_once) {
        let original = originals(model, text, references, &part)?;
        let tokens = tokens(text, &part, &model.device());
        let seq = tokens.dims()[1];
        check_length(model, seq)?;
        let pass = Pass {
            input: model.embed(tokens, Positions::first(seq)),
            layer: whole_sequences(model, seq),
            loss: |residual| mean_divergence(model, original, residual),
        };
        let (value, gradients) = graph.loss_and_gradients(model, coefficients, pass)?;
        let gradients = gradients.into_iter().map(f64::from).collect();
        let share = positions(text, &part) as f64 / total;
        add(&mut sum, (value, gradients), share);
    }
    Ok(sum)
}

/// Tokens of these pieces.
pub(crate) fn positions(text: &PlainText, pieces: &[usize]) -> usize {
    pieces.iter().map(|&piece| text.pieces()[piece].len()).sum()
}

pub(crate) fn all_pieces(text: &PlainText) -> Vec<usize> {
    (0..text.pieces().len()).collect()
}

/// Divides pieces into parts of one length, each of at most `at_once`.
pub(crate) fn parts(text: &PlainText, pieces: &[usize], at_once: usize) -> Vec<Vec<usize>> {
    let mut by_length: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for &piece in pieces {
        let length = text.pieces()[piece].len();
        by_length.entry(length).or_default().push(piece);
    }
    let chunks = by_length
        .values()
        .flat_map(|pieces| pieces.chunks(at_once.max(1)));
    chunks.map(<[usize]>::to_vec).collect()
}

/// The token ids of pieces of one length: `[pieces, length]`.
pub(crate) fn tokens(text: &PlainText, pieces: &[usize], device: &Device) -> Tensor<2, Int> {
    let rows: Vec<&[u32]> = pieces.iter().map(|&i| &text.pieces()[i][..]).collect();
    token_tensor(&rows, device)
}

/// The last residual stream of the unmodified model for pieces of one length: `[pieces * length, hidden]`.
fn originals<M: DecoderModel>(
    model: &M,
    text: &PlainText,
    references: &References,
    pieces: &[usize],
) -> Result<Tensor<2>> {
    let original = pieces
        .iter()
        .map(|&piece| references.of(model, text, piece))
        .collect::<Result<Vec<_>>>()?;
    Ok(Tensor::cat(original, 0))
}

/// The mean over all positions of the pieces whose residual stream after the last layer is `residual`, `[pieces, length, hidden]`: `[1]`,
/// tracked if that is.
fn mean_divergence<M: DecoderModel>(
    model: &M,
    original: Tensor<2>,
    residual: Tensor<3>,
) -> Tensor<1> {
    let residual = residual.reshape(original.dims());
    let vocab = model.vocab_size();
    let logits = |residual: Tensor<2>| {
        let rows = residual.dims()[0];
        model
            .logits(residual.unsqueeze_dim(0))
            .reshape([rows, vocab])
    };
    // Logits of two models stand in memory.
    let rows_at_once = (LOGITS_IN_MEMORY / (2 * vocab).max(1)).max(1);
    mean_over_rows(residual, rows_at_once, |residual, rows| {
        let original = original.clone().narrow(0, rows.start, rows.len());
        kl_divergence(logits(residual), logits(original))
    })
}
