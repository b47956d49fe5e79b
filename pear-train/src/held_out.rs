//! Measurements on sequences that nothing is learned from, and the best of them.

use serde::{Deserialize, Serialize};

use crate::ProxyMetrics;

/// All measurements of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct HeldOut {
    /// Steps that were done, and the loss then.
    losses: Vec<(usize, f64)>,
    /// Of the lowest loss.
    best: Vec<f64>,
    best_index: usize,
}

impl HeldOut {
    /// Adds a measurement after `steps` with these coefficients.
    pub(crate) fn add(&mut self, steps: usize, metrics: ProxyMetrics, values: &[f64]) {
        self.losses.push((steps, metrics.loss));
        // Of equal ones the first: fewer steps.
        if self.losses.len() == 1 || metrics.loss < self.losses[self.best_index].1 {
            (self.best, self.best_index) = (values.to_vec(), self.losses.len() - 1);
        }
    }

    /// Steps and loss of each measurement.
    pub(crate) fn losses(&self) -> &[(usize, f64)] {
        &self.losses
    }

    /// Measurements since the lowest.
    pub(crate) fn since_best(&self) -> usize {
        self.losses.len().saturating_sub(self.best_index + 1)
    }

    /// Steps that had been done at the lowest loss, and the coefficients.
    pub(crate) fn best(&self) -> Option<(usize, &[f64])> {
        self.losses
            .get(self.best_index)
            .map(|(steps, _)| (*steps, &self.best[..]))
    }

    /// Whether it can have been kept for so many heads and steps.
    pub(crate) fn fits(&self, heads: usize, steps: usize) -> bool {
        let ordered = self.losses.is_sorted_by(|a, b| a.0 < b.0)
            && self.losses.last().is_none_or(|last| last.0 <= steps);
        let finite = self.losses.iter().all(|(_, loss)| loss.is_finite())
            && self.best.iter().all(|v| (*v as f32).is_finite());
        let best = if self.losses.is_empty() {
            self.best.is_empty()
        } else {
            self.best.len() == heads
        };
        ordered && finite && best && (self.best_index < self.losses.len() || self.best_index == 0)
    }
}
