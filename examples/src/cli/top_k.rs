//! The flag `--top-k`.

use std::str::FromStr;

use anyhow::{Result, bail};
use pear_core::HeadId;
use pear_locate::Scores;

use super::warn;

/// A value of `--top-k`: how many heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopK {
    /// This many, highest ranks first.
    Count(usize),
    /// All heads.
    All,
    /// Those whose scores are significant: see [`Scores::significant`].
    Auto,
}

impl FromStr for TopK {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            "auto" => Ok(Self::Auto),
            _ => text
                .parse()
                .map(Self::Count)
                .map_err(|_| "expected a number of heads, all, or auto".into()),
        }
    }
}

impl TopK {
    /// The rule for `auto` in a sentence.
    pub const RULE: &str = "auto takes the heads whose score is above zero with a false discovery rate of 5 % (one-sided)";

    /// The value asked for, or `default`. If there are fewer heads, all of them, with a warning.
    ///
    /// # Errors
    /// A count of 0.
    pub fn checked(asked: Option<Self>, default: usize, heads: usize) -> Result<Self> {
        match asked {
            None => Ok(Self::Count(default.min(heads))),
            Some(Self::Count(0)) => bail!("--top-k 0: expected at least 1, all, or auto"),
            Some(Self::Count(k)) if k > heads => {
                warn(&format!(
                    "--top-k {k}: there are only {heads} heads, and all of them are taken"
                ));
                Ok(Self::Count(heads))
            }
            Some(asked) => Ok(asked),
        }
    }

    /// The heads of a scores file.
    ///
    /// # Errors
    /// `auto` for scores without standard errors.
    pub fn of(self, scores: &Scores) -> Result<Vec<HeadId>> {
        match self {
            Self::Count(k) => Ok(scores.top(k)),
            Self::All => Ok(scores.top(scores.heads().len())),
            Self::Auto => match scores.significant() {
                Some(heads) => Ok(heads),
                None => bail!(
                    "--top-k auto: the scores have no standard errors: at least 2 sequences of each length are needed"
                ),
            },
        }
    }
}
