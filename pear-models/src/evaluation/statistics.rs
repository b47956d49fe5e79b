//! How far measured shares and means can be trusted: confidence intervals and paired tests.

use serde::{Deserialize, Serialize};

/// Quantile of the standard normal distribution for a two-sided 95 % interval.
const Z: f64 = 1.959963984540054;

/// The mean of scores, with its 95 % confidence interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Lower end of the interval; of scores between 0 and 1, at least 0.
    pub low: f64,
    /// Upper end of the interval; of scores between 0 and 1, at most 1.
    pub high: f64,
    /// Number of scores.
    pub count: usize,
}

impl Estimate {
    /// Estimates the mean from scores between 0 and 1, or from `bool`s.
    ///
    /// If all scores are 0 or 1, the interval is Wilson's (1927) for a proportion; otherwise the normal approximation with the standard
    /// deviation of the scores. Without scores the mean is NaN and the interval all of 0 to 1.
    pub fn of<T: Into<f64> + Copy>(scores: &[T]) -> Self {
        let scores: Vec<f64> = scores.iter().map(|&score| score.into()).collect();
        let mean = mean(&scores);
        let (low, high) = if scores.iter().all(|score| *score == 0.0 || *score == 1.0) {
            wilson_interval(mean, scores.len())
        } else {
            let margin = Z * standard_error(&scores, mean);
            (mean - margin, mean + margin)
        };
        Self {
            mean,
            low: low.max(0.0),
            high: high.min(1.0),
            count: scores.len(),
        }
    }

    /// Estimates the mean of numbers that have no bounds, such as log-probabilities: the interval is that of the normal approximation. NaN
    /// without numbers.
    pub fn of_unbounded(values: &[f64]) -> Self {
        let mean = mean(values);
        let margin = Z * standard_error(values, mean);
        Self {
            mean,
            low: mean - margin,
            high: mean + margin,
            count: values.len(),
        }
    }
}

/// How the scores of the same questions differ between two models.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairedDifference {
    /// Mean score after minus mean score before.
    pub difference: f64,
    /// Standard error of the difference: that of the mean of the paired differences.
    pub standard_error: f64,
    /// Lower end of its 95 % confidence interval (normal approximation, standard deviation of the differences).
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
    /// Questions whose score is higher after.
    pub gained: usize,
    /// Questions whose score is lower after.
    pub lost: usize,
    /// Two-sided p-value of [McNemar's exact test](mcnemar_exact) on the questions whose score changed.
    pub p_value: f64,
}

impl PairedDifference {
    /// Compares scores, or `bool`s, of the same questions in the same order.
    ///
    /// # Panics
    /// If there are not as many scores after as before.
    pub fn between<T: Into<f64> + Copy>(before: &[T], after: &[T]) -> Self {
        assert_eq!(
            before.len(),
            after.len(),
            "PairedDifference::between: as many scores before as after are needed"
        );
        let differences: Vec<f64> = before
            .iter()
            .zip(after)
            .map(|(&before, &after)| after.into() - before.into())
            .collect();
        let difference = mean(&differences);
        let standard_error = standard_error(&differences, difference);
        let margin = Z * standard_error;
        let gained = differences.iter().filter(|d| **d > 0.0).count();
        let lost = differences.iter().filter(|d| **d < 0.0).count();
        Self {
            difference,
            standard_error,
            low: difference - margin,
            high: difference + margin,
            gained,
            lost,
            p_value: mcnemar_exact(gained, lost),
        }
    }
}

/// McNemar's exact test: the two-sided probability that `gained + lost` fair coins split at least this unevenly. For graded scores
/// this is the sign test.
pub fn mcnemar_exact(gained: usize, lost: usize) -> f64 {
    let n = gained + lost;
    // Logarithms of the binomial terms: the factorials of thousands overflow.
    let mut log_term = -(n as f64) * 2f64.ln();
    let mut tail = log_term.exp();
    for k in 1..=gained.min(lost) {
        log_term += ((n - k + 1) as f64 / k as f64).ln();
        tail += log_term.exp();
    }
    (2.0 * tail).min(1.0)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn standard_error(values: &[f64], mean: f64) -> f64 {
    let n = values.len() as f64;
    let squares = values.iter().map(|value| (value - mean).powi(2));
    (squares.sum::<f64>() / (n - 1.0).max(1.0) / n).sqrt()
}

fn wilson_interval(share: f64, count: usize) -> (f64, f64) {
    let n = count as f64;
    let scale = 1.0 + Z * Z / n;
    let centre = (share + Z * Z / (2.0 * n)) / scale;
    let margin = Z / scale * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
    (centre - margin, centre + margin)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f64, right: f64) {
        assert!(
            (found - right).abs() <= 1e-9 * right.abs().max(1e-300),
            "{found}, expected {right}"
        );
    }

    #[test]
    fn proportions_have_wilsons_interval() {
        // By the formula in Python, with z = 1.959963984540054.
        let share = |k: usize, n: usize| Estimate::of(&(0..n).map(|i| i < k).collect::<Vec<_>>());
        for (k, n, low, high) in [
            (7, 10, 0.39677814746114537, 0.8922087325936989),
            (0, 20, 0.0, 0.16112515805281938),
            (500, 1000, 0.4690696003681042, 0.5309303996318958),
        ] {
            let found = share(k, n);
            assert_eq!((found.mean, found.count), (k as f64 / n as f64, n));
            assert!(
                (found.low - low).abs() < 1e-12 && (found.high - high).abs() < 1e-12,
                "{found:?}"
            );
        }
    }

    #[test]
    fn graded_scores_have_the_normal_interval() {
        let found = Estimate::of(&[0.5, 1.0, 0.0, 0.25]);
        // Standard deviation 0.426956, divided by 2.
        close(found.mean, 0.4375);
        assert!(
            (found.high - (0.4375 + Z * 0.426_956_281_927_3 / 2.0)).abs() < 1e-9,
            "{found:?}"
        );
        assert!(
            (found.low - (0.4375 - Z * 0.426_956_281_927_3 / 2.0)).abs() < 1e-9,
            "{found:?}"
        );
    }

    #[test]
    fn numbers_without_bounds_keep_an_interval_that_leaves_0_to_1() {
        let found = Estimate::of_unbounded(&[-3.0, -1.0, -2.0]);
        // Standard deviation 1, divided by √3.
        close(found.mean, -2.0);
        close(found.low, -2.0 - Z / 3f64.sqrt());
        close(found.high, -2.0 + Z / 3f64.sqrt());
        assert_eq!(found.count, 3);
    }

    #[test]
    fn p_values_are_those_of_the_binomial_distribution() {
        // By exact fractions in Python.
        for (a, b, p) in [
            (0, 0, 1.0),
            (5, 0, 0.0625),
            (1, 8, 0.0390625),
            (191, 40, 8.679640048628435e-25),
            (1500, 1500, 1.0),
            (2000, 1000, 1.0090148627941341e-75),
        ] {
            let found = mcnemar_exact(a, b);
            assert!(
                (found / p - 1.0).abs() < 1e-6,
                "{a}, {b}: {found:e}, expected {p:e}"
            );
        }
    }

    #[test]
    fn paired_scores_are_counted_by_their_change() {
        let paired =
            PairedDifference::between(&[0.0, 1.0, 0.0, 1.0, 0.0], &[1.0, 1.0, 1.0, 0.0, 0.0]);
        assert_eq!((paired.gained, paired.lost), (2, 1));
        close(paired.difference, 0.2);
        close(paired.p_value, 1.0);
        // Differences 1, 0, 1, −1, 0: variance 0.7, divided by 5.
        close(paired.standard_error, 0.14f64.sqrt());
        assert!(paired.low < 0.2 && paired.high > 0.2);
    }
}
