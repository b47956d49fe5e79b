//! Heads ranked by the gradient of the proxy loss, as a scores file.

use anyhow::Result;
use burn::prelude::*;
use pear_core::forward::residual;
use pear_core::proxy::ProxyBatch;
use pear_core::{DecoderModel, HeadId, NoEdit};
use pear_locate::{LengthScores, Method, Metric, ScoreSettings, Scores};
use pear_train::{evaluate, gradient_scores};

/// Scores every head by `∂ loss / ∂ α` at α = 1: the higher, the more the proxy loss falls when the head is scaled down.
///
/// # Errors
/// Sequences that the model cannot read.
pub fn rank_by_gradient<M: DecoderModel>(
    model: &M,
    batch: &ProxyBatch,
    at_once: usize,
) -> Result<Scores> {
    let shape = model.shape();
    let heads: Vec<HeadId> = shape.heads().collect();
    let of_heads = gradient_scores(model, &heads, batch, at_once)?;
    let rows = of_heads.chunks(shape.num_heads);
    let scores = rows
        .clone()
        .map(|row| row.iter().map(|score| score.gradient).collect());
    let errors = rows.map(|row| row.iter().map(|score| score.standard_error).collect());
    let length = LengthScores {
        n: batch.n(),
        samples: batch.len(),
        available: None,
        head_samples: None,
        base_logit: mean_logit(model, batch, at_once)?,
        accuracy: evaluate(model, batch, None)?.accuracy,
        scores: scores.collect(),
        standard_errors: errors.collect(),
    };
    let settings = ScoreSettings {
        metric: Metric::LogProbDiff,
        seed: batch.seed().unwrap_or(0),
        method: Method::Gradient,
        ..ScoreSettings::default()
    };
    Ok(Scores::new(shape, settings, vec![length])?)
}

/// The mean logit of the last token, where it is predicted.
fn mean_logit<M: DecoderModel>(model: &M, batch: &ProxyBatch, at_once: usize) -> Result<f64> {
    let mut sum = 0.0;
    for start in (0..batch.len()).step_by(at_once) {
        let part = batch.slice(start..batch.len().min(start + at_once));
        let tokens = part.tokens(&model.device());
        let residual = residual(model, tokens, &mut NoEdit)?;
        let probed = residual
            .narrow(1, part.patch_position(), 1)
            .squeeze_dim::<2>(1);
        let targets: Vec<i32> = part.targets().map(|target| target as i32).collect();
        let targets = Tensor::<1, Int>::from_data(&targets[..], &model.device());
        let logits = model.target_logits(probed, targets);
        sum += logits.into_data().iter::<f64>().sum::<f64>();
    }
    Ok(sum / batch.len() as f64)
}
