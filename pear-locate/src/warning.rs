//! When scores are finite and still mean little.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Metric;
use crate::patched::PatchedLogits;

/// A mean logit below this is a small denominator: replacing a head commonly moves logits by tenths.
const SMALL_LOGIT: f64 = 1.0;

/// What to know before trusting the scores of one length.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Warning {
    /// The mean logit is negative: a ratio to it has the wrong sign.
    NegativeBaseLogit {
        /// Tokens that are repeated.
        n: usize,
        /// The mean logit.
        base_logit: f64,
    },
    /// The mean logit is below 1: a ratio to it exaggerates.
    SmallBaseLogit {
        /// Tokens that are repeated.
        n: usize,
        /// The mean logit.
        base_logit: f64,
    },
    /// The model does the proxy task hardly better than picking any token of the context would.
    NearChance {
        /// Tokens that are repeated.
        n: usize,
        /// Share of second-half tokens that it predicts.
        accuracy: f64,
    },
}

impl Warning {
    /// Those that apply.
    ///
    /// Near chance is an accuracy below `2 / n`, twice that of picking any of the n tokens, but 10 % at least and 50 % at most.
    pub fn of(metric: Metric, logits: &PatchedLogits) -> Vec<Self> {
        let (n, accuracy, base_logit) = (logits.n, logits.accuracy, logits.base_logit());
        let mut warnings = Vec::new();
        if metric == Metric::LogitRatio {
            if base_logit < 0.0 {
                warnings.push(Self::NegativeBaseLogit { n, base_logit });
            } else if base_logit < SMALL_LOGIT {
                warnings.push(Self::SmallBaseLogit { n, base_logit });
            }
        }
        if accuracy < (2.0 / n as f64).clamp(0.1, 0.5) {
            warnings.push(Self::NearChance { n, accuracy });
        }
        warnings
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NegativeBaseLogit { n, base_logit } => {
                write!(
                    f,
                    "n = {n}: the mean logit of the right token is {base_logit:.4}, and a ratio to a negative number "
                )?;
                write!(
                    f,
                    "ranks heads the wrong way round: use the metric logit-diff"
                )
            }
            Self::SmallBaseLogit { n, base_logit } => {
                write!(
                    f,
                    "n = {n}: the mean logit of the right token is only {base_logit:.4}, and a ratio to it "
                )?;
                write!(
                    f,
                    "says more about the denominator than about heads: use the metric logit-diff"
                )
            }
            Self::NearChance { n, accuracy } => {
                write!(
                    f,
                    "n = {n}: the model predicts {:.1} % of the repeated tokens, close to chance: ",
                    accuracy * 100.0
                )?;
                write!(f, "which heads keep it from its context cannot be told")
            }
        }
    }
}
