//! Trains a small decoder of the [tiny world](crate::tiny_world) from scratch.
//!
//! Training has three phases: repeated random spans, until the model copies from its context; then facts, documents and text, where
//! answers always follow the documents; last, answers that follow either the documents or memory, so that the model hedges between the
//! two.
//!
//! Copying takes two layers of attention that work together. Either this circuit is [written](induction) into the initial weights by
//! hand and then trained, in a few hundred steps; or the weights are random and the model finds the circuit by itself, in some thousand
//! steps. For that the spans are made of few different words at first and of more and more later, and only then get long.

mod induction;
mod initial;
mod positions;
mod stages;
mod state;
mod train_state;

use std::path::Path;

use anyhow::{Result, bail};
use burn::module::Module;
use burn::prelude::*;
use clap::ValueEnum;
use pear_core::files::write_json;
use pear_models::{Decoder, DecoderConfig};
use serde::{Deserialize, Serialize};

pub use positions::PositionKind;
pub use state::StateFolder;

use crate::cli::Dtype;
use crate::random::Random;
use crate::tiny_world::{SPECIAL_TOKENS, World};
use initial::InitialWeights;
use stages::{Stage, stages};
use train_state::{TrainState, mean_loss};

/// How a model is trained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pretraining {
    /// The position embedding.
    pub positions: PositionKind,
    /// Where the ability to copy comes from.
    pub circuit: Circuit,
    /// Steps on repeated random spans.
    pub copying_steps: usize,
    /// Steps in which answers follow the documents.
    pub clean_steps: usize,
    /// Steps in which answers follow the documents or memory.
    pub hedging_steps: usize,
    /// Seed of the initial weights and of the training data; the world is the same for all seeds.
    pub seed: u64,
}

/// Where a model's ability to copy comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Circuit {
    /// A circuit written into the initial weights by hand, then trained; for rotary positions
    Seeded,
    /// Training from random weights
    Learned,
}

impl Pretraining {
    /// The default recipe, with as many steps as each phase takes.
    pub fn new(positions: PositionKind, circuit: Circuit, seed: u64) -> Self {
        let (copying_steps, clean_steps) = match circuit {
            Circuit::Seeded => (300, 850),
            Circuit::Learned => (4800, 1700),
        };
        Self {
            positions,
            circuit,
            copying_steps,
            clean_steps,
            hedging_steps: 250,
            seed,
        }
    }

    /// Number of steps in all.
    pub fn steps(&self) -> usize {
        self.copying_steps + self.clean_steps + self.hedging_steps
    }

    /// Trains the model; `progress` gets the number of steps done and the loss. The result is without autodiff.
    ///
    /// With a folder, the state is saved there at intervals, and a state found there is resumed: the result is bit for bit that of an
    /// uninterrupted run.
    ///
    /// # Errors
    /// A folder that cannot be written to, or that holds the state of another run.
    pub fn run(
        &self,
        world: &World,
        device: &Device,
        folder: Option<&StateFolder>,
        mut progress: impl FnMut(usize, f64),
    ) -> Result<Decoder> {
        let stages = stages(self);
        let mut state = TrainState::new(self.initial_model(device)?, stages[0].weight_decay);
        let mut done = 0;
        let saved = match folder {
            Some(folder) => folder.find(self)?,
            None => None,
        };
        if let Some((steps, saved)) = saved {
            state = TrainState::new(state.model.valid(), weight_decay_at(&stages, steps));
            state = state.load(&saved)?;
            done = steps;
        }
        let mut start = 0;
        for (index, stage) in stages.iter().enumerate() {
            for step in done.saturating_sub(start)..stage.steps {
                // The optimizer starts anew where its weight decay changes.
                if step == 0 && index > 0 && stage.weight_decay != stages[index - 1].weight_decay {
                    state = TrainState::new(state.model.valid(), stage.weight_decay);
                }
                // A random stream for each step, so that a resumed run need not draw what was drawn before.
                let mut random = Random::new(self.seed, (index as u64 + 1) << 32 | step as u64);
                let batch = stage.batch(step, world, self.seed, &mut random);
                let loss = state.step(stage.learning_rate(step), |model| {
                    mean_loss(model, &batch, device)
                })?;
                done = start + step + 1;
                progress(done, loss);
                if let Some(folder) = folder.filter(|folder| folder.is_due(done)) {
                    folder.save(self, done, |path| state.save(path))?;
                }
            }
            start += stage.steps;
        }
        Ok(state.model.valid())
    }

    fn initial_model(&self, device: &Device) -> Result<Decoder> {
        let config = DecoderConfig::from_json(&self.positions.config_json("float32"))?;
        let mut weights = InitialWeights::new(&config, self.seed, device);
        if self.circuit == Circuit::Seeded {
            if self.positions != PositionKind::Rope {
                bail!(
                    "a copying circuit can be written into weights by hand only where positions are rotary"
                );
            }
            weights.seed_circuit(&config);
        }
        Ok(config.init(device)?.map(&mut weights))
    }
}

/// The weight decay of the optimizer that took the last of `steps` steps.
fn weight_decay_at(stages: &[Stage], steps: usize) -> f32 {
    let mut end = 0;
    for stage in stages {
        end += stage.steps;
        if steps <= end {
            return stage.weight_decay;
        }
    }
    0.0
}

/// Writes a model and its tokenizer as a Hugging Face model directory, the weights rounded to `dtype`.
///
/// # Errors
/// A directory that cannot be written to.
pub fn save(
    model: &Decoder,
    positions: PositionKind,
    world: &World,
    dtype: Dtype,
    directory: &Path,
) -> Result<()> {
    model.save(
        &positions.config_json(dtype.torch_name()),
        dtype.into(),
        directory,
    )?;
    let word = |id: u32| world.words()[id as usize];
    let [pad, bos, eos] = SPECIAL_TOKENS;
    let names = serde_json::json!({
        "tokenizer_class": "PreTrainedTokenizerFast", "pad_token": word(pad), "bos_token": word(bos), "eos_token": word(eos),
        "clean_up_tokenization_spaces": false,
    });
    let generation =
        serde_json::json!({"pad_token_id": pad, "bos_token_id": bos, "eos_token_id": eos});
    write_json(&directory.join("tokenizer.json"), &world.tokenizer_json())?;
    write_json(&directory.join("tokenizer_config.json"), &names)?;
    write_json(&directory.join("generation_config.json"), &generation)?;
    Ok(())
}
