//! Heads ranked by the gradient of the proxy loss, as a scores file.

use anyhow::Result;
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
        base_logit: mean_logit(model, batch)?,
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
fn mean_logit<M: DecoderModel>(model: &M, batch: &ProxyBatch) -> Result<f64> {
    let mut sum = 0.0;
    for (index, target) in batch.targets().enumerate() {
        let sequence = batch.slice(index..index + 1);
        let tokens = sequence.tokens(&model.device());
        let residual = residual(model, tokens, &mut NoEdit)?;
        let at_probe = residual.narrow(1, batch.patch_position(), 1);
        let target = burn::tensor::Tensor::from_data([target as i32], &model.device());
        let logit = model.target_logits(at_probe.squeeze_dim::<2>(1), target);
        sum += logit.into_scalar::<f64>();
    }
    Ok(sum / batch.len() as f64)
}
