//! From the residual stream after the last layer to numbers.

use burn::prelude::*;
use burn::tensor::DType;
use pear_core::DecoderModel;
use pear_core::kernels::log_sum_exp;
use pear_core::proxy::ProxyBatch;
use serde::{Deserialize, Serialize};

use crate::Metric;

/// The right token's logit of each row, and what the metric subtracts from it (nothing: empty).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Reading {
    pub logits: Vec<f32>,
    pub normalizers: Vec<f32>,
}

impl Reading {
    /// Cut into pieces of `samples` rows.
    pub(crate) fn split(&self, samples: usize) -> impl Iterator<Item = Reading> {
        let piece = move |numbers: &[f32], i: usize| {
            numbers
                .iter()
                .skip(i * samples)
                .take(samples)
                .copied()
                .collect()
        };
        (0..self.logits.len() / samples).map(move |i| Reading {
            logits: piece(&self.logits, i),
            normalizers: piece(&self.normalizers, i),
        })
    }
}

/// Reads `rows`, `[1, rows, hidden]`, at their targets, `[rows]`. All logits are computed only where the metric needs them.
pub(crate) fn read<M: DecoderModel>(
    model: &M,
    rows: Tensor<3>,
    targets: Tensor<1, Int>,
    metric: Metric,
    logit_rows: usize,
) -> Reading {
    let [_, count, hidden] = rows.dims();
    if !metric.has_normalizers() {
        let logits = model.target_logits(rows.reshape([count, hidden]), targets);
        return Reading {
            logits: to_f32(logits),
            normalizers: Vec::new(),
        };
    }
    let mut reading = Reading::default();
    for (rows, targets) in pieces(rows, targets, logit_rows) {
        let logits = all_logits(model, rows);
        reading.logits.extend(to_f32(at(logits.clone(), targets)));
        reading
            .normalizers
            .extend(to_f32(normalizer(metric, logits)));
    }
    reading
}

/// What [`read`] gives, the subtracted numbers taken off, summed over the rows: `[1]`, tracked where `rows` are.
pub(crate) fn compared_sum<M: DecoderModel>(
    model: &M,
    rows: Tensor<3>,
    targets: Tensor<1, Int>,
    metric: Metric,
    logit_rows: usize,
) -> Tensor<1> {
    let [_, count, hidden] = rows.dims();
    if !metric.has_normalizers() {
        return model
            .target_logits(rows.reshape([count, hidden]), targets)
            .sum();
    }
    let one = |(rows, targets)| {
        let logits = all_logits(model, rows);
        (at(logits.clone(), targets) - normalizer(metric, logits)).sum()
    };
    let sums: Vec<Tensor<1>> = pieces(rows, targets, logit_rows).map(one).collect();
    Tensor::cat(sums, 0).sum()
}

/// What the metric subtracts, from logits `[rows, vocab]` to `[rows, 1]`.
pub(crate) fn normalizer(metric: Metric, logits: Tensor<2>) -> Tensor<2> {
    match metric {
        Metric::LogProbDiff => log_sum_exp(logits),
        Metric::CentredLogitDiff => logits.mean_dim(1),
        Metric::LogitRatio | Metric::LogitDiff => {
            Tensor::zeros([logits.dims()[0], 1], &logits.device())
        }
    }
}

/// How well a model does the proxy task.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Performance {
    hits: usize,
    cross_entropy: f64,
    count: usize,
}

impl Performance {
    /// Adds the sequences of `batch`, whose residual stream after the last layer is `[batch, seq, hidden]`.
    pub(crate) fn add<M: DecoderModel>(
        &mut self,
        model: &M,
        residual: Tensor<3>,
        batch: &ProxyBatch,
        logit_rows: usize,
    ) {
        let [samples, _, hidden] = residual.dims();
        // The first repeated token cannot be predicted: what counts is the rest of the second half.
        let (start, count) = (batch.predicting().start + 1, batch.n() - 1);
        let rows = residual
            .narrow(1, start, count)
            .reshape([1, samples * count, hidden]);
        let labels = batch
            .labels(&model.device())
            .narrow(1, 1, count)
            .reshape([samples * count]);
        for (rows, labels) in pieces(rows, labels, logit_rows) {
            let logits = all_logits(model, rows);
            let [count, _] = logits.dims();
            let hits = logits
                .clone()
                .argmax(1)
                .reshape([count])
                .equal(labels.clone())
                .int()
                .sum();
            let entropy = (log_sum_exp(logits.clone()) - at(logits, labels)).sum();
            self.hits += hits.into_scalar::<i64>() as usize;
            self.cross_entropy += f64::from(entropy.into_scalar::<f32>());
            self.count += count;
        }
    }

    pub(crate) fn accuracy(self) -> f64 {
        self.hits as f64 / self.count as f64
    }

    pub(crate) fn cross_entropy(self) -> f64 {
        self.cross_entropy / self.count as f64
    }
}

/// `[1, rows, hidden]` to `[rows, vocab]`, f32.
pub(crate) fn all_logits<M: DecoderModel>(model: &M, rows: Tensor<3>) -> Tensor<2> {
    let logits = model.logits(rows);
    let [_, rows, vocab] = logits.dims();
    logits.reshape([rows, vocab]).cast(DType::F32)
}

/// One number of each row: `[rows, vocab]` and `[rows]` to `[rows, 1]`.
pub(crate) fn at(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<2> {
    logits.gather(1, targets.unsqueeze_dim(1))
}

/// At most `at_once` rows, with their targets, at a time.
fn pieces(
    rows: Tensor<3>,
    targets: Tensor<1, Int>,
    at_once: usize,
) -> impl Iterator<Item = (Tensor<3>, Tensor<1, Int>)> {
    let [_, count, _] = rows.dims();
    (0..count).step_by(at_once).map(move |start| {
        let len = at_once.min(count - start);
        (
            rows.clone().narrow(1, start, len),
            targets.clone().narrow(0, start, len),
        )
    })
}

pub(crate) fn to_f32<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}
