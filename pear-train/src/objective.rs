//! The loss on proxy sequences, and what else they tell.

use burn::prelude::*;
use pear_core::forward::{
    TokenContext, check_length, check_not_reweighted, not_finite, run_layer_to, untracked,
};
use pear_core::kernels::cross_entropy;
use pear_core::proxy::ProxyBatch;
use pear_core::{
    DecoderLayer, DecoderModel, HeadAttention, HeadCoefficients, HeadEdit, NoEdit, Positions, Qkv,
    attend,
};
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::recompute::{End, Graph, Pass, RunLayer};
use crate::rows::{LOGITS_IN_MEMORY, mean_over_rows};
use crate::sequence_edit::sequence_gradients;

/// The mean cross-entropy of the second half of every sequence, `n` tokens of which the first cannot be predicted: `[1]`, f32.
///
/// Tracked if `coefficients` are [trainable](HeadCoefficients::trainable): `backward` on it gives their gradients. The gradients
/// are found here already, and what is returned is linear in the coefficients, so that a loss that is dropped leaves no graph of
/// the model behind. The model stays on the plain side, so that layers below the first re-weighted one leave no graph, and nothing
/// is kept for weights. Logits of the first half are not computed, and where those of the second are many they never stand in
/// memory all at once.
///
/// # Errors
/// Sequences longer than the model can read or with tokens that it does not know, coefficients for a model of another shape or on
/// top of others, and a layer that cannot be made.
pub fn proxy_loss<M: DecoderModel>(
    model: &M,
    batch: &ProxyBatch,
    coefficients: &HeadCoefficients,
) -> Result<Tensor<1>> {
    if !coefficients.is_tracked() {
        return loss_of(model, batch, &mut coefficients.clone());
    }
    let (loss, gradients) = loss_and_gradients(model, batch, coefficients)?;
    let linear = coefficients.weighted_sum(&gradients);
    let value = linear.clone().inner();
    Ok(linear - value + loss)
}

/// [`proxy_loss`] as a number, and its gradient for each coefficient in the order of [`HeadCoefficients::heads`]. Trainable or
/// not, the coefficients are left as they are.
///
/// # Errors
/// As [`proxy_loss`].
pub fn loss_and_gradients<M: DecoderModel>(
    model: &M,
    batch: &ProxyBatch,
    coefficients: &HeadCoefficients,
) -> Result<(f64, Vec<f32>)> {
    with_graph(Graph::Whole, model, batch, coefficients)
}

/// [`loss_and_gradients`], from this kind of graph.
pub(crate) fn with_graph<M: DecoderModel>(
    graph: Graph,
    model: &M,
    batch: &ProxyBatch,
    coefficients: &HeadCoefficients,
) -> Result<(f64, Vec<f32>)> {
    check_batch(model, batch)?;
    graph.loss_and_gradients(model, coefficients, pass(model, batch))
}

/// How the loss of a batch that the model can read is computed.
fn pass<M: DecoderModel>(
    model: &M,
    batch: &ProxyBatch,
) -> Pass<impl RunLayer, impl FnOnce(Tensor<3>) -> Tensor<1>> {
    Pass {
        input: embedded(model, batch),
        layer: |index, residual, edit: &mut dyn HeadEdit, end| {
            layer_of(model, batch, index, residual, edit, end)
        },
        loss: |residual| loss_of_residual(model, batch, residual),
    }
}

/// [`proxy_loss`] as a number, and the gradients of each sequence: `[sequence][head]`, parts of that of the mean.
pub(crate) fn gradients_of_sequences<M: DecoderModel>(
    model: &M,
    batch: &ProxyBatch,
    coefficients: &HeadCoefficients,
) -> Result<(f64, Vec<Vec<f64>>)> {
    check_batch(model, batch)?;
    sequence_gradients(model, coefficients, batch.len(), pass(model, batch))
}

/// The loss of a run with this edit: `[1]`, tracked if the edit is.
pub(crate) fn loss_of<M: DecoderModel>(
    model: &M,
    batch: &ProxyBatch,
    edit: &mut (impl HeadEdit + ?Sized),
) -> Result<Tensor<1>> {
    check_batch(model, batch)?;
    let residual = predicting(model, batch, edit)?;
    Ok(loss_of_residual(model, batch, residual))
}

/// The loss of the residual stream after the last layer at the positions that predict the second half, `[batch, n, hidden]`: `[1]`.
fn loss_of_residual<M: DecoderModel>(
    model: &M,
    batch: &ProxyBatch,
    residual: Tensor<3>,
) -> Tensor<1> {
    let [sequences, n, hidden] = residual.dims();
    let rows = residual.reshape([sequences * n, hidden]);
    mean_cross_entropy(model, rows, &batch.label_ids())
}

/// Whether a model can read these sequences.
fn check_batch<M: DecoderModel>(model: &M, batch: &ProxyBatch) -> Result<()> {
    check_length(model, batch.seq_len())?;
    Ok(batch.check_vocabulary(model.vocab_size())?)
}

/// How well a model does the proxy task.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProxyMetrics {
    /// The mean cross-entropy over all `n` tokens of the second half: what [`proxy_loss`] gives.
    pub loss: f64,
    /// The mean cross-entropy over the `n − 1` tokens that can be predicted: all but the first of the second half.
    pub cross_entropy: f64,
    /// The share of those tokens that have the highest logit.
    pub accuracy: f64,
}

/// Evaluates a model on proxy sequences, with coefficients (taken as fixed: no graph is made) or without.
///
/// # Errors
/// As [`proxy_loss`].
pub fn evaluate<M: DecoderModel>(
    model: &M,
    batch: &ProxyBatch,
    coefficients: Option<&HeadCoefficients>,
) -> Result<ProxyMetrics> {
    check_batch(model, batch)?;
    let (n, vocab) = (batch.n(), model.vocab_size());
    let at_once = (LOGITS_IN_MEMORY / (n * vocab).max(1)).clamp(1, 32);
    let (mut first, mut rest, mut right) = (0.0, 0.0, 0usize);
    for start in (0..batch.len()).step_by(at_once) {
        let part = batch.slice(start..batch.len().min(start + at_once));
        let residual = match coefficients {
            Some(coefficients) => predicting(model, &part, &mut coefficients.fixed())?,
            None => predicting(model, &part, &mut NoEdit)?,
        };
        let residual = untracked(residual)?;
        let rows = part.len() * n;
        let logits = model.logits(residual).reshape([rows, vocab]);
        let labels = part.labels(&model.device()).reshape([rows, 1]);
        let hits: Vec<bool> = logits
            .clone()
            .argmax(1)
            .equal(labels)
            .into_data()
            .iter::<bool>()
            .collect();
        let losses: Vec<f64> = cross_entropy(logits, &part.label_ids())
            .into_data()
            .iter::<f64>()
            .collect();
        if let Some(row) = losses.iter().position(|loss| !loss.is_finite()) {
            let (sequence, loss) = (start + row / n, losses[row]);
            let tokens = &batch.sequences()[sequence];
            let found = format!("the cross-entropy of sequence {sequence} is {loss}");
            let error = match coefficients {
                Some(coefficients) => not_finite(model, tokens, &mut coefficients.fixed(), found),
                None => not_finite(model, tokens, &mut NoEdit, found),
            };
            return Err(error.into());
        }
        for (row, (loss, hit)) in losses.into_iter().zip(hits).enumerate() {
            if row % n == 0 {
                first += loss;
            } else {
                rest += loss;
                right += usize::from(hit);
            }
        }
    }
    let predictable = (batch.len() * (n - 1)) as f64;
    Ok(ProxyMetrics {
        loss: (first + rest) / (batch.len() * n) as f64,
        cross_entropy: rest / predictable,
        accuracy: right as f64 / predictable,
    })
}

/// The residual stream after the last layer at the positions that predict the second half: `[batch, n, hidden]`.
fn predicting<M: DecoderModel>(
    model: &M,
    batch: &ProxyBatch,
    edit: &mut (impl HeadEdit + ?Sized),
) -> Result<Tensor<3>> {
    edit.check(&model.shape())?;
    let mut residual = embedded(model, batch);
    for index in 0..model.shape().num_layers {
        residual = layer_of(model, batch, index, residual, edit, End::Output)?;
    }
    Ok(residual)
}

/// The residual stream before the first layer, at all positions that are read; of a model without layers at those that predict.
fn embedded<M: DecoderModel>(model: &M, batch: &ProxyBatch) -> Tensor<3> {
    // The last token predicts nothing and is not read; but some rotary scalings depend on how long the sequence is.
    let (positions, whole) = (batch.predicting(), Positions::first(batch.seq_len()));
    let tokens = batch.tokens(&model.device()).narrow(1, 0, positions.end);
    let residual = model.embed(tokens, whole);
    match model.shape().num_layers {
        0 => residual.narrow(1, positions.start, positions.len()),
        _ => residual,
    }
}

/// Runs a layer; the last one gives only the positions that predict.
fn layer_of<M: DecoderModel>(
    model: &M,
    batch: &ProxyBatch,
    index: usize,
    residual: Tensor<3>,
    edit: &mut (impl HeadEdit + ?Sized),
    end: End,
) -> Result<Tensor<3>> {
    let (positions, whole) = (batch.predicting(), Positions::first(batch.seq_len()));
    if index + 1 < model.shape().num_layers {
        let context = TokenContext::uncached(whole);
        let end = |layer: &_, residual, output| end.of(layer, residual, output);
        return Ok(run_layer_to(model, index, residual, context, edit, end)?);
    }
    // The other positions of the last layer only give keys and values.
    let layer = model.layer(index)?;
    let attention = layer.attention();
    check_not_reweighted(attention, index, edit)?;
    let Qkv { query, key, value } =
        attention.project_qkv(layer.attention_input(residual.clone()), whole);
    let query = query.narrow(2, positions.start, positions.len());
    let heads = attend(attention, query, key, value);
    let output = attention.output_projection(edit.edit(index, heads)?);
    let residual = residual.narrow(1, positions.start, positions.len());
    Ok(end.of(&layer, residual, output))
}

/// The mean over all rows: `residual` is `[rows, hidden]`, the result `[1]`.
fn mean_cross_entropy<M: DecoderModel>(
    model: &M,
    residual: Tensor<2>,
    labels: &[u32],
) -> Tensor<1> {
    let vocab = model.vocab_size();
    let rows_at_once = (LOGITS_IN_MEMORY / vocab.max(1)).max(1);
    mean_over_rows(residual, rows_at_once, |residual, rows| {
        let labels = &labels[rows];
        let logits = model.logits(residual.unsqueeze_dim(0));
        cross_entropy(logits.reshape([labels.len(), vocab]), labels)
    })
}
