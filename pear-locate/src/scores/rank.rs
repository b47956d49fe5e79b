//! The order of heads, and which of them stand out of the noise.

use std::cmp::Ordering;
use std::fmt;

use pear_core::HeadId;
use serde::{Deserialize, Serialize};

use super::normal::upper_tail;
use super::{HeadScore, LengthScores, Scores};

/// What heads are ranked by. All three put the head first without which the model predicts better; they differ in how much a score
/// counts that was measured with a large error.
///
/// Where a score has no standard error, because a length has a single sequence only, all heads are ranked by score. Heads whose score has
/// an error of exactly zero come first by `z` where the score is positive and last where it is negative. Equals are ordered by score, then by
/// layer and head.
///
/// If heads were replaced in different numbers of sequences ([`Budget`](crate::Budget)), the errors counted here are those of equally many:
/// a head does not lose its rank because it was settled early.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum RankBy {
    /// The score divided by its standard error: how surely the head suppresses.
    #[default]
    Z,
    /// The score less [`LOWER_BOUND_ERRORS`](Self::LOWER_BOUND_ERRORS) standard errors: how much it suppresses at least.
    LowerBound,
    /// The score itself, as in the paper.
    Score,
}

impl RankBy {
    /// Standard errors between a score and its lower bound: the true score lies above it with a probability of 95 %.
    pub const LOWER_BOUND_ERRORS: f64 = 1.645;

    /// What a head with this score and error is ranked by.
    pub(crate) fn value(self, score: f64, error: f64) -> f64 {
        match self {
            Self::Score => score,
            Self::LowerBound => score - Self::LOWER_BOUND_ERRORS * error,
            Self::Z if score == 0.0 => 0.0,
            Self::Z => score / error,
        }
    }

    /// How that changes with the score and with the variance, the square of the error; `None` at an error of zero, where it does not.
    pub(crate) fn slopes(self, score: f64, variance: f64) -> Option<[f64; 2]> {
        let error = variance.sqrt();
        match self {
            Self::Score => Some([1.0, 0.0]),
            _ if variance <= 0.0 => None,
            Self::LowerBound => Some([1.0, -Self::LOWER_BOUND_ERRORS / (2.0 * error)]),
            Self::Z => Some([1.0 / error, -score / (2.0 * variance * error)]),
        }
    }

    /// What files without the field are ranked by.
    pub(super) fn score() -> Self {
        Self::Score
    }

    pub(super) fn is_score(&self) -> bool {
        *self == Self::Score
    }
}

impl fmt::Display for RankBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

impl Scores {
    /// The share of false discoveries among the heads of [`significant`](Self::significant).
    pub const FALSE_DISCOVERY_RATE: f64 = 0.05;

    /// The largest number of heads that the paper tries.
    pub const MOST_SIGNIFICANT: usize = 40;

    /// Every head, in the order of [`ScoreSettings::rank_by`](crate::ScoreSettings::rank_by).
    pub fn ranked(&self) -> Vec<HeadScore> {
        let rank_by = self.settings.rank_by;
        let errors: Option<Vec<f64>> = self
            .heads
            .iter()
            .map(|scored| self.reference_error(scored))
            .collect();
        let Some(errors) = errors.filter(|_| rank_by != RankBy::Score) else {
            return self.heads.clone();
        };
        let mut ranked: Vec<(f64, HeadScore)> = self
            .heads
            .iter()
            .zip(errors)
            .map(|(&scored, error)| (rank_by.value(scored.score, error), scored))
            .collect();
        // Stable: equals stay in the order of their scores.
        ranked.sort_by(|(a, _), (b, _)| descending(*a, *b));
        ranked.into_iter().map(|(_, scored)| scored).collect()
    }

    /// The first `k` heads of [`ranked`](Self::ranked): the suppression heads.
    pub fn top(&self, k: usize) -> Vec<HeadId> {
        let ranked = self.ranked().into_iter().take(k);
        ranked.map(|scored| scored.head).collect()
    }

    /// The heads whose scores stand out of the noise, in the order of [`ranked`](Self::ranked): those above zero with no more than
    /// [`FALSE_DISCOVERY_RATE`](Self::FALSE_DISCOVERY_RATE) of them expected to be none of it (one-sided, by
    /// [Benjamini and Hochberg, 1995](https://doi.org/10.1111/j.2517-6161.1995.tb02031.x)), and never more than
    /// [`MOST_SIGNIFICANT`](Self::MOST_SIGNIFICANT). `None` without standard errors.
    ///
    /// Errors are taken to be normal, which a few dozen sequences altogether make true enough. Scores of the same sequences move
    /// together, which keeps the rate (Benjamini and Yekutieli, 2001).
    pub fn significant(&self) -> Option<Vec<HeadId>> {
        let mut p_values = self
            .heads
            .iter()
            .map(|scored| Some((p_value(scored.score, scored.standard_error?), scored.head)))
            .collect::<Option<Vec<(f64, HeadId)>>>()?;
        p_values.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        let count = p_values.len() as f64;
        let allowed = |rank: usize| Self::FALSE_DISCOVERY_RATE * (rank + 1) as f64 / count;
        let found = (0..p_values.len())
            .rev()
            .find(|&rank| p_values[rank].0 <= allowed(rank))
            .map_or(0, |rank| rank + 1);
        let found: Vec<HeadId> = p_values[..found].iter().map(|&(_, head)| head).collect();
        let mut significant = self.top(self.heads.len());
        significant.retain(|head| found.contains(head));
        significant.truncate(Self::MOST_SIGNIFICANT);
        Some(significant)
    }

    /// The error that a head's score would have if the head had been replaced in all sequences there were.
    fn reference_error(&self, scored: &HeadScore) -> Option<f64> {
        if self.by_length.iter().all(LengthScores::is_uniform) {
            return scored.standard_error;
        }
        let variances = self.by_length.iter().map(|length| {
            let error = length.standard_error(scored.head)?;
            Some(
                error.powi(2) * length.head_samples(scored.head) as f64 / length.available() as f64,
            )
        });
        let sum = variances.sum::<Option<f64>>()?;
        Some(sum.sqrt() / self.by_length.len() as f64)
    }
}

/// How likely a head without any effect has this score or a higher one.
fn p_value(score: f64, error: f64) -> f64 {
    if score == 0.0 {
        return 0.5;
    }
    upper_tail(score / error)
}

/// NaN, which no number can be told from, last.
pub(crate) fn descending(a: f64, b: f64) -> Ordering {
    match (a.is_nan(), b.is_nan()) {
        (false, false) => b.total_cmp(&a),
        (a, b) => a.cmp(&b),
    }
}
