//! How coefficients are learned.

use serde::{Deserialize, Serialize};

use crate::schedule::Schedule;
use crate::{Error, Result};

/// How coefficients are learned. The default is the authors' setting but for the number of steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainOptions {
    /// Steps.
    pub steps: usize,
    /// Sequences a step.
    pub batch_size: usize,
    /// Tokens repeated in a sequence (n).
    pub length: usize,
    /// The highest learning rate.
    pub learning_rate: f64,
    /// Steps in which the learning rate rises to it.
    pub warmup_steps: usize,
    /// How it falls afterwards.
    pub schedule: Schedule,
    /// Pulls coefficients towards 1 (decoupled, as in AdamW).
    pub weight_decay: f64,
    /// Gradients are scaled down to this Euclidean norm.
    pub clip_norm: Option<f64>,
    /// Coefficients are kept within these bounds after each step. Whether they end below 1 is an outcome: `None` by default.
    pub clamp: Option<(f64, f64)>,
    /// Sequences, or pieces of text, that are run together, their gradients being added up to those of the whole batch; all if `None`.
    pub micro_batch_size: Option<usize>,
    /// Steps between two measurements on [held-out sequences](crate::Trainer::with_held_out), the first before any step; none if
    /// `None`.
    pub held_out_every: Option<usize>,
    /// Training ends early when so many measurements in a row were not below the lowest held-out loss, and then, as after the last
    /// step, the coefficients are those of the lowest. If `None` it never does, and the last coefficients stay. The prices below are no
    /// part of that loss.
    pub patience: Option<usize>,
    /// λ of the objective `proxy loss + λ · divergence + μ · Σ|α − 1|`: what a nat of divergence from the unmodified model on
    /// [plain text](crate::Trainer::with_text) costs, the mean over positions. With 0 no text is read.
    #[serde(default)]
    pub kl_weight: f64,
    /// Pieces of plain text a step.
    #[serde(default = "text_batch_size")]
    pub text_batch_size: usize,
    /// μ of the objective: the price of a coefficient's distance from 1. A coefficient stays on exactly 1 where moving it gains less.
    #[serde(default)]
    pub sparsity: f64,
}

fn text_batch_size() -> usize {
    8
}

impl Default for TrainOptions {
    fn default() -> Self {
        Self {
            steps: 250,
            batch_size: 20,
            length: 50,
            learning_rate: 0.005,
            warmup_steps: 2,
            schedule: Schedule::Linear,
            weight_decay: 0.0,
            clip_norm: None,
            clamp: None,
            micro_batch_size: None,
            held_out_every: None,
            patience: None,
            kl_weight: 0.0,
            text_batch_size: text_batch_size(),
            sparsity: 0.0,
        }
    }
}

impl TrainOptions {
    /// The learning rate of a step, counted from 0.
    pub fn rate(&self, step: usize) -> f64 {
        self.schedule
            .rate(self.learning_rate, self.warmup_steps, step, self.steps)
    }

    /// # Errors
    /// [`Error::Option`] for the first option out of range.
    pub fn validate(&self) -> Result<()> {
        let counts = [
            ("steps", self.steps),
            ("batch_size", self.batch_size),
            ("text_batch_size", self.text_batch_size),
        ];
        if let Some(&(option, value)) = counts.iter().find(|(_, value)| *value == 0) {
            return error(option, value, "at least 1");
        }
        if self.length < 2 {
            return error("length", self.length, "at least 2 tokens to be repeated");
        }
        if !(self.learning_rate.is_finite() && self.learning_rate > 0.0) {
            return error("learning_rate", self.learning_rate, "a positive number");
        }
        let prices = [
            ("weight_decay", self.weight_decay),
            ("kl_weight", self.kl_weight),
            ("sparsity", self.sparsity),
        ];
        let is_price = |price: f64| price.is_finite() && price >= 0.0;
        if let Some(&(option, value)) = prices.iter().find(|(_, value)| !is_price(*value)) {
            return error(option, value, "a number of at least 0");
        }
        if let Some(norm) = self
            .clip_norm
            .filter(|norm| !(norm.is_finite() && *norm > 0.0))
        {
            return error("clip_norm", norm, "a positive number");
        }
        if let Some((low, high)) = self
            .clamp
            .filter(|(low, high)| !(low.is_finite() && high.is_finite() && low <= high))
        {
            return error(
                "clamp",
                format!("{low}..{high}"),
                "two numbers, the lower one first",
            );
        }
        let some = [
            ("micro_batch_size", self.micro_batch_size),
            ("held_out_every", self.held_out_every),
            ("patience", self.patience),
        ];
        if let Some((option, _)) = some.into_iter().find(|(_, value)| *value == Some(0)) {
            return error(option, 0, "at least 1");
        }
        match self.patience {
            Some(patience) if self.held_out_every.is_none() => error(
                "patience",
                patience,
                "nothing, or `held_out_every` beside it: there is nothing to wait for",
            ),
            _ => Ok(()),
        }
    }
}

fn error<T>(option: &'static str, value: impl ToString, expected: &'static str) -> Result<T> {
    Err(Error::Option {
        option,
        value: value.to_string(),
        expected,
    })
}
