//! The ways to set coefficients that are tried.

use super::report::CandidateKind;

/// Numbers of heads that the paper and others found to matter; those that suit the size of a model are used.
const COUNTS: [usize; 5] = [3, 5, 10, 20, 40];
/// Of a model's heads at least one in so many is re-weighted.
const ONE_IN: usize = 60;
/// Sets of located heads that are learned, and those that get a fixed factor.
const LEARNED: usize = 2;
const FIXED: usize = 2;
/// The fixed factor.
const FACTOR: f32 = 0.5;
/// Budget for all heads where they are learned on the proxy task, in thousandths of a nat a token.
const BUDGET: u32 = 30;
/// Prices of a nat a token where all heads are learned from questions, the highest first.
pub const PRICES: [u32; 3] = [200, 60, 20];

/// A way to set coefficients.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Recipe {
    /// Learned for the first heads of the ranking.
    Ranked {
        /// Number of heads.
        count: usize,
    },
    /// The same number for the first heads of the ranking.
    Fixed {
        /// Number of heads.
        count: usize,
        /// What their outputs are multiplied by.
        factor: f32,
    },
    /// One step of the natural gradient for all heads, within a budget of divergence from the unmodified model.
    Natural {
        /// The budget, in thousandths of a nat a token.
        milli_nats: u32,
    },
    /// Learned for all heads on the proxy task, within a budget of divergence from the unmodified model.
    AllHeads {
        /// The budget, in thousandths of a nat a token.
        milli_nats: u32,
    },
    /// Learned for all heads from questions whose context contradicts what the model knows, at a price of divergence.
    Faithful {
        /// What a nat a token costs.
        price: u32,
    },
}

impl Recipe {
    /// All that are tried on a model of so many heads, the cheapest first.
    pub fn grid(num_heads: usize) -> Vec<Self> {
        let counts: Vec<usize> = COUNTS
            .into_iter()
            .filter(|count| (num_heads.div_ceil(ONE_IN)..=num_heads / 3).contains(count))
            .collect();
        // A model of two heads still has one to re-weight.
        let counts = if counts.is_empty() { vec![1] } else { counts };
        let fixed = counts.iter().take(FIXED).map(|&count| Self::Fixed {
            count,
            factor: FACTOR,
        });
        let ranked = counts.iter().take(LEARNED);
        fixed
            .chain(ranked.map(|&count| Self::Ranked { count }))
            .chain([
                Self::Natural { milli_nats: BUDGET },
                Self::AllHeads { milli_nats: BUDGET },
            ])
            .chain(PRICES.map(|price| Self::Faithful { price }))
            .collect()
    }

    /// How many of the heads that rank highest it re-weights; `None` for all heads.
    pub fn num_located(self) -> Option<usize> {
        match self {
            Self::Ranked { count } | Self::Fixed { count, .. } => Some(count),
            Self::Natural { .. } | Self::AllHeads { .. } | Self::Faithful { .. } => None,
        }
    }

    /// A short identifier.
    pub fn id(self) -> String {
        match self {
            Self::Ranked { count } => format!("rank-{count}"),
            Self::Fixed { count, factor } => format!("fixed-{count}-x{factor}"),
            Self::Natural { milli_nats } => format!("step-kl-{}", nats(milli_nats)),
            Self::AllHeads { milli_nats } => format!("all-kl-{}", nats(milli_nats)),
            Self::Faithful { price } => format!("faithful-{price}"),
        }
    }

    /// What it is, in a few words.
    pub fn description(self) -> String {
        match self {
            Self::Ranked { count } => format!("{count} located heads, learned"),
            Self::Fixed { count, factor } => format!("{count} located heads × {factor}"),
            Self::Natural { milli_nats } => {
                format!(
                    "all heads, one natural step, KL budget {}",
                    nats(milli_nats)
                )
            }
            Self::AllHeads { milli_nats } => {
                format!("all heads, learned, KL budget {}", nats(milli_nats))
            }
            Self::Faithful { price } => {
                format!("all heads, learned from conflicts, {price} a nat of KL")
            }
        }
    }

    /// What a report calls it.
    pub fn kind(self) -> CandidateKind {
        match self {
            Self::Ranked { .. } => CandidateKind::Ranked,
            Self::Fixed { .. } => CandidateKind::Fixed,
            Self::Natural { .. } | Self::AllHeads { .. } | Self::Faithful { .. } => {
                CandidateKind::AllHeads
            }
        }
    }
}

/// A budget in nats.
pub fn nats(milli_nats: u32) -> f64 {
    f64::from(milli_nats) / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(num_heads: usize) -> Vec<String> {
        let grid = Recipe::grid(num_heads);
        grid.into_iter().map(Recipe::id).collect()
    }

    #[test]
    fn the_grid_suits_the_size_of_the_model() {
        let small = ids(32);
        assert_eq!(
            small,
            [
                "fixed-3-x0.5",
                "fixed-5-x0.5",
                "rank-3",
                "rank-5",
                "step-kl-0.03",
                "all-kl-0.03",
                "faithful-200",
                "faithful-60",
                "faithful-20"
            ]
        );
        assert!(ids(270).contains(&"rank-10".into()));
        assert!(ids(1024).contains(&"rank-20".into()) && !ids(1024).contains(&"rank-3".into()));
        assert!(ids(2).contains(&"rank-1".into()));
    }
}
