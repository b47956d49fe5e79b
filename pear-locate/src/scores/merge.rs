//! Scores of some layers each, put together.

use std::path::Path;

use pear_core::{Error, LayerRange, Result};
use serde::Serialize;

use super::{LengthScores, Scores};

/// Runs of the same model on the same sequences differ by no more than this share of a logit, in f32 and in half precision, whatever
/// machines they ran on.
const ROUNDING: [f64; 2] = [1e-3, 2e-2];

impl Scores {
    /// Joins files that each hold the scores of some layers of the same model on the same sequences, in any order.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Malformed`], naming the file and the field: what does not belong to the first file, a layer in two files
    /// or in none.
    pub fn merge(paths: &[impl AsRef<Path>]) -> Result<Self> {
        let mut parts = paths
            .iter()
            .map(|path| Ok((path.as_ref(), Self::read(path)?)))
            .collect::<Result<Vec<_>>>()?;
        parts.sort_by_key(|(_, part)| part.layers().first);
        let Some(((first_path, first), rest)) = parts.split_first() else {
            return Err(Error::ProxyTask("no scores to put together".into()));
        };
        let mut next = 0;
        for (path, part) in &parts {
            if part.anytime.is_some() {
                let problem = "`anytime`: heads located within a budget, which are not those of several parts";
                return Err(malformed(path, problem.into()));
            }
            let LayerRange { first, last } = part.layers();
            if first != next {
                let what = if first < next {
                    "in another file too"
                } else {
                    "in no file"
                };
                let layer = first.min(next);
                return Err(malformed(
                    path,
                    format!("`layers`: {}, but layer {layer} is {what}", part.layers()),
                ));
            }
            next = last + 1;
        }
        if next != first.model.num_layers {
            let (path, part) = &parts[parts.len() - 1];
            return Err(malformed(
                path,
                format!(
                    "`layers`: {}, and layer {next} is in no file",
                    part.layers()
                ),
            ));
        }
        let mut by_length = first.by_length.clone();
        for (path, part) in rest {
            let same = Same {
                path,
                first: first_path,
            };
            same.check("model", &first.model, &part.model)?;
            same.check("settings", &first.settings, &part.settings)?;
            same.check("provenance", &first.provenance, &part.provenance)?;
            let sequences = |scores: &Self| {
                scores
                    .by_length
                    .iter()
                    .map(|l| (l.n, l.samples))
                    .collect::<Vec<_>>()
            };
            same.check(
                "by_length (n and samples)",
                &sequences(first),
                &sequences(part),
            )?;
            let exact = first
                .provenance
                .dtype
                .as_deref()
                .is_none_or(|dtype| dtype == "f32");
            for (joined, length) in by_length.iter_mut().zip(&part.by_length) {
                same.check_base_logit(joined, length, ROUNDING[usize::from(!exact)])?;
                joined.take_layers(length, part.layers());
            }
        }
        let mut scores = Self::new(first.model.clone(), first.settings.clone(), by_length)?;
        scores.provenance = first.provenance.clone();
        Ok(scores)
    }
}

impl LengthScores {
    fn take_layers(&mut self, other: &Self, layers: LayerRange) {
        let take = |mine: &mut [Vec<f64>], theirs: &[Vec<f64>]| {
            layers
                .iter()
                .for_each(|layer| mine[layer].clone_from(&theirs[layer]));
        };
        take(&mut self.scores, &other.scores);
        match (&mut self.standard_errors, &other.standard_errors) {
            (Some(mine), Some(theirs)) => take(mine, theirs),
            (mine, _) => *mine = None,
        }
    }
}

/// A file beside the first one.
struct Same<'a> {
    path: &'a Path,
    first: &'a Path,
}

impl Same<'_> {
    fn check<T: PartialEq + Serialize>(&self, field: &str, expected: &T, found: &T) -> Result<()> {
        if expected == found {
            return Ok(());
        }
        let text = |value: &T| serde_json::to_string(value).unwrap_or_default();
        self.differs(field, &text(expected), &text(found))
    }

    fn check_base_logit(
        &self,
        expected: &LengthScores,
        found: &LengthScores,
        rounding: f64,
    ) -> Result<()> {
        let (a, b) = (expected.base_logit, found.base_logit);
        if (a - b).abs() <= rounding * a.abs().max(1.0) {
            return Ok(());
        }
        self.differs(
            &format!("base_logit of n = {}", found.n),
            &a.to_string(),
            &b.to_string(),
        )
    }

    fn differs(&self, field: &str, expected: &str, found: &str) -> Result<()> {
        Err(malformed(
            self.path,
            format!(
                "`{field}`: {found}, but {} has {expected}",
                self.first.display()
            ),
        ))
    }
}

fn malformed(path: &Path, problem: String) -> Error {
    Error::Malformed {
        path: path.into(),
        problem,
    }
}
