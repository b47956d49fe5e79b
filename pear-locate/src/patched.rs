//! The raw outcome of replacing every head once.

use pear_core::files::Metric;
use pear_core::{HeadId, ModelShape};
use serde::Serialize;

use crate::readout::{Performance, Reading};
use crate::{Error, Result};

/// Logits of the right token at the probe position, with each head replaced in turn and with none.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PatchedLogits {
    /// Tokens that are repeated.
    pub n: usize,
    /// `base_logits[sample]`: no head replaced.
    pub base_logits: Vec<f32>,
    /// `patched_logits[layer][head][sample]`.
    pub patched_logits: Vec<Vec<Vec<f32>>>,
    /// What the metric subtracts from each logit first, if anything.
    pub references: Option<References>,
    /// Share of second-half tokens that the model predicts.
    pub accuracy: f64,
    /// Mean cross-entropy over the same tokens, in nats.
    pub cross_entropy: f64,
}

/// The mean logit over the vocabulary ([`Metric::CentredLogitDiff`]), or the logarithm of the sum of their exponentials
/// ([`Metric::LogProbDiff`]), for each run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct References {
    /// `base[sample]`.
    pub base: Vec<f32>,
    /// `patched[layer][head][sample]`.
    pub patched: Vec<Vec<Vec<f32>>>,
}

/// The readings of sequences that ran together.
pub(crate) struct Part {
    /// No head replaced.
    pub base: Reading,
    /// Each head replaced, layer by layer.
    pub patched: Vec<Reading>,
}

impl PatchedLogits {
    /// Number of sequences.
    pub fn samples(&self) -> usize {
        self.base_logits.len()
    }

    /// `π`: the mean logit with no head replaced.
    pub fn base_logit(&self) -> f64 {
        mean(self.base_logits.iter().map(|&logit| f64::from(logit)))
    }

    /// Every `step`-th sequence from `start`, with the accuracy of all.
    pub(crate) fn every(&self, step: usize, start: usize) -> Self {
        let pick = |numbers: &Vec<f32>| numbers.iter().skip(start).step_by(step).copied().collect::<Vec<f32>>();
        let grid = |grid: &Vec<Vec<Vec<f32>>>| grid.iter().map(|heads| heads.iter().map(pick).collect()).collect();
        let references = self.references.as_ref().map(|r| References { base: pick(&r.base), patched: grid(&r.patched) });
        Self { base_logits: pick(&self.base_logits), patched_logits: grid(&self.patched_logits), references, ..*self }
    }

    /// The sequences of all parts, one part after the other.
    pub(crate) fn collect(
        n: usize, shape: &ModelShape, metric: Metric, parts: &[Part], performance: Performance,
    ) -> Result<Self> {
        let joined = |pick: &dyn Fn(&Part) -> Vec<f32>| parts.iter().flat_map(pick).collect::<Vec<f32>>();
        let grid = |pick: &dyn Fn(&Reading) -> Vec<f32>| -> Vec<Vec<Vec<f32>>> {
            let head = |layer: usize, head: usize| joined(&|part| pick(&part.patched[layer * shape.num_heads + head]));
            (0..shape.num_layers).map(|l| (0..shape.num_heads).map(|h| head(l, h)).collect()).collect()
        };
        let collected = Self {
            n,
            base_logits: joined(&|part| part.base.logits.clone()),
            patched_logits: grid(&|reading| reading.logits.clone()),
            references: metric.has_references().then(|| References {
                base: joined(&|part| part.base.references.clone()),
                patched: grid(&|reading| reading.references.clone()),
            }),
            accuracy: performance.accuracy(),
            cross_entropy: performance.cross_entropy(),
        };
        collected.check_finite()?;
        Ok(collected)
    }

    fn check_finite(&self) -> Result<()> {
        let base = [Some(&self.base_logits), self.references.as_ref().map(|r| &r.base)];
        for numbers in base.into_iter().flatten() {
            if let Some((sample, value)) = first_not_finite(numbers) {
                return Err(Error::BaseNotFinite { n: self.n, sample, value });
            }
        }
        let patched = [Some(&self.patched_logits), self.references.as_ref().map(|r| &r.patched)];
        for (layer, heads) in patched.into_iter().flatten().flat_map(|grid| grid.iter().enumerate()) {
            for (head, numbers) in heads.iter().enumerate() {
                if let Some((sample, value)) = first_not_finite(numbers) {
                    return Err(Error::NotFinite { n: self.n, head: HeadId::new(layer, head), sample, value });
                }
            }
        }
        Ok(())
    }
}

fn first_not_finite(numbers: &[f32]) -> Option<(usize, f32)> {
    numbers.iter().copied().enumerate().find(|(_, value)| !value.is_finite())
}

pub(crate) fn mean(numbers: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = numbers.len() as f64;
    numbers.sum::<f64>() / count
}
