//! A small decoder of the [tiny world](crate::tiny_world), trained from scratch.
//!
//! First random spans in a loop, until the model copies what stood before; then facts, documents and text, where answers always come
//! from the documents; at last answers that come from the documents or from memory, so that the model hedges between the two.
//!
//! Copying takes two layers of attention working together. Either this circuit is [put](induction) into the initial weights by hand and
//! then trained, a matter of a few hundred steps; or the weights are random, and the model finds it by itself, which takes some
//! thousand steps: it does if the spans are of few different words at first, of more and more later, and only then get long.

mod induction;
mod positions;
mod state;

use std::collections::BTreeMap;
use std::f64::consts::PI;
use std::ops::RangeInclusive;
use std::path::Path;

use anyhow::{Result, bail};
use burn::grad_clipping::GradientClippingConfig;
use burn::module::{Module, ModuleMapper, Param};
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::prelude::*;
use burn::tensor::DType;
use burn::tensor::activation::log_softmax;
use clap::ValueEnum;
use pear_core::NoEdit;
use pear_core::files::write_json;
use pear_core::forward::{token_tensor, training_logits};
use pear_models::{Decoder, DecoderConfig};
use serde::{Deserialize, Serialize};

pub use positions::PositionKind;
pub use state::StateFolder;

use crate::random::Random;
use crate::tiny_world::{Corpus, CorpusOptions, Item, SPECIAL_TOKENS, VOCABULARY, World};

/// How the model is trained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pretraining {
    /// What tells the model where a token stands.
    pub positions: PositionKind,
    /// Where its copying comes from.
    pub circuit: Circuit,
    /// Steps of looped random spans.
    pub copying_steps: usize,
    /// Steps with answers that always come from the documents.
    pub clean_steps: usize,
    /// Steps with answers that come from either.
    pub hedging_steps: usize,
    /// Of the initial weights and of the data; the world is the same for all.
    pub seed: u64,
}

/// Where a model's ability to copy comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Circuit {
    /// Put into the initial weights by hand, and then trained; for rotary positions.
    Seeded,
    /// Learned from random weights.
    Learned,
}

impl Pretraining {
    /// The recipe: as many steps as it takes.
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

    /// Steps in all.
    pub fn steps(&self) -> usize {
        self.copying_steps + self.clean_steps + self.hedging_steps
    }

    /// Makes the model and trains it; `progress` gets the number of steps taken and the loss. The result is on the plain side of
    /// `device`. With a folder, the state goes there now and then, and a state that is there is gone on with: bit for bit as if there
    /// had been no interruption.
    ///
    /// # Errors
    /// A folder that cannot be written to, or that holds the state of another training.
    pub fn run(
        &self,
        world: &World,
        device: &Device,
        folder: Option<&StateFolder>,
        mut progress: impl FnMut(usize, f64),
    ) -> Result<Decoder> {
        let config = DecoderConfig::from_json(&self.positions.config_json("float32"))?;
        let stages = self.stages();
        let mut initial = Initial::new(&config, self.seed, device);
        if self.circuit == Circuit::Seeded {
            if self.positions != PositionKind::Rope {
                bail!(
                    "a copying circuit can be put into weights by hand only where positions are rotary"
                );
            }
            initial.seed_circuit(&config);
        }
        let mut pupil = Pupil::new(
            config.init(device)?.map(&mut initial),
            stages[0].weight_decay,
        );
        let mut done = 0;
        if let Some((steps, saved)) = folder
            .map(|folder| folder.find(self))
            .transpose()?
            .flatten()
        {
            // The optimizer of the last step that was taken.
            let mut ends = stages.iter().scan(0, |end, stage| {
                *end += stage.steps;
                Some((*end, stage.weight_decay))
            });
            let weight_decay = ends
                .find(|(end, _)| steps <= *end)
                .map_or(0.0, |(_, weight_decay)| weight_decay);
            (pupil, done) = (
                Pupil::new(pupil.model.valid(), weight_decay).load(&saved)?,
                steps,
            );
        }
        let mut start = 0;
        for (index, stage) in stages.iter().enumerate() {
            for step in done.saturating_sub(start)..stage.steps {
                if step == 0 && index > 0 && stage.weight_decay != stages[index - 1].weight_decay {
                    pupil = Pupil::new(pupil.model.valid(), stage.weight_decay);
                }
                // A stream for each step, so that an interrupted training need not draw again what it had.
                let mut random = Random::new(self.seed, (index as u64 + 1) << 32 | step as u64);
                let batch = stage.batch(step, world, self.seed, &mut random);
                let loss = pupil.step(stage.learning_rate(step), |model| {
                    mean_loss(model, &batch, device)
                })?;
                done = start + step + 1;
                progress(done, loss);
                if let Some(folder) = folder.filter(|folder| folder.is_due(done)) {
                    folder.save(self, done, |path| pupil.save(path))?;
                }
            }
            start += stage.steps;
        }
        Ok(pupil.model.valid())
    }

    /// From random weights copying is learned in three stages: a third, a quarter and the rest of its steps.
    fn stages(&self) -> Vec<Stage> {
        let (few, short) = (self.copying_steps / 3, self.copying_steps / 4);
        let copying = |steps, rows, spans, from| Stage {
            steps,
            rows,
            lesson: Lesson::Loops { spans, from },
            rate: 3e-3,
            warmup_steps: 0,
            fall: |_| 1.0,
            weight_decay: 0.05,
        };
        let world = |steps, options, rate, warmup_steps, fall, weight_decay| Stage {
            steps,
            rows: (16, 96),
            lesson: Lesson::World(options),
            rate,
            warmup_steps,
            fall,
            weight_decay,
        };
        let mut stages = match self.circuit {
            Circuit::Seeded => vec![Stage {
                warmup_steps: 50,
                ..copying(self.copying_steps, (32, 32), 3..=14, WORDS)
            }],
            Circuit::Learned => vec![
                Stage {
                    warmup_steps: 100,
                    ..copying(few, (32, 32), 3..=14, FEW_WORDS)
                },
                copying(short, (32, 48), 3..=22, WORDS),
                Stage {
                    rate: 2e-3,
                    fall: |done| if done < 0.75 { 1.0 } else { 0.35 },
                    ..copying(self.copying_steps - few - short, (16, 112), 3..=54, WORDS)
                },
            ],
        };
        stages.extend([
            world(
                self.clean_steps,
                CorpusOptions::clean(),
                3e-3,
                30,
                |done| 0.03 + 0.97 * 0.5 * (1.0 + (PI * done).cos()),
                0.05,
            ),
            world(
                self.hedging_steps,
                CorpusOptions::hedging(),
                1e-3,
                20,
                |done| 0.05 + 0.95 * (1.0 - done),
                0.0,
            ),
        ]);
        stages
    }
}

/// Words that are not special.
const WORDS: usize = VOCABULARY - SPECIAL_TOKENS.len();
/// Words that spans are made of at first.
const FEW_WORDS: usize = 24;

/// Steps of one kind.
struct Stage {
    steps: usize,
    /// Rows a step, and tokens that are read in each.
    rows: (usize, usize),
    lesson: Lesson,
    /// The highest learning rate.
    rate: f64,
    warmup_steps: usize,
    /// What is left of it when a share of the steps after the warm-up is done.
    fall: fn(f64) -> f64,
    /// Of all weights.
    weight_decay: f32,
}

enum Lesson {
    /// Random spans of so many tokens, the same number in all rows, each repeated until its row is full; of `from` words at first, and
    /// of all at the end of the stage.
    Loops {
        spans: RangeInclusive<usize>,
        from: usize,
    },
    World(CorpusOptions),
}

impl Stage {
    fn learning_rate(&self, step: usize) -> f64 {
        let rise = ((step + 1) as f64 / self.warmup_steps.max(1) as f64).min(1.0);
        let after = self.steps.saturating_sub(self.warmup_steps).max(1);
        self.rate * rise * (self.fall)(step.saturating_sub(self.warmup_steps) as f64 / after as f64)
    }

    /// Rows of one token more than are read.
    fn batch(&self, step: usize, world: &World, seed: u64, random: &mut Random) -> Vec<Item> {
        let (count, len) = self.rows;
        match &self.lesson {
            Lesson::Loops { spans, from } => {
                let known = from + (WORDS - from) * step / self.steps;
                // Always the same order.
                let words = Random::new(seed, 1)
                    .sample(SPECIAL_TOKENS.len() as u32..VOCABULARY as u32, WORDS);
                let span = random.between(*spans.start(), *spans.end());
                (0..count)
                    .map(|_| looped(&words[..known], span, len + 1, random))
                    .collect()
            }
            Lesson::World(options) => {
                let mut corpus = Corpus::new(world, options, random);
                (0..count).map(|_| corpus.row(len + 1)).collect()
            }
        }
    }
}

/// `span` random words over and over; the first time they cannot be foreseen, and weigh nothing.
fn looped(words: &[u32], span: usize, len: usize, random: &mut Random) -> Item {
    let words: Vec<u32> = (0..span).map(|_| random.choose(words)).collect();
    let weight = |place: usize| if place < span { 0.0 } else { 1.0 };
    words
        .into_iter()
        .cycle()
        .take(len)
        .enumerate()
        .map(|(place, word)| (word, weight(place)))
        .collect()
}

/// Mean cross-entropy of the next token, each as heavy as its row says.
fn mean_loss(model: &Decoder, rows: &[Item], device: &Device) -> pear_core::Result<Tensor<1>> {
    let len = rows[0].len() - 1;
    let tokens = |from: usize| -> Vec<Vec<u32>> {
        rows.iter()
            .map(|row| {
                row[from..from + len]
                    .iter()
                    .map(|(token, _)| *token)
                    .collect()
            })
            .collect()
    };
    let weights: Vec<f32> = rows
        .iter()
        .flat_map(|row| row[1..].iter().map(|(_, weight)| *weight))
        .collect();
    let total: f32 = weights.iter().sum();
    let weights = Tensor::<3>::from_data(TensorData::new(weights, [rows.len(), len, 1]), device);
    let logits = training_logits(model, token_tensor(&tokens(0), device), &mut NoEdit)?;
    let log_probs = log_softmax(logits, 2);
    let wanted = log_probs.gather(2, token_tensor(&tokens(1), device).unsqueeze_dim(2));
    Ok((wanted * weights).sum().div_scalar(-total))
}

/// Writes a model and its tokenizer as a Hugging Face model directory, the weights rounded to `dtype`.
///
/// # Errors
/// Whatever the file system says.
pub fn save(
    model: &Decoder,
    positions: PositionKind,
    world: &World,
    dtype: crate::cli::Dtype,
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
    Ok(write_json(
        &directory.join("generation_config.json"),
        &generation,
    )?)
}

/// Random weights, the same on every machine: normal, outputs into the residual stream smaller; biases zero, norms ones.
struct Initial<'a> {
    random: Random,
    /// Matrices that are given, by path.
    given: BTreeMap<String, Vec<f32>>,
    /// What outputs into the residual stream are scaled by.
    output_scale: f64,
    width: usize,
    device: &'a Device,
    path: Vec<String>,
}

impl<'a> Initial<'a> {
    fn new(config: &DecoderConfig, seed: u64, device: &'a Device) -> Self {
        let output_scale = 0.5 / (config.num_hidden_layers as f64).sqrt();
        let (random, given, width) = (Random::new(seed, 0), BTreeMap::new(), config.hidden_size());
        Self {
            random,
            given,
            output_scale,
            width,
            device,
            path: Vec::new(),
        }
    }

    /// Puts the copying circuit into layers 0 and 1; everything else is to be quiet.
    fn seed_circuit(&mut self, config: &DecoderConfig) {
        self.given = induction::circuit(config, positions::ROPE_THETA, &mut self.random);
        self.output_scale *= 0.1;
    }
}

impl ModuleMapper for Initial<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (path, shape) = (self.path.join("."), param.lazy_shape().to_vec());
        let count = shape.iter().product();
        let values = if path.ends_with(".bias") {
            vec![0.0; count]
        } else if D == 1 {
            vec![1.0; count]
        } else if let Some(given) = self.given.remove(&path) {
            given
        } else {
            let into_residual =
                path.ends_with("o_proj.weight") || path.ends_with("down_proj.weight");
            let scale = if into_residual {
                self.output_scale
            } else {
                1.0
            };
            self.random
                .normal(count, scale / (self.width as f64).sqrt())
        };
        Param::from_tensor(Tensor::from_data(
            TensorData::new(values, shape),
            (self.device, DType::F32),
        ))
    }
}

/// A model in training, with its optimizer.
struct Pupil {
    model: Decoder,
    optimizer: ModuleOptimizer,
}

impl Pupil {
    fn new(model: Decoder, weight_decay: f32) -> Self {
        let optimizer = AdamWConfig::new()
            .with_beta_2(0.98)
            .with_epsilon(1e-8)
            .with_weight_decay(weight_decay)
            .with_grad_clipping(Some(GradientClippingConfig::Norm(1.0)))
            .init();
        Self {
            model: model.train(),
            optimizer,
        }
    }

    /// One step down `loss`, whose value is returned.
    fn step(
        &mut self,
        learning_rate: f64,
        loss: impl FnOnce(&Decoder) -> pear_core::Result<Tensor<1>>,
    ) -> pear_core::Result<f64> {
        let loss = loss(&self.model)?;
        let value = loss.clone().into_scalar::<f32>();
        let gradients = GradientsParams::from_grads(loss.backward(), &self.model);
        self.model = self
            .optimizer
            .step(learning_rate, self.model.clone(), gradients);
        Ok(f64::from(value))
    }

    fn save(&self, folder: &Path) -> Result<()> {
        self.model.clone().save_file(folder.join("model.bpk"))?;
        self.optimizer.save(folder.join("optimizer.bpk"))?;
        Ok(())
    }

    fn load(self, folder: &Path) -> Result<Self> {
        let model = self.model.load_file(folder.join("model.bpk"));
        Ok(Self {
            model,
            optimizer: self.optimizer.load(folder.join("optimizer.bpk"))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_take_all_steps_and_learning_rates_rise_and_fall() {
        let training = Pretraining::new(PositionKind::Alibi, Circuit::Learned, 0);
        let stages = training.stages();
        assert_eq!(
            stages.iter().map(|stage| stage.steps).sum::<usize>(),
            training.steps()
        );
        let rates = |stage: &Stage| {
            [0, stage.warmup_steps.max(1) - 1, stage.steps - 1]
                .map(|step| stage.learning_rate(step))
        };
        let expected = [
            [3e-5, 3e-3, 3e-3],
            [3e-3; 3],
            [2e-3, 2e-3, 7e-4],
            [1e-4, 3e-3, 9e-5],
            [5e-5, 1e-3, 5.4e-5],
        ];
        for (stage, right) in stages.iter().zip(expected) {
            let found = rates(stage);
            assert!(
                found
                    .iter()
                    .zip(right)
                    .all(|(a, b)| (a / b - 1.0).abs() < 0.03),
                "{found:?}, expected {right:?}"
            );
        }
    }

    #[test]
    fn what_is_seen_for_the_first_time_weighs_nothing() {
        let row = looped(&[5, 6, 7], 3, 8, &mut Random::new(0, 0));
        assert_eq!(
            row.iter().map(|(_, weight)| *weight).collect::<Vec<_>>(),
            [0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0]
        );
        assert!(
            (3..8).all(|i| row[i].0 == row[i - 3].0)
                && row.iter().all(|(word, _)| (5..8).contains(word))
        );
    }

    #[test]
    fn spans_are_of_few_words_at_first_and_of_all_in_the_end() {
        let (world, stage) = (
            World::new(0),
            &Pretraining::new(PositionKind::Alibi, Circuit::Learned, 0).stages()[0],
        );
        let different = |steps: std::ops::Range<usize>| {
            let rows = steps
                .flat_map(|step| stage.batch(step, &world, 0, &mut Random::new(0, step as u64)));
            rows.flatten()
                .map(|(word, _)| word)
                .collect::<std::collections::BTreeSet<u32>>()
                .len()
        };
        assert_eq!(different(0..3), FEW_WORDS);
        assert!(different(stage.steps - 100..stage.steps) > WORDS - 20);
    }
}
