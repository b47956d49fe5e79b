//! From logits to scores.

use pear_core::files::Metric;

use crate::patched::{PatchedLogits, mean};
use crate::{Error, Result};

/// A mean logit below this share of the largest one is zero but for rounding.
const VANISHING: f64 = 1e-6;

/// `scores[layer][head]` of one length.
///
/// # Errors
/// [`Error::RatioUndefined`] if the metric is [`Metric::LogitRatio`] and the mean logit vanishes.
///
/// # Panics
/// If `metric` compares logits with [references](PatchedLogits::references) that `logits` were computed without.
pub fn scores(metric: Metric, logits: &PatchedLogits) -> Result<Vec<Vec<f64>>> {
    let base_logit = logits.base_logit();
    let largest = logits.base_logits.iter().fold(0.0, |largest, &logit| f64::from(logit).abs().max(largest));
    if metric == Metric::LogitRatio && base_logit.abs() <= VANISHING * largest {
        return Err(Error::RatioUndefined { n: logits.n, base_logit });
    }
    let references = match metric {
        Metric::LogitRatio | Metric::LogitDiff => None,
        Metric::CentredLogitDiff | Metric::LogProbDiff => {
            Some(logits.references.as_ref().expect("computed for a metric without references"))
        }
    };
    let score = |layer: usize, head: usize| {
        let patched = &logits.patched_logits[layer][head];
        let reacted = mean(patched.iter().zip(&logits.base_logits).map(|(&patched, &base)| f64::from(patched) - f64::from(base)));
        let shift = references.map_or(0.0, |r| {
            mean(r.patched[layer][head].iter().zip(&r.base).map(|(&patched, &base)| f64::from(patched) - f64::from(base)))
        });
        match metric {
            // mean(π̃) / mean(π) − 1, without the cancellation.
            Metric::LogitRatio => reacted / base_logit,
            _ => reacted - shift,
        }
    };
    let row = |layer: usize| (0..logits.patched_logits[layer].len()).map(|head| score(layer, head)).collect();
    Ok((0..logits.patched_logits.len()).map(row).collect())
}
