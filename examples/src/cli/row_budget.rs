//! The flag `--budget`.

use std::str::FromStr;

use anyhow::{Result, bail};
use pear_core::ModelShape;
use pear_core::proxy::ProxyBatch;
use pear_locate::{Budget, LocateOptions};

use super::TopK;

/// A value of `--budget`: row passes, or a share of those of the uniform sweep.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RowBudget {
    /// This many.
    Rows(u64),
    /// This share, in per cent.
    Percent(f64),
}

impl FromStr for RowBudget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = match text.strip_suffix('%') {
            Some(percent) => percent
                .trim()
                .parse()
                .ok()
                .filter(|percent: &f64| percent.is_finite() && *percent > 0.0)
                .map(Self::Percent),
            None => text.parse().ok().filter(|&rows| rows > 0).map(Self::Rows),
        };
        parsed.ok_or_else(|| "expected a number of row passes, or per cent such as 50%".into())
    }
}

impl RowBudget {
    /// The budget for the heads that `--top-k` asks for. `uniform`: the sequences of the sweep that per cent are taken of.
    ///
    /// # Errors
    /// A `--top-k` that is no number.
    pub fn of(
        self,
        top_k: TopK,
        shape: &ModelShape,
        options: &LocateOptions,
        uniform: &[ProxyBatch],
    ) -> Result<Budget> {
        let TopK::Count(top_k) = top_k else {
            bail!("--budget: --top-k must be a number of heads, which are then looked for");
        };
        let row_passes = match self {
            Self::Rows(rows) => rows,
            Self::Percent(percent) => {
                let of_uniform = Budget::of_uniform(shape, options, uniform);
                (of_uniform as f64 * percent / 100.0) as u64
            }
        };
        Ok(Budget::new(top_k, row_passes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_are_row_passes_or_a_share_of_them() {
        assert_eq!("1200".parse(), Ok(RowBudget::Rows(1200)));
        assert_eq!("12.5%".parse(), Ok(RowBudget::Percent(12.5)));
        for wrong in ["", "0", "-3", "half", "%", "0%", "inf%", "1e3"] {
            assert!(wrong.parse::<RowBudget>().is_err(), "{wrong}");
        }
    }
}
