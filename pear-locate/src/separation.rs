//! How surely one head ranks above another, from what each sequence gave for both.
//!
//! A head is ranked by `f(s, V)`: its score `s`, the mean over lengths, and the variance `V` that the score would have over all sequences
//! there are. To first order a sequence moves it by `f_s · δ / L + f_V · (δ² − mean δ²) / (L² · available)`, `δ` being its
//! [deviation](crate::metric::deviations) and `L` the number of lengths. Sequences are drawn independently, and two heads are replaced in the
//! same ones, so that the variance of the difference between two heads is the sum of the squared differences of these moves: what moves both
//! alike does not count.

use pear_core::HeadId;

use crate::metric::{deviations, scores};
use crate::{Metric, PatchedLogits, RankBy, Result};

/// A head with what it is ranked by.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) head: HeadId,
    pub(crate) value: f64,
    /// How each sequence moves the value, `[length][sample]`.
    pub(crate) moves: Vec<Vec<f64>>,
}

/// A difference between two heads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Difference {
    pub(crate) difference: f64,
    /// `None` where a length has a single sequence.
    pub(crate) standard_error: Option<f64>,
    /// Sequences that the error comes from, less one for each length.
    pub(crate) degrees: usize,
}

/// Sequences of one length.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Length<'a> {
    pub(crate) logits: &'a PatchedLogits,
    /// Number of sequences there are, of which these are the first.
    pub(crate) available: usize,
}

/// Every head that was replaced, layer by layer.
pub(crate) fn candidates(
    metric: Metric,
    rank_by: RankBy,
    lengths: &[Length<'_>],
) -> Result<Vec<Candidate>> {
    let scores = lengths
        .iter()
        .map(|length| scores(metric, length.logits))
        .collect::<Result<Vec<_>>>()?;
    let deviations = lengths
        .iter()
        .map(|length| deviations(metric, length.logits))
        .collect::<Result<Vec<_>>>()?;
    let grid = lengths[0].logits.patched_logits.iter().enumerate();
    let heads = grid.flat_map(|(layer, heads)| {
        let replaced = heads
            .iter()
            .enumerate()
            .filter(|(_, head)| !head.is_empty());
        replaced.map(move |(head, _)| HeadId::new(layer, head))
    });
    let candidate = |head: HeadId| {
        let count = lengths.len() as f64;
        let score = scores.iter().map(|grid| grid[head.layer][head.head]);
        let score = score.sum::<f64>() / count;
        let deviations = deviations
            .iter()
            .map(|grid| &grid[head.layer][head.head])
            .zip(lengths)
            .map(|(deviations, length)| (deviations.as_slice(), length.available as f64));
        Candidate::new(head, rank_by, score, deviations.collect())
    };
    Ok(heads.map(candidate).collect())
}

impl Candidate {
    /// `lengths`: deviations of the sequences run, and the number of sequences there are.
    fn new(head: HeadId, rank_by: RankBy, score: f64, lengths: Vec<(&[f64], f64)>) -> Self {
        let count = lengths.len() as f64;
        let squares = |deviations: &[f64]| deviations.iter().map(|d| d * d).sum::<f64>();
        let variance_of =
            |deviations: &[f64]| squares(deviations) / (deviations.len() as f64 - 1.0);
        let variance = lengths
            .iter()
            .map(|&(deviations, available)| variance_of(deviations) / available)
            .sum::<f64>()
            / count.powi(2);
        let [by_score, by_variance] = rank_by.slopes(score, variance).unwrap_or_default();
        let moves = lengths.iter().map(|&(deviations, available)| {
            let samples = deviations.len() as f64;
            let mean_square = squares(deviations) / samples;
            let of_sample = |d: &f64| {
                let of_variance = (d * d - mean_square) / (count.powi(2) * available);
                (by_score * d / count + by_variance * of_variance) / samples
            };
            deviations.iter().map(of_sample).collect()
        });
        Self {
            head,
            value: rank_by.value(score, variance.sqrt()),
            moves: moves.collect(),
        }
    }

    /// This head's value less the other's.
    pub(crate) fn less(&self, other: &Self) -> Difference {
        let lengths = || self.moves.iter().zip(&other.moves);
        let degrees = lengths().map(|(a, b)| a.len().min(b.len()).saturating_sub(1));
        let variance = lengths().map(|(a, b)| variance_of_difference(a, b));
        Difference {
            difference: if self.value == other.value {
                0.0
            } else {
                self.value - other.value
            },
            standard_error: variance.sum::<Option<f64>>().map(f64::sqrt),
            degrees: degrees.sum(),
        }
    }
}

/// Of what two heads move by in the same sequences, and one of them in more of these.
fn variance_of_difference(a: &[f64], b: &[f64]) -> Option<f64> {
    let (long, short) = if a.len() >= b.len() { (a, b) } else { (b, a) };
    let samples = short.len() as f64;
    let (common, alone) = long.split_at(short.len());
    let squares = common.iter().zip(short).map(|(a, b)| (a - b).powi(2));
    let sum = squares.chain(alone.iter().map(|a| a * a)).sum::<f64>();
    (samples > 1.0).then(|| sum * samples / (samples - 1.0))
}

impl Difference {
    /// In standard errors, signed; no number where there is no error.
    pub(crate) fn in_errors(self) -> f64 {
        match self.standard_error {
            Some(0.0) if self.difference == 0.0 => 0.0,
            Some(error) => self.difference / error,
            None => f64::NAN,
        }
    }
}
