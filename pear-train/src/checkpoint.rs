//! Everything needed to go on with a training run.

use std::path::Path;

use pear_core::{HeadId, ModelShape};
use serde::{Deserialize, Serialize};

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
    model: ModelShape,
    options: TrainOptions,
    heads: Vec<HeadId>,
    pub values: Vec<f64>,
    pub optimizer: AdamW,
    pub losses: Vec<f64>,
}

impl Checkpoint {
    pub(crate) fn new(
        model: ModelShape, options: TrainOptions, heads: Vec<HeadId>, values: Vec<f64>, optimizer: AdamW, losses: Vec<f64>,
    ) -> Self {
        Self { format: FORMAT.into(), version: 1, model, options, heads, values, optimizer, losses }
    }

    pub(crate) fn read(path: &Path, model: &ModelShape, options: &TrainOptions, heads: &[HeadId]) -> Result<Self> {
        let fail = |problem: String| Err(Error::Checkpoint { path: path.into(), problem });
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
            return fail(format!("`{}` version {}: expected {FORMAT} version 1", checkpoint.format, checkpoint.version));
        }
        if checkpoint.model != *model {
            return fail(format!("made for {}, but the model is {model}", checkpoint.model));
        }
        if checkpoint.heads != heads {
            return fail("made for other heads".into());
        }
        if checkpoint.options != *options {
            return fail(format!("made with other options: {:?}, now {options:?}", checkpoint.options));
        }
        // As f32, which is what the model sees of them.
        let finite = checkpoint.values.iter().all(|&value| (value as f32).is_finite());
        let whole = checkpoint.values.len() == heads.len() && checkpoint.optimizer.fits(heads.len(), checkpoint.losses.len());
        if !whole || !finite || checkpoint.losses.len() > options.steps {
            return fail("its numbers do not fit its heads and options".into());
        }
        Ok(checkpoint)
    }
}
