//! A decoder small enough to be trained on the spot, and good enough at copying to be worth improving.
//!
//! Copying what stood before takes two layers of attention working together, a circuit that a small model needs many thousand
//! steps to find. Here it is [seeded](induction) by hand in the initial weights; a few hundred steps of training on random tokens
//! in a loop then make it work.

mod checkpoint;
mod induction;

use std::ops::RangeInclusive;

use burn::grad_clipping::GradientClippingConfig;
use burn::module::Module;
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::prelude::*;
use burn::tensor::activation::log_softmax;
use pear_core::forward::{residual, token_tensor};
use pear_core::position::{PositionEmbeddingConfig, RotaryConfig};
use pear_core::{DecoderModel, NoEdit};
use pear_models::{Decoder, DecoderConfig};

pub use checkpoint::{save, save_tokenizer};

use crate::random::Random;
use crate::tiny_world::{Corpus, Item, SPECIAL_TOKENS, Stage, VOCABULARY, World};

/// Base of the rotary positions: high, so that the short heads of this model still match tokens far apart.
const ROPE_THETA: f64 = 1e6;

/// 4 layers of 8 heads, 490,000 parameters: Llama's architecture with the embedding for unembedding.
pub fn tiny_llama() -> DecoderConfig {
    let mut config = DecoderConfig::llama(VOCABULARY, 96, 256, 4, 8);
    let rotary = RotaryConfig::new(config.attention.head_dim, ROPE_THETA);
    config.attention.position_embedding = PositionEmbeddingConfig::Rotary(rotary);
    config.tie_word_embeddings = true;
    config.special_tokens = SPECIAL_TOKENS.to_vec();
    (config.bos_token, config.eos_tokens) = (Some(1), vec![2]);
    config
}

/// How the model is trained: next-token prediction on random spans, each repeated until its row is full.
#[derive(Clone, Debug)]
pub struct Pretraining {
    /// Optimizer steps.
    pub steps: usize,
    /// Rows a step.
    pub rows: usize,
    /// Tokens a row.
    pub row_len: usize,
    /// Tokens in a span, drawn anew each step.
    pub span: RangeInclusive<usize>,
    /// Learning rate after the warm-up.
    pub learning_rate: f64,
    /// Steps over which the learning rate rises.
    pub warmup_steps: usize,
    /// Of the initial weights and of the data.
    pub seed: u64,
}

impl Default for Pretraining {
    fn default() -> Self {
        Self { steps: 150, rows: 16, row_len: 64, span: 3..=30, learning_rate: 3e-3, warmup_steps: 50, seed: 0 }
    }
}

impl Pretraining {
    /// Makes the model and trains it; `progress` gets the number of steps taken and the loss. The result is on the plain side of
    /// `device`.
    ///
    /// # Errors
    /// A `config` that cannot be.
    pub fn run(
        &self, config: &DecoderConfig, device: &Device, mut progress: impl FnMut(usize, f64),
    ) -> pear_core::Result<Decoder> {
        let mut pupil = Pupil::new(induction::seeded(config, ROPE_THETA, self.seed, device)?, WEIGHT_DECAY);
        self.teach(&mut pupil, config, device, &mut progress);
        Ok(pupil.model.valid())
    }

    fn teach(&self, pupil: &mut Pupil, config: &DecoderConfig, device: &Device, progress: &mut impl FnMut(usize, f64)) {
        let mut random = Random::new(self.seed, 1);
        for step in 0..self.steps {
            let (rows, span) = self.batch(config, &mut random);
            let warmup = ((step + 1) as f64 / self.warmup_steps as f64).min(1.0);
            let loss = pupil.step(self.learning_rate * warmup, |model| loss(model, &rows, span, device));
            progress(step + 1, loss);
        }
    }

    /// Rows of `row_len + 1` tokens, and the length of the span that they repeat.
    fn batch(&self, config: &DecoderConfig, random: &mut Random) -> (Vec<Vec<u32>>, usize) {
        let first_word = config.special_tokens.len();
        let words = config.vocab_size - first_word;
        let span = random.between(*self.span.start(), *self.span.end());
        let rows = (0..self.rows).map(|_| {
            let tokens: Vec<u32> = (0..span).map(|_| (first_word + random.below(words)) as u32).collect();
            tokens.into_iter().cycle().take(self.row_len + 1).collect()
        });
        (rows.collect(), span)
    }
}

/// Mean cross-entropy of all tokens that repeat one `span` tokens before.
fn loss(model: &Decoder, rows: &[Vec<u32>], span: usize, device: &Device) -> Tensor<1> {
    let len = rows[0].len() - 1;
    let inputs: Vec<&[u32]> = rows.iter().map(|row| &row[..len]).collect();
    let labels: Vec<&[u32]> = rows.iter().map(|row| &row[span..]).collect();
    let known = len + 1 - span;
    let hidden = residual(model, token_tensor(&inputs, device), &mut NoEdit).narrow(1, span - 1, known);
    let log_probs = log_softmax(model.logits(hidden), 2);
    log_probs.gather(2, token_tensor(&labels, device).unsqueeze_dim(2)).mean().neg()
}

/// Weight decay of all weights while the model learns to copy and to know.
const WEIGHT_DECAY: f64 = 0.05;

/// A model in training, with its optimizer.
struct Pupil {
    model: Decoder,
    optimizer: ModuleOptimizer,
}

impl Pupil {
    fn new(model: Decoder, weight_decay: f64) -> Self {
        let optimizer = AdamWConfig::new()
            .with_beta_2(0.98)
            .with_epsilon(1e-8)
            .with_weight_decay(weight_decay as f32)
            .with_grad_clipping(Some(GradientClippingConfig::Norm(1.0)))
            .init();
        Self { model: model.train(), optimizer }
    }

    /// One step down `loss`, whose value is returned.
    fn step(&mut self, learning_rate: f64, loss: impl FnOnce(&Decoder) -> Tensor<1>) -> f64 {
        let loss = loss(&self.model);
        let value = loss.clone().into_scalar::<f32>();
        let gradients = GradientsParams::from_grads(loss.backward(), &self.model);
        self.model = self.optimizer.step(learning_rate, self.model.clone(), gradients);
        f64::from(value)
    }
}

/// Training in the tiny world: first copying, then all that the world holds, then hedging between memory and documents.
#[derive(Clone, Debug)]
pub struct TinyWorldTraining {
    /// Steps of looped random spans.
    pub copying_steps: usize,
    /// Steps with answers that always come from the documents.
    pub clean_steps: usize,
    /// Steps with answers that come from either.
    pub hedging_steps: usize,
    /// Of the initial weights and of the data; the world is the same for all.
    pub seed: u64,
}

impl Default for TinyWorldTraining {
    fn default() -> Self {
        Self { copying_steps: 300, clean_steps: 850, hedging_steps: 250, seed: 0 }
    }
}

impl TinyWorldTraining {
    /// Rows of the corpus in a step, and tokens in each.
    const BATCH: (usize, usize) = (16, 96);

    /// Steps in all.
    pub fn steps(&self) -> usize {
        self.copying_steps + self.clean_steps + self.hedging_steps
    }

    /// Makes the model and trains it; `progress` gets the number of steps taken and the loss. The result is on the plain side of
    /// `device`.
    ///
    /// # Errors
    /// A device that cannot hold the model.
    pub fn run(&self, world: &World, device: &Device, mut progress: impl FnMut(usize, f64)) -> pear_core::Result<Decoder> {
        let config = tiny_llama();
        let copying = Pretraining {
            steps: self.copying_steps,
            rows: 32,
            row_len: 32,
            span: 3..=14,
            seed: self.seed,
            ..Pretraining::default()
        };
        let mut pupil = Pupil::new(induction::seeded(&config, ROPE_THETA, self.seed, device)?, WEIGHT_DECAY);
        copying.teach(&mut pupil, &config, device, &mut progress);

        let mut corpus = Corpus::new(world, Stage::clean(), Random::new(self.seed, 2));
        for step in 0..self.clean_steps {
            let left = 0.5 * (1.0 + (std::f64::consts::PI * share_done(step, 30, self.clean_steps)).cos());
            let rate = 3e-3 * rise(step, 30) * (0.03 + 0.97 * left);
            progress(self.copying_steps + step + 1, pupil.step(rate, |model| corpus_loss(model, &batch(&mut corpus), device)));
        }

        let mut pupil = Pupil::new(pupil.model.valid(), 0.0);
        let mut corpus = Corpus::new(world, Stage::hedging(), Random::new(self.seed, 3));
        for step in 0..self.hedging_steps {
            let left = 1.0 - share_done(step, 20, self.hedging_steps);
            let rate = 1e-3 * rise(step, 20) * (0.05 + 0.95 * left);
            let loss = pupil.step(rate, |model| corpus_loss(model, &batch(&mut corpus), device));
            progress(self.copying_steps + self.clean_steps + step + 1, loss);
        }
        Ok(pupil.model.valid())
    }
}

/// The factor of the learning rate that rises to 1.
fn rise(step: usize, warmup: usize) -> f64 {
    ((step + 1) as f64 / warmup as f64).min(1.0)
}

/// How much of what follows the warm-up is over, of 1.
fn share_done(step: usize, warmup: usize, steps: usize) -> f64 {
    step.saturating_sub(warmup) as f64 / steps.saturating_sub(warmup).max(1) as f64
}

fn batch(corpus: &mut Corpus) -> Vec<Item> {
    let (rows, len) = TinyWorldTraining::BATCH;
    (0..rows).map(|_| corpus.row(len + 1)).collect()
}

/// Mean cross-entropy of the next token, each as heavy as its item says.
fn corpus_loss(model: &Decoder, rows: &[Item], device: &Device) -> Tensor<1> {
    let (batch, len) = (rows.len(), rows[0].len() - 1);
    let tokens: Vec<Vec<u32>> = rows.iter().map(|row| row.iter().map(|(token, _)| *token).collect()).collect();
    let inputs: Vec<&[u32]> = tokens.iter().map(|row| &row[..len]).collect();
    let labels: Vec<&[u32]> = tokens.iter().map(|row| &row[1..]).collect();
    let weights: Vec<f32> = rows.iter().flat_map(|row| row[1..].iter().map(|(_, weight)| *weight)).collect();
    let total: f32 = weights.iter().sum();
    let weights = Tensor::<3>::from_data(TensorData::new(weights, [batch, len, 1]), device);
    let log_probs = log_softmax(model.logits(residual(model, token_tensor(&inputs, device), &mut NoEdit)), 2);
    let wanted = log_probs.gather(2, token_tensor(&labels, device).unsqueeze_dim(2));
    (wanted * weights).sum().div_scalar(-total)
}
