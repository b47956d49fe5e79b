//! Everything needed to resume a training run.

use std::path::Path;

use pear_core::files::Provenance;
use pear_core::{HeadId, ModelShape};
use serde::{Deserialize, Serialize};

use crate::held_out::HeldOut;
use crate::optimizer::AdamW;
use crate::options::TrainOptions;
use crate::{Error, Result};

const FORMAT: &str = "pear-checkpoint";

/// No checkpoint comes near this; a larger file is something else.
const MAX_BYTES: u64 = 256 << 20;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    format: String,
    version: u32,
    #[serde(flatten)]
    pub run: Run,
    #[serde(flatten)]
    pub state: State,
}

/// What identifies a run: it can only be resumed if all of this is the same.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Run {
    pub model: ModelShape,
    pub options: TrainOptions,
    pub heads: Vec<HeadId>,
    pub provenance: Provenance,
    /// Fingerprint of the plain text, where it is read.
    #[serde(default)]
    pub text: Option<String>,
}

/// How far it has come.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct State {
    /// The coefficients, in the precision that the optimizer works in.
    pub values: Vec<f64>,
    pub optimizer: AdamW,
    pub losses: Vec<f64>,
    /// The divergence before each step, where it is in the objective.
    #[serde(default)]
    pub kl: Vec<f64>,
    pub held_out: HeldOut,
    /// Seed that the sequences of the steps so far were drawn with, if they were.
    #[serde(default)]
    pub seed: Option<u64>,
}

impl State {
    pub(crate) fn new(heads: usize) -> Self {
        Self {
            values: vec![1.0; heads],
            optimizer: AdamW::new(heads),
            losses: Vec::new(),
            kl: Vec::new(),
            held_out: HeldOut::default(),
            seed: None,
        }
    }

    /// Whether a run of these heads and options can have come to it.
    fn fits(&self, run: &Run) -> bool {
        let (heads, steps) = (run.heads.len(), self.losses.len());
        // As f32, which is what the model sees of them.
        let finite = self.values.iter().all(|&value| (value as f32).is_finite());
        let divergences = if run.options.kl_weight > 0.0 {
            steps
        } else {
            0
        };
        let whole = self.values.len() == heads
            && self.optimizer.fits(heads, steps)
            && self.held_out.fits(heads, steps)
            && self.kl.len() == divergences;
        finite && whole && steps <= run.options.steps
    }
}

impl Run {
    /// What of another run is not as in this one, for people to read.
    fn differences(&self, other: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        if self.heads != other.heads {
            differences.push("other heads".into());
        }
        let options = [&self.options, &other.options].map(|options| serde_json::json!(options));
        for (option, value) in options[0]
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(name, value)| options[1][*name] != **value)
        {
            differences.push(format!(
                "`{option}` was {value} and is {}",
                options[1][option]
            ));
        }
        let (weights, tokenizer) = (
            other.provenance.weights.as_deref(),
            other.provenance.tokenizer.as_deref(),
        );
        let files = self.provenance.mismatches(weights, tokenizer);
        differences.extend(files.into_iter().map(|name| format!("other {name}")));
        if self.provenance.dtype != other.provenance.dtype {
            let name = |dtype: &Option<String>| dtype.clone().unwrap_or_else(|| "not known".into());
            let [was, is] =
                [&self.provenance, &other.provenance].map(|provenance| name(&provenance.dtype));
            differences.push(format!("the dtype was {was} and is {is}"));
        }
        if self.provenance.sequences != other.provenance.sequences {
            differences.push("other proxy sequences".into());
        }
        if self.text != other.text {
            differences.push("other plain text".into());
        }
        differences
    }
}

impl Checkpoint {
    pub(crate) fn new(run: Run, state: State) -> Self {
        Self {
            format: FORMAT.into(),
            version: 1,
            run,
            state,
        }
    }

    /// Loads the saved state of `run`.
    pub(crate) fn read(path: &Path, run: &Run) -> Result<State> {
        let fail = |problem: String| {
            Err(Error::Checkpoint {
                path: path.into(),
                problem,
            })
        };
        let size = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        if size > MAX_BYTES {
            return fail(format!("{size} bytes: not a checkpoint"));
        }
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(e) => return fail(format!("cannot read: {e}")),
        };
        let checkpoint: Self = match serde_json::from_slice(&text) {
            Ok(checkpoint) => checkpoint,
            Err(e) => return fail(format!("not a checkpoint: {e}")),
        };
        if checkpoint.format != FORMAT || checkpoint.version != 1 {
            return fail(format!(
                "`{}` version {}: expected {FORMAT} version 1",
                checkpoint.format, checkpoint.version
            ));
        }
        let Self {
            run: saved, state, ..
        } = checkpoint;
        if saved.model != run.model {
            return fail(format!(
                "made for {}, but the model is {}",
                saved.model, run.model
            ));
        }
        let differences = saved.differences(run);
        if !differences.is_empty() {
            return fail(format!(
                "the checkpoint of another run: {}",
                differences.join(", ")
            ));
        }
        if !state.fits(run) {
            return fail("its numbers do not fit its heads and options".into());
        }
        Ok(state)
    }
}
