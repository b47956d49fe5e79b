//! Learning rates.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How the learning rate changes after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Schedule {
    /// Straight down to zero, as the authors have it.
    #[default]
    Linear,
    /// Down to zero along half a cosine.
    Cosine,
    /// Not at all.
    Constant,
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

impl Schedule {
    /// The learning rate of step `step` of `steps`, counted from 0: `rate · step / warmup` while warming up, then down from `rate`.
    ///
    /// ```
    /// use pear_train::Schedule;
    /// let rates: Vec<f64> = (0..6).map(|step| Schedule::Linear.rate(1.0, 2, step, 6)).collect();
    /// assert_eq!(rates, [0.0, 0.5, 1.0, 0.75, 0.5, 0.25]);
    /// ```
    pub fn rate(self, rate: f64, warmup: usize, step: usize, steps: usize) -> f64 {
        if step < warmup {
            return rate * step as f64 / warmup as f64;
        }
        let left = steps.saturating_sub(step) as f64 / steps.saturating_sub(warmup).max(1) as f64;
        match self {
            Self::Linear => rate * left,
            Self::Cosine => rate * 0.5 * (1.0 - (std::f64::consts::PI * left).cos()),
            Self::Constant => rate,
        }
    }
}
