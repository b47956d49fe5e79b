//! Named measures of single items: what they are over all items, and how they differ between two models.

use serde::{Deserialize, Serialize};

use super::{Estimate, PairedDifference};

/// What the numbers of a measure are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MeasureKind {
    /// 0 or 1 for each item; the mean is a share.
    Share,
    /// Natural-log probabilities or differences between them, in nats.
    Nats,
}

/// A number that each item has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Measure {
    /// Its name in files of results.
    pub name: &'static str,
    /// What its numbers are.
    pub kind: MeasureKind,
}

impl Measure {
    /// A share.
    pub const fn share(name: &'static str) -> Self {
        let kind = MeasureKind::Share;
        Self { name, kind }
    }

    /// Log-probabilities, in nats.
    pub const fn nats(name: &'static str) -> Self {
        let kind = MeasureKind::Nats;
        Self { name, kind }
    }
}

/// The results of one model on one item.
pub trait ItemResult {
    /// What is measured.
    const MEASURES: &'static [Measure];

    /// One number for each of [`MEASURES`](Self::MEASURES).
    fn values(&self) -> Vec<f64>;
}

/// The mean of each measure over all items.
///
/// ```
/// # #[cfg(feature = "tokenizer")] {
/// use pear_models::evaluation::{conflict::FactResult, compare, summarize};
///
/// let result = |context_over_memory, log_prob_difference| FactResult {
///     context_over_memory,
///     log_prob_difference,
///     context_first: context_over_memory,
///     closed_book_first: true,
/// };
/// let before = [result(false, -2.0), result(true, 1.0)];
/// let after = [result(true, 0.5), result(true, 1.5)];
/// let means: Vec<_> = summarize(&after).iter().map(|(measure, estimate)| (measure.name, estimate.mean)).collect();
/// assert_eq!(means[..2], [("context_over_memory", 1.0), ("log_prob_difference", 1.0)]);
/// let changes = compare(&before, &after);
/// assert_eq!((changes[0].1.difference, changes[0].1.gained), (0.5, 1));
/// assert_eq!((changes[1].1.difference, changes[1].1.standard_error), (1.5, 1.0));
/// # }
/// ```
pub fn summarize<R: ItemResult>(results: &[R]) -> Vec<(Measure, Estimate)> {
    let columns = R::MEASURES.iter().zip(columns(results));
    columns
        .map(|(measure, values)| {
            let estimate = match measure.kind {
                MeasureKind::Share => Estimate::of(&values),
                MeasureKind::Nats => Estimate::of_unbounded(&values),
            };
            (*measure, estimate)
        })
        .collect()
}

/// How each measure differs between two models' results on the same items.
///
/// # Panics
/// If there are not as many results after as before.
pub fn compare<R: ItemResult>(before: &[R], after: &[R]) -> Vec<(Measure, PairedDifference)> {
    let pairs = columns(before).into_iter().zip(columns(after));
    R::MEASURES
        .iter()
        .zip(pairs)
        .map(|(measure, (before, after))| (*measure, PairedDifference::between(&before, &after)))
        .collect()
}

/// The values of each measure, item after item.
fn columns<R: ItemResult>(results: &[R]) -> Vec<Vec<f64>> {
    let mut columns = vec![Vec::with_capacity(results.len()); R::MEASURES.len()];
    for result in results {
        for (column, value) in columns.iter_mut().zip(result.values()) {
            column.push(value);
        }
    }
    columns
}
