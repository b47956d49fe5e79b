//! The scores from sequences of one length.

use pear_core::{HeadId, LayerRange, ModelShape};
use serde::{Deserialize, Serialize};

/// The scores from sequences of one length.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LengthScores {
    /// Tokens that were repeated.
    pub n: usize,
    /// Number of sequences.
    pub samples: usize,
    /// Mean logit of the right token in the clean run.
    pub base_logit: f64,
    /// Share of second-half tokens that the model predicts.
    pub accuracy: f64,
    /// `scores[layer][head]`; no heads in layers that were left out.
    pub scores: Vec<Vec<f64>>,
    /// Of the scores, `[layer][head]`; absent for a single sequence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standard_errors: Option<Vec<Vec<f64>>>,
    /// How many of the sequences each head was replaced in, the first ones, `[layer][head]`; absent where that is all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_samples: Option<Vec<Vec<usize>>>,
    /// Number of sequences there were to choose from; absent where all were run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub available: Option<usize>,
}

impl LengthScores {
    /// The sequences that a head was replaced in.
    pub fn head_samples(&self, head: HeadId) -> usize {
        let samples = self.head_samples.as_ref();
        samples.map_or(self.samples, |grid| grid[head.layer][head.head])
    }

    /// The standard error of a head's score.
    pub fn standard_error(&self, head: HeadId) -> Option<f64> {
        Some(self.standard_errors.as_ref()?[head.layer][head.head])
    }

    /// The sequences there were to choose from.
    pub(crate) fn available(&self) -> usize {
        self.available.unwrap_or(self.samples)
    }

    /// Whether all heads were replaced in all sequences there were.
    pub(super) fn is_uniform(&self) -> bool {
        self.head_samples.is_none() && self.available.is_none()
    }

    /// Whether everything is there for each head of these layers, and nothing else.
    pub(super) fn is_grid(&self, model: &ModelShape, layers: LayerRange) -> bool {
        let heads = |layer| {
            if layers.contains(layer) {
                model.num_heads
            } else {
                0
            }
        };
        let fits = |widths: Vec<usize>| {
            let expected = (0..model.num_layers).map(heads);
            widths.into_iter().eq(expected)
        };
        let of_scores = |grid: &Vec<Vec<f64>>| fits(grid.iter().map(Vec::len).collect());
        let of_samples = |grid: &Vec<Vec<usize>>| fits(grid.iter().map(Vec::len).collect());
        of_scores(&self.scores)
            && self.standard_errors.as_ref().is_none_or(of_scores)
            && self.head_samples.as_ref().is_none_or(of_samples)
    }
}
