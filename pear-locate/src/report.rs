//! What locating found: scores of each length, and what to know before trusting them.

use serde::{Deserialize, Serialize};

use crate::metric::{deviations, scores, standard_error};
use crate::patched::PatchedLogits;
use crate::warning::Warning;
use crate::{LengthScores, Metric, Result, Scores};

/// What locating found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The ranked heads: what goes into the scores file.
    pub scores: Scores,
    /// More about each length, in the order of the batches.
    pub by_length: Vec<LengthReport>,
}

impl Report {
    /// The warnings of all lengths.
    pub fn warnings(&self) -> impl Iterator<Item = Warning> {
        self.by_length
            .iter()
            .flat_map(|length| length.warnings.iter().copied())
    }
}

/// What sequences of one length gave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LengthReport {
    /// Every logit behind the scores, with accuracy and cross-entropy on the proxy task.
    pub logits: PatchedLogits,
    /// What to know before trusting the scores.
    pub warnings: Vec<Warning>,
}

impl LengthReport {
    /// Logs what there is to warn about.
    ///
    /// # Errors
    /// Whatever keeps the metric from being computed.
    pub(crate) fn new(metric: Metric, logits: PatchedLogits) -> Result<Self> {
        let warnings = Warning::of(metric, &logits);
        for warning in &warnings {
            log::warn!("{warning}");
        }
        length_scores(metric, &logits)?;
        Ok(Self { logits, warnings })
    }
}

/// The scores of one length with their standard errors.
pub(crate) fn length_scores(metric: Metric, logits: &PatchedLogits) -> Result<LengthScores> {
    let errors = deviations(metric, logits)?;
    let errors = errors
        .iter()
        .map(|heads| heads.iter().map(|head| standard_error(head)).collect());
    let samples = logits.samples();
    let of_heads: Vec<Vec<usize>> = logits
        .patched_logits
        .iter()
        .map(|heads| heads.iter().map(Vec::len).collect())
        .collect();
    let differ = of_heads.iter().flatten().any(|&of_head| of_head != samples);
    Ok(LengthScores {
        n: logits.n,
        samples,
        base_logit: logits.base_logit(),
        accuracy: logits.accuracy,
        scores: scores(metric, logits)?,
        standard_errors: errors.collect(),
        head_samples: differ.then_some(of_heads),
        available: None,
    })
}
