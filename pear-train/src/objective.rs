//! The loss on proxy sequences, and what else they tell.

use burn::prelude::*;
use burn::tensor::DType;
use pear_core::model::{self, check_length};
use pear_core::proxy::ProxyBatch;
use pear_core::{DecoderModel, HeadCoefficients, HeadEdit, NoEdit};

use crate::Result;

/// Logits that may stand in memory at once where no graph keeps them.
const LOGITS_IN_MEMORY: usize = 1 << 24;

/// The mean cross-entropy of the second half of every sequence, `n` tokens of which the first cannot be predicted: `[1]`, f32.
///
/// Tracked if `coefficients` are [trainable](HeadCoefficients::trainable). The model stays on the plain side, so that layers below the
/// first re-weighted one leave no graph, and nothing is kept for weights. Logits of the first half are not computed.
///
/// # Errors
/// Sequences longer than the model can read.
pub fn proxy_loss<M: DecoderModel>(model: &M, batch: &ProxyBatch, coefficients: &HeadCoefficients) -> Result<Tensor<1>> {
    check_length(model, batch.seq_len())?;
    let logits = model.logits(predicting(model, batch, &mut coefficients.clone()));
    let [sequences, n, vocab] = logits.dims();
    let labels = batch.labels(&model.device()).reshape([sequences * n, 1]);
    Ok(cross_entropy(logits.reshape([sequences * n, vocab]), labels).mean())
}

/// How well a model does the proxy task.
#[derive(Clone, Copy, Debug, PartialEq)]
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
pub fn evaluate<M: DecoderModel>(model: &M, batch: &ProxyBatch, coefficients: Option<&HeadCoefficients>) -> Result<ProxyMetrics> {
    check_length(model, batch.seq_len())?;
    let (n, vocab) = (batch.n(), model.vocab_size());
    let at_once = (LOGITS_IN_MEMORY / (n * vocab).max(1)).clamp(1, 32);
    let (mut first, mut rest, mut right) = (0.0, 0.0, 0usize);
    for start in (0..batch.len()).step_by(at_once) {
        let part = batch.slice(start..batch.len().min(start + at_once));
        let residual = match coefficients {
            Some(coefficients) => predicting(model, &part, &mut coefficients.fixed()),
            None => predicting(model, &part, &mut NoEdit),
        };
        let rows = part.len() * n;
        let logits = model.logits(residual).reshape([rows, vocab]);
        let labels = part.labels(&model.device()).reshape([rows, 1]);
        let hits: Vec<bool> = logits.clone().argmax(1).equal(labels.clone()).into_data().iter::<bool>().collect();
        let losses: Vec<f64> = cross_entropy(logits, labels).into_data().iter::<f64>().collect();
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
fn predicting<M: DecoderModel>(model: &M, batch: &ProxyBatch, edit: &mut impl HeadEdit) -> Tensor<3> {
    let positions = batch.predicting();
    // The last token predicts nothing, but some rotary scalings depend on how long the sequence is.
    let residual = model::residual(model, batch.tokens(&model.device()), edit);
    residual.narrow(1, positions.start, positions.len())
}

/// Of each row: `logits` is `[rows, vocab]`, `labels` `[rows, 1]`, the result `[rows]`.
fn cross_entropy(logits: Tensor<2>, labels: Tensor<2, Int>) -> Tensor<1> {
    let rows = logits.dims()[0];
    let logits = logits.cast(DType::F32);
    // The shift changes no value and so no gradient: it stays out of the graph.
    let plain = if logits.is_autodiff() { logits.clone().inner() } else { logits.clone() };
    let shifted = logits - plain.max_dim(1);
    let total = shifted.clone().exp().sum_dim(1).log();
    (total - shifted.gather(1, labels)).reshape([rows])
}
