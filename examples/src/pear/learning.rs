//! Learning coefficients, in steps that are kept on disk.

use std::ops::ControlFlow;

use anyhow::Result;
use pear_core::{DecoderModel, HeadCoefficients, HeadId, ModelShape, ProxyTask};
use pear_models::Decoder;
use pear_models::evaluation::TextReference;
use pear_train::{
    PlainText, Sequences, TrainOptions, Trainer, fisher, gradient_scores, natural_step,
};

use super::journal::Journal;
use super::plain_text::divergence;
use super::report::Coefficient;
use crate::progress::Progress;

/// Steps of learning.
pub const STEPS: usize = 40;
/// Tokens of the sequences of a step.
const TOKENS_A_STEP: usize = 800;
/// Sequences of a step.
const BATCH: std::ops::RangeInclusive<usize> = 4..=20;
const LEARNING_RATE: f64 = 0.02;
/// Price of a nat of divergence where all heads are learned: without one they make a model copy where it should not.
pub const KL_WEIGHT: f64 = 20.0;
/// Pieces of plain text in a step, where it has a price.
pub const TEXT_BATCH: usize = 4;
/// Sequences that the gradient at 1 is the mean of.
const GRADIENT_SEQUENCES: usize = 40;
/// Draws for each piece of text of which the Fisher information is the mean, the share of its diagonal that is added to it, and the
/// divergence of the step; it is corrected afterwards.
const FISHER_DRAWS: usize = 2;
const RIDGE: f64 = 0.3;
const STEP_KL: f64 = 0.03;
/// Index of the first of these sequences: no other step reaches it.
const NEVER_DRAWN: usize = 1 << 42;
/// Steps between two states on disk.
const SAVE_EVERY: usize = 5;
/// How often an interval is halved in the search for a budget, and how far below the budget is near enough.
const HALVINGS: usize = 6;
const NEAR: f64 = 0.93;
/// A learned coefficient is not followed further than this times its distance from 1.
const FURTHEST: f64 = 2.0;

/// Coefficients of a model's heads; heads that are not listed have 1.
pub type Coefficients = Vec<Coefficient>;

/// Sequences of a step at a length.
pub fn batch_size(n: usize) -> usize {
    (TOKENS_A_STEP / (2 * n)).clamp(*BATCH.start(), *BATCH.end())
}

/// What an unfinished run of learning keeps.
pub fn state_of(name: &str) -> String {
    format!("{name}-state")
}

/// What is learned from.
pub struct Learner<'a> {
    /// The unmodified model.
    pub model: &'a Decoder,
    /// The sequences.
    pub task: &'a ProxyTask,
    /// Number n of random tokens that are repeated.
    pub length: usize,
    /// Plain text on which predictions are to stay what they are.
    pub text: &'a [Vec<u32>],
    /// Seed of the order of its pieces, and of draws.
    pub seed: u64,
    /// Where the state is kept.
    pub journal: &'a Journal,
}

impl Learner<'_> {
    /// Learns a coefficient for each head, with a price `kl_weight` on a nat of divergence on the text. `name` is that of the state on disk,
    /// from which an interrupted run goes on.
    ///
    /// # Errors
    /// A loss that is not finite; a state that cannot be read or written.
    pub fn learn(&self, name: &str, heads: &[HeadId], kl_weight: f64) -> Result<Coefficients> {
        let options = TrainOptions {
            steps: STEPS,
            batch_size: batch_size(self.length),
            length: self.length,
            learning_rate: LEARNING_RATE,
            kl_weight,
            text_batch_size: TEXT_BATCH,
            ..TrainOptions::default()
        };
        let path = self.journal.path(&state_of(name));
        let mut trainer = Trainer::new(self.model, heads, options)?;
        if kl_weight > 0.0 {
            trainer = trainer.with_text(self.text()?)?;
        }
        if path.is_file() {
            trainer.restore(&path)?;
        }
        let mut bar = Progress::new("learning", STEPS as u64);
        let sequences = Sequences::Drawn(self.task.clone());
        trainer.run_with(&sequences, |trainer, step| -> Result<_> {
            let done = step.step + 1;
            bar.set(done as u64, format!("{name}, loss {:.3}", step.loss));
            if done.is_multiple_of(SAVE_EVERY) {
                trainer.save(&path)?;
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(listed(trainer.coefficients()))
    }

    /// Coefficients of all heads after one step from 1 that lowers the proxy loss most for what it costs on the text, to first order: the
    /// natural gradient.
    ///
    /// # Errors
    /// Gradients that are not finite or all 0.
    pub fn natural(&self) -> Result<Coefficients> {
        let heads: Vec<HeadId> = self.model.shape().heads().collect();
        let sequences = NEVER_DRAWN..NEVER_DRAWN + GRADIENT_SEQUENCES;
        let batch = self.task.batch(self.length, sequences)?;
        let at_once = batch_size(self.length);
        let scores = gradient_scores(self.model, &heads, &batch, at_once)?;
        let gradient: Vec<f64> = scores.iter().map(|score| score.gradient).collect();
        let text = self.text()?;
        let fisher = fisher(
            self.model,
            &heads,
            &text,
            FISHER_DRAWS,
            self.seed,
            TEXT_BATCH,
        )?;
        let step = natural_step(&fisher, &gradient, RIDGE, STEP_KL)?;
        let changed = heads.into_iter().zip(step);
        Ok(changed
            .map(|(head, change)| Coefficient {
                head,
                value: 1.0 + change,
            })
            .collect())
    }

    /// The text to learn from.
    ///
    /// # Errors
    /// A text without a piece of two tokens.
    pub(super) fn text(&self) -> Result<PlainText> {
        Ok(PlainText::new(self.text.to_vec(), self.seed)?)
    }

    /// Coefficients on the line from 1 through those given, as far from 1 as a budget of divergence on a text allows.
    ///
    /// # Errors
    /// A divergence that is not finite.
    pub fn within(
        &self,
        coefficients: &[Coefficient],
        budget: f64,
        text: &TextReference<'_, Decoder>,
    ) -> Result<Coefficients> {
        let cost = |share: f64| -> Result<f64> {
            let reweighted = reweighted(self.model, &scaled(coefficients, share))?;
            Ok(divergence(text, &reweighted)?.kl)
        };
        // Near 1 the divergence is quadratic, so that one measurement tells where to look.
        let (mut low, mut high) = (0.0, FURTHEST);
        let mut share = (budget / cost(1.0)?.max(f64::MIN_POSITIVE))
            .sqrt()
            .min(FURTHEST);
        for _ in 0..HALVINGS {
            let cost = cost(share)?;
            if cost > budget {
                high = share;
            } else {
                low = share;
            }
            if (NEAR * budget..=budget).contains(&cost) || low >= FURTHEST {
                break;
            }
            share = next_share(share, cost, budget, low, high);
        }
        Ok(scaled(coefficients, low))
    }
}

/// Where to look next between `low` and `high`: where a parabola would be just below the budget, or else in the middle.
fn next_share(share: f64, cost: f64, budget: f64, low: f64, high: f64) -> f64 {
    let parabola = share * (0.97 * budget / cost.max(f64::MIN_POSITIVE)).sqrt();
    if parabola > low && parabola < high {
        parabola
    } else {
        f64::midpoint(low, high)
    }
}

fn scaled(coefficients: &[Coefficient], share: f64) -> Coefficients {
    let scale = |c: &Coefficient| Coefficient {
        head: c.head,
        // As f32, which is what the model computes with and a profile holds.
        value: f64::from((1.0 + share * (c.value - 1.0)) as f32),
    };
    coefficients.iter().map(scale).collect()
}

/// The coefficients of a module.
pub(super) fn listed(coefficients: &HeadCoefficients) -> Coefficients {
    let pairs = coefficients.heads().into_iter().zip(coefficients.values());
    pairs
        .map(|(head, value)| Coefficient {
            head,
            value: f64::from(value),
        })
        .collect()
}

/// The model with coefficients.
///
/// # Errors
/// Coefficients of heads that it does not have.
pub fn reweighted(model: &Decoder, coefficients: &[Coefficient]) -> Result<Decoder> {
    let attached = attached(coefficients, &model.shape(), &model.device())?;
    Ok(model.clone().with_coefficients(&attached)?)
}

/// Coefficients as a module.
///
/// # Errors
/// Coefficients of heads that the model does not have.
pub fn attached(
    coefficients: &[Coefficient],
    shape: &ModelShape,
    device: &burn::prelude::Device,
) -> Result<HeadCoefficients> {
    let pairs: Vec<(HeadId, f32)> = coefficients
        .iter()
        .map(|c| (c.head, c.value as f32))
        .collect();
    Ok(HeadCoefficients::new(&pairs, shape, device)?)
}
