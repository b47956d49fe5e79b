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
use burn::optim::{AdamWConfig, GradientsParams};
use burn::prelude::*;
use burn::tensor::activation::log_softmax;
use pear_core::forward::{residual, token_tensor};
use pear_core::position::{PositionEmbeddingConfig, RotaryConfig};
use pear_core::{DecoderModel, NoEdit};
use pear_models::{Decoder, DecoderConfig};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

pub use checkpoint::save;

/// Base of the rotary positions: high, so that the short heads of this model still match tokens far apart.
const ROPE_THETA: f64 = 1e6;

/// 4 layers of 8 heads, 490,000 parameters: Llama's architecture with the embedding for unembedding.
pub fn tiny_llama() -> DecoderConfig {
    let mut config = DecoderConfig::llama(488, 96, 256, 4, 8);
    let rotary = RotaryConfig::new(config.attention.head_dim, ROPE_THETA);
    config.attention.position_embedding = PositionEmbeddingConfig::Rotary(rotary);
    config.tie_word_embeddings = true;
    // Padding, BOS and EOS, as in every checkpoint; nothing here makes use of them.
    config.special_tokens = vec![0, 1, 2];
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
        let mut model = induction::seeded(config, ROPE_THETA, self.seed, device)?.train();
        let mut optimizer = AdamWConfig::new()
            .with_beta_2(0.98)
            .with_epsilon(1e-8)
            .with_weight_decay(0.05)
            .with_grad_clipping(Some(GradientClippingConfig::Norm(1.0)))
            .init();
        let mut random = Random::new(self.seed, 1);
        for step in 0..self.steps {
            let (rows, span) = self.batch(config, &mut random);
            let loss = loss(&model, &rows, span, device);
            let value = loss.clone().into_scalar::<f32>();
            let gradients = GradientsParams::from_grads(loss.backward(), &model);
            let warmup = ((step + 1) as f64 / self.warmup_steps as f64).min(1.0);
            model = optimizer.step(self.learning_rate * warmup, model, gradients);
            progress(step + 1, f64::from(value));
        }
        Ok(model.valid())
    }

    /// Rows of `row_len + 1` tokens, and the length of the span that they repeat.
    fn batch(&self, config: &DecoderConfig, random: &mut Random) -> (Vec<Vec<u32>>, usize) {
        let first_word = config.special_tokens.len();
        let words = config.vocab_size - first_word;
        let span = self.span.start() + random.below(self.span.end() - self.span.start() + 1);
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

/// Random numbers that are the same on every machine.
struct Random(ChaCha8Rng);

impl Random {
    fn new(seed: u64, stream: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream);
        Self(rng)
    }

    /// Uniform below `bound`.
    fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.0.next_u64()) * bound as u128) >> 64) as usize
    }

    /// Uniform between 0 and 1.
    fn uniform(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Normal numbers of mean 0 (Box–Muller).
    fn normal(&mut self, count: usize, deviation: f64) -> Vec<f32> {
        (0..count)
            .map(|_| {
                let (radius, turn) = (1.0 - self.uniform(), self.uniform());
                (deviation * (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * turn).cos()) as f32
            })
            .collect()
    }
}
