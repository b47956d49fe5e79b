//! Everything needed to resume a run.

use std::path::Path;

use pear_core::files::{Provenance, read_json, write_json};
use pear_core::{DecoderModel, HeadId, ModelShape};
use serde::{Deserialize, Serialize};

use super::items::ItemGroup;
use super::momentum::Momentum;
use super::options::FaithfulOptions;
use super::trainer::FaithfulTrainer;
use crate::checkpoint::{option_differences, provenance_differences};
use crate::{Error, Result};

const FORMAT: &str = "pear-faithful-checkpoint";

#[derive(Debug, Serialize, Deserialize)]
struct Checkpoint<R, S> {
    format: String,
    version: u32,
    #[serde(flatten)]
    run: R,
    #[serde(flatten)]
    state: S,
}

/// What identifies a run: it can only be resumed if all of this is the same.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Run {
    pub model: ModelShape,
    pub options: FaithfulOptions,
    pub heads: Vec<HeadId>,
    pub provenance: Provenance,
    /// Fingerprints.
    pub items: String,
    pub text: String,
    pub fisher: String,
}

/// How far it has come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct State {
    pub steps: usize,
    pub momentum: Momentum,
    pub front: Vec<SavedPoint>,
    /// The unmodified model's log-probabilities for each item of each group; empty before the first step.
    pub references: Vec<Vec<f64>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct SavedPoint {
    pub kl_weight: f64,
    pub values: Vec<f32>,
    pub kl: f64,
    pub predicted_kl: f64,
}

impl State {
    pub(super) fn new(heads: usize) -> Self {
        Self {
            steps: 0,
            momentum: Momentum::new(heads),
            front: Vec::new(),
            references: Vec::new(),
        }
    }

    /// Whether a run of these items, heads and options can have come to it.
    fn fits(&self, run: &Run, groups: &[ItemGroup]) -> bool {
        let options = &run.options;
        let heads = run.heads.len();
        let (closed, summed) = match options.place(self.steps) {
            Some(place) => {
                let not_summed = place.stage.steps - options.num_averaged(place.stage);
                (place.index, place.step.saturating_sub(not_summed))
            }
            None => (options.stages.len(), 0),
        };
        let references = self.references.len() == groups.len()
            && self.references.iter().zip(groups).all(|(found, group)| {
                found.len() == group.items().len() && found.iter().all(|x| x.is_finite())
            });
        let whole = |point: &SavedPoint| {
            point.values.len() == heads && point.values.iter().all(|value| value.is_finite())
        };
        self.steps <= options.steps()
            && self.momentum.fits(heads, self.steps, summed)
            && self.front.len() == closed
            && self.front.iter().all(whole)
            && (references || (self.steps == 0 && self.references.is_empty()))
    }
}

impl Run {
    /// What of another run is not as in this one, for people to read.
    fn differences(&self, other: &Self) -> Vec<String> {
        let mut differences = option_differences(&self.options, &other.options);
        differences.extend(provenance_differences(&self.provenance, &other.provenance));
        for (what, differ) in [
            ("heads", self.heads != other.heads),
            ("items", self.items != other.items),
            ("plain text", self.text != other.text),
            ("Fisher information", self.fisher != other.fisher),
        ] {
            if differ {
                differences.push(format!("other {what}"));
            }
        }
        differences
    }
}

impl<M: DecoderModel> FaithfulTrainer<M> {
    /// Writes everything needed to go on to a file, which is whole at any moment.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let (run, state) = self.saved();
        let checkpoint = Checkpoint {
            format: FORMAT.into(),
            version: 1,
            run,
            state,
        };
        Ok(write_json(path.as_ref(), &checkpoint)?)
    }

    /// Goes on where [`save`](Self::save) left off: what follows is bit for bit what would have followed there.
    ///
    /// # Errors
    /// A file that is no such checkpoint, and [`Error::Checkpoint`] for one of other options, heads, weights, items or text: it says
    /// which.
    pub fn restore(&mut self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let (run, groups, state) = self.parts();
        let fail = |problem: String| {
            Err(Error::Checkpoint {
                path: path.into(),
                problem,
            })
        };
        let saved: Checkpoint<Run, State> = read_json(path, FORMAT)?;
        if saved.run.model != run.model {
            return fail(format!(
                "made for {}, but the model is {}",
                saved.run.model, run.model
            ));
        }
        let differences = saved.run.differences(run);
        if !differences.is_empty() {
            return fail(format!(
                "the checkpoint of another run: {}",
                differences.join(", ")
            ));
        }
        if !saved.state.fits(run, groups) {
            return fail("its numbers do not fit its items, heads and options".into());
        }
        *state = saved.state;
        Ok(())
    }
}
