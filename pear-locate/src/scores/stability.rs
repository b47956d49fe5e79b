//! How far scores can be trusted.

use pear_core::HeadId;
use serde::{Deserialize, Serialize};

use super::{HeadScore, Scores};

/// How much the choice of the K highest-ranked heads depends on what it should not depend on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stability {
    /// Number of heads compared (K).
    pub top_k: usize,
    /// The K best heads found in two ways.
    pub overlaps: Vec<Overlap>,
    /// How far head K stands above head K + 1, if there are both and more than one sequence of each length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<Gap>,
    /// Spearman's rank correlation of the scores with those of attribution patching, if it was tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attribution_rank_correlation: Option<f64>,
    /// What another type of the weights changes, if it was tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rounding: Option<Rounding>,
}

/// Two ways to the K best heads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Overlap {
    /// The ways.
    pub between: [String; 2],
    /// The share of heads that both find.
    pub share: f64,
}

/// The difference between what two heads are ranked by.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gap {
    /// The difference.
    pub difference: f64,
    /// Its standard error.
    pub standard_error: f64,
}

/// Scores of the same sequences with the weights in another type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rounding {
    /// The other type; the whole model runs in it.
    pub dtype: String,
    /// The largest difference of a head's score.
    pub largest: f64,
    /// The median difference.
    pub typical: f64,
}

impl Overlap {
    /// The share of `a` that is in `b`, two lists of equally many heads.
    pub fn of(between: [impl Into<String>; 2], a: &[HeadId], b: &[HeadId]) -> Self {
        let shared = a.iter().filter(|head| b.contains(head)).count();
        Self {
            between: between.map(Into::into),
            share: shared as f64 / a.len().max(1) as f64,
        }
    }
}

impl Rounding {
    /// What `there`, in `dtype`, differs by from `here`: the same heads in another order. `None` without heads.
    pub fn between(dtype: String, here: &Scores, there: &Scores) -> Option<Self> {
        let there = there.grid();
        let difference =
            |scored: &HeadScore| (scored.score - there[scored.head.layer][scored.head.head]).abs();
        let mut differences: Vec<f64> = here.heads().iter().map(difference).collect();
        differences.sort_by(f64::total_cmp);
        Some(Self {
            dtype,
            largest: *differences.last()?,
            typical: differences[differences.len() / 2],
        })
    }
}

impl Gap {
    /// Whether the difference is no larger than its standard error: which of the two heads is better cannot be told.
    pub fn is_noise(&self) -> bool {
        self.difference <= self.standard_error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps_are_shares_of_k() {
        let heads = |ids: &[usize]| ids.iter().map(|&id| HeadId::new(0, id)).collect::<Vec<_>>();
        assert_eq!(
            Overlap::of(["a", "b"], &heads(&[1, 2, 3, 4]), &heads(&[4, 5, 1, 6])).share,
            0.5
        );
        assert_eq!(Overlap::of(["a", "b"], &heads(&[]), &heads(&[])).share, 0.0);
    }
}
