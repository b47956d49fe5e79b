//! From logits to scores.

use crate::patched::{PatchedLogits, mean};
use crate::{Error, Metric, Result};

/// A mean logit below this share of the largest one is zero but for rounding.
const VANISHING: f64 = 1e-6;

/// `[layer][head]`.
type Grid<T> = Vec<Vec<T>>;

/// `scores[layer][head]` of one length; NaN for heads that were never replaced.
///
/// # Errors
/// [`Error::RatioUndefined`] if the metric is [`Metric::LogitRatio`] and the mean logit vanishes.
///
/// # Panics
/// If `metric` compares logits with [normalizers](PatchedLogits::normalizers) that `logits` were computed without.
pub fn scores(metric: Metric, logits: &PatchedLogits) -> Result<Grid<f64>> {
    for_each_head(logits, |layer, head| {
        let differences = differences(metric, logits, layer, head);
        let scale = scale(metric, logits, differences.len())?;
        Ok(mean(differences.into_iter()) / scale)
    })
}

/// How far each sequence's part in a score is from the mean, `[layer][head][sample]`, in units of the score: the variance of a score is
/// the mean of their squares divided by `samples − 1`.
///
/// For the ratio of means this is the delta method: the ratio `r = mean(d) / mean(π)`, `d = π̃ − π`, moves by
/// `(d − r π) / mean(π)` times the weight of a sequence. With the batch mean as intervention, which depends on all sequences, that
/// dependence is left out.
///
/// # Errors
/// As [`scores`].
///
/// # Panics
/// As [`scores`].
pub fn deviations(metric: Metric, logits: &PatchedLogits) -> Result<Grid<Vec<f64>>> {
    for_each_head(logits, |layer, head| {
        let differences = differences(metric, logits, layer, head);
        let scale = scale(metric, logits, differences.len())?;
        let score = mean(differences.iter().copied()) / scale;
        let expected = |base: f32| {
            if metric == Metric::LogitRatio {
                score * f64::from(base)
            } else {
                score
            }
        };
        Ok(differences
            .iter()
            .zip(&logits.base_logits)
            .map(|(d, &base)| (d - expected(base)) / scale)
            .collect())
    })
}

/// The standard error of a mean from the deviations of its parts; `None` for a single one.
pub fn standard_error(deviations: &[f64]) -> Option<f64> {
    let count = deviations.len() as f64;
    (count > 1.0)
        .then(|| (deviations.iter().map(|d| d * d).sum::<f64>() / (count * (count - 1.0))).sqrt())
}

/// What differences over the first `samples` sequences are divided by.
fn scale(metric: Metric, logits: &PatchedLogits, samples: usize) -> Result<f64> {
    if metric != Metric::LogitRatio || samples == 0 {
        return Ok(1.0);
    }
    let base_logits = logits.base_logits[..samples]
        .iter()
        .map(|&logit| f64::from(logit));
    let base_logit = mean(base_logits.clone());
    let largest = base_logits.fold(0.0, |largest, logit| logit.abs().max(largest));
    if base_logit.abs() <= VANISHING * largest {
        return Err(Error::RatioUndefined {
            n: logits.n,
            base_logit,
        });
    }
    Ok(base_logit)
}

/// What replacing a head changed, for each sequence. For the ratio as well: mean(π̃) / mean(π) − 1 without the cancellation.
fn differences(metric: Metric, logits: &PatchedLogits, layer: usize, head: usize) -> Vec<f64> {
    let difference = |(&patched, &base): (&f32, &f32)| f64::from(patched) - f64::from(base);
    let reacted = logits.patched_logits[layer][head]
        .iter()
        .zip(&logits.base_logits)
        .map(difference);
    if !metric.has_normalizers() {
        return reacted.collect();
    }
    let normalizers = logits
        .normalizers
        .as_ref()
        .expect("computed for a metric without normalizers");
    let shifts = normalizers.patched[layer][head]
        .iter()
        .zip(&normalizers.base)
        .map(difference);
    reacted
        .zip(shifts)
        .map(|(reacted, shift)| reacted - shift)
        .collect()
}

fn for_each_head<T>(
    logits: &PatchedLogits,
    of: impl Fn(usize, usize) -> Result<T>,
) -> Result<Grid<T>> {
    let grid = logits.patched_logits.iter().enumerate();
    grid.map(|(layer, heads)| (0..heads.len()).map(|head| of(layer, head)).collect())
        .collect()
}
