//! How far measured shares and means can be trusted.

/// z of a two-sided 95 % interval.
const Z: f64 = 1.959963984540054;

/// A share or mean of scores between 0 and 1, with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// How many scores.
    pub count: usize,
}

impl Estimate {
    /// Of scores between 0 and 1. If all are 0 or 1: Wilson's interval for a share; otherwise the normal one for a mean, by the scores'
    /// own spread. Without scores, not a number.
    pub fn of(scores: &[f64]) -> Self {
        let count = scores.len();
        let n = count as f64;
        let mean = scores.iter().sum::<f64>() / n;
        let (low, high) = if scores.iter().all(|score| *score == 0.0 || *score == 1.0) {
            let centre = (mean + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
            let half =
                Z / (1.0 + Z * Z / n) * (mean * (1.0 - mean) / n + Z * Z / (4.0 * n * n)).sqrt();
            (centre - half, centre + half)
        } else {
            let half = Z * standard_error(scores, mean);
            (mean - half, mean + half)
        };
        Self {
            mean,
            low: low.max(0.0),
            high: high.min(1.0),
            count,
        }
    }
}

/// The same questions answered twice.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Paired {
    /// Mean of the second minus mean of the first.
    pub difference: f64,
    /// Lower end of its 95 % interval (normal, by the spread of the differences).
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Questions with a higher score the second time.
    pub gained: usize,
    /// Questions with a lower one.
    pub lost: usize,
    /// Two-sided probability of a difference like this by chance: McNemar's exact test (the sign test on the questions that changed).
    pub p_value: f64,
}

impl Paired {
    /// Compares the scores of the same questions.
    ///
    /// # Panics
    /// If there are not as many of both.
    pub fn of(before: &[f64], after: &[f64]) -> Self {
        assert_eq!(before.len(), after.len(), "scores of the same questions");
        let differences: Vec<f64> = before
            .iter()
            .zip(after)
            .map(|(before, after)| after - before)
            .collect();
        let difference = differences.iter().sum::<f64>() / differences.len() as f64;
        let half = Z * standard_error(&differences, difference);
        let count = |up: bool| {
            differences
                .iter()
                .filter(|d| if up { **d > 0.0 } else { **d < 0.0 })
                .count()
        };
        let (gained, lost) = (count(true), count(false));
        Self {
            difference,
            low: difference - half,
            high: difference + half,
            gained,
            lost,
            p_value: sign_test(gained, lost),
        }
    }
}

/// A probability for people: `0.031`, `2e-9`.
pub fn p_text(p: f64) -> String {
    if p >= 0.001 {
        format!("{p:.3}")
    } else {
        format!("{p:.0e}")
    }
}

fn standard_error(scores: &[f64], mean: f64) -> f64 {
    let n = scores.len() as f64;
    (scores
        .iter()
        .map(|score| (score - mean).powi(2))
        .sum::<f64>()
        / (n - 1.0).max(1.0)
        / n)
        .sqrt()
}

/// Probability that fair coins fall at least as unevenly as `a` to `b`, two-sided.
fn sign_test(a: usize, b: usize) -> f64 {
    let (n, fewer) = (a + b, a.min(b));
    // Terms of the binomial distribution by their logarithms: factorials of thousands do not fit a float.
    let mut log_term = -(n as f64) * 2f64.ln();
    let mut tail = log_term.exp();
    for k in 1..=fewer {
        log_term += ((n - k + 1) as f64 / k as f64).ln();
        tail += log_term.exp();
    }
    (2.0 * tail).min(1.0)
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
    fn shares_have_wilsons_interval() {
        // By the formula in Python, with z = 1.959963984540054.
        let share = |k: usize, n: usize| {
            Estimate::of(
                &(0..n)
                    .map(|i| if i < k { 1.0 } else { 0.0 })
                    .collect::<Vec<_>>(),
            )
        };
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
    fn graded_scores_have_the_interval_of_their_spread() {
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
    fn the_sign_test_is_scipys() {
        // By exact fractions in Python.
        for (a, b, p) in [
            (0, 0, 1.0),
            (5, 0, 0.0625),
            (1, 8, 0.0390625),
            (191, 40, 8.679640048628435e-25),
            (1500, 1500, 1.0),
            (2000, 1000, 1.0090148627941341e-75),
        ] {
            let found = sign_test(a, b);
            assert!(
                (found / p - 1.0).abs() < 1e-6,
                "{a}, {b}: {found:e}, expected {p:e}"
            );
        }
    }

    #[test]
    fn pairs_count_what_changed() {
        let paired = Paired::of(&[0.0, 1.0, 0.0, 1.0, 0.0], &[1.0, 1.0, 1.0, 0.0, 0.0]);
        assert_eq!((paired.gained, paired.lost), (2, 1));
        close(paired.difference, 0.2);
        close(paired.p_value, 1.0);
        assert!(paired.low < 0.2 && paired.high > 0.2);
    }
}
