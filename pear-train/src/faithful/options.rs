//! How coefficients are learned from items.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Steps at one price of plain text.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// λ: what a nat of divergence on plain text costs.
    pub kl_weight: f64,
    /// Steps.
    pub steps: usize,
}

impl Stage {
    /// `steps` steps at the price `kl_weight`.
    pub fn new(kl_weight: f64, steps: usize) -> Self {
        Self { kl_weight, steps }
    }
}

/// How coefficients are learned from items.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FaithfulOptions {
    /// The stages, each of which starts where the one before ended. Falling prices give a front from small changes to large ones.
    pub stages: Vec<Stage>,
    /// By how much the preferred logit should be higher, in nats: items beyond it hardly count any more.
    pub margin: f64,
    /// Step size in whitened coordinates, multiplied by `1 / kl_weight`; 1 is a Newton step of the divergence alone.
    pub learning_rate: f64,
    /// Share of it that is left at the end of a stage, to which it falls linearly.
    pub final_learning_rate: f64,
    /// Longest step in whitened coordinates: one of length `s` changes the divergence from 0 to about `s² / 2`.
    pub max_step_norm: f64,
    /// Share of a stage's steps, the last ones, whose coefficients its result is the mean of.
    pub averaged: f64,
    /// Share by which entries of the Fisher matrix off the diagonal are shrunk.
    pub shrinkage: f64,
    /// What is added to its diagonal, as a share of the diagonal's mean.
    pub ridge: f64,
    /// Pieces of plain text a step.
    pub text_batch_size: usize,
    /// Pieces of plain text on which the divergence of each stage's result is measured.
    pub measured_pieces: usize,
    /// Tokens, padding included, that are run together, their gradients being added up; at least one item or piece.
    pub tokens_at_once: usize,
    /// Seed of the order in which items are drawn.
    pub seed: u64,
}

impl Default for FaithfulOptions {
    fn default() -> Self {
        Self {
            stages: vec![
                Stage::new(200.0, 24),
                Stage::new(60.0, 20),
                Stage::new(20.0, 20),
            ],
            margin: 1.0,
            learning_rate: 0.5,
            final_learning_rate: 0.3,
            max_step_norm: 0.05,
            averaged: 0.4,
            shrinkage: 0.2,
            ridge: 0.02,
            text_batch_size: 6,
            measured_pieces: 32,
            tokens_at_once: 1024,
            seed: 0,
        }
    }
}

impl FaithfulOptions {
    /// Steps of all stages.
    pub fn steps(&self) -> usize {
        self.stages.iter().map(|stage| stage.steps).sum()
    }

    /// # Errors
    /// [`Error::Option`] for the first option out of range.
    pub fn validate(&self) -> Result<()> {
        if self.stages.is_empty() {
            return error("stages", "empty", "at least one");
        }
        for stage in &self.stages {
            if !is_positive(stage.kl_weight) {
                return error("kl_weight", stage.kl_weight, "a positive number");
            }
            if stage.steps == 0 {
                return error("steps", 0, "at least 1 in each stage");
            }
        }
        let counts = [
            ("text_batch_size", self.text_batch_size),
            ("measured_pieces", self.measured_pieces),
            ("tokens_at_once", self.tokens_at_once),
        ];
        if let Some((option, _)) = counts.into_iter().find(|(_, value)| *value == 0) {
            return error(option, 0, "at least 1");
        }
        let positive = [
            ("learning_rate", self.learning_rate),
            ("max_step_norm", self.max_step_norm),
        ];
        if let Some((option, value)) = positive.into_iter().find(|(_, value)| !is_positive(*value))
        {
            return error(option, value, "a positive number");
        }
        if !self.margin.is_finite() {
            return error("margin", self.margin, "a number of nats");
        }
        if !(self.ridge.is_finite() && self.ridge >= 0.0) {
            return error("ridge", self.ridge, "a number of at least 0");
        }
        let shares = [
            ("final_learning_rate", self.final_learning_rate),
            ("averaged", self.averaged),
            ("shrinkage", self.shrinkage),
        ];
        match shares
            .into_iter()
            .find(|(_, value)| !(0.0..=1.0).contains(value))
        {
            Some((option, value)) => error(option, value, "a share from 0 to 1"),
            None => Ok(()),
        }
    }

    /// Where the step after `done` others stands: its stage, and its place in it.
    pub(super) fn place(&self, done: usize) -> Option<Place> {
        let mut before = 0;
        for (index, &stage) in self.stages.iter().enumerate() {
            if done < before + stage.steps {
                let step = done - before;
                return Some(Place { index, stage, step });
            }
            before += stage.steps;
        }
        None
    }

    /// The step size in whitened coordinates.
    pub(super) fn rate(&self, place: Place) -> f64 {
        let left = 1.0 - place.step as f64 / place.stage.steps as f64;
        let factor = self.final_learning_rate + (1.0 - self.final_learning_rate) * left;
        self.learning_rate / place.stage.kl_weight * factor
    }

    /// How many of the last steps of a stage are averaged: at least the last one.
    pub(super) fn num_averaged(&self, stage: Stage) -> usize {
        // Rounding must not take a step off 0.4 · 20.
        let steps = self.averaged * stage.steps as f64 + 1e-9;
        (steps.floor() as usize).clamp(1, stage.steps)
    }
}

/// A step's place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Place {
    /// Of the stage.
    pub index: usize,
    pub stage: Stage,
    /// Within the stage.
    pub step: usize,
}

fn is_positive(value: f64) -> bool {
    value.is_finite() && value > 0.0
}

fn error<T>(option: &'static str, value: impl ToString, expected: &'static str) -> Result<T> {
    Err(Error::Option {
        option,
        value: value.to_string(),
        expected,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_stand_in_their_stages_and_shrink_within_them() {
        let options = FaithfulOptions {
            stages: vec![Stage::new(10.0, 24), Stage::new(2.0, 20)],
            ..FaithfulOptions::default()
        };
        let place = |done| options.place(done).map(|place| (place.index, place.step));
        assert_eq!(place(0), Some((0, 0)));
        assert_eq!(place(23), Some((0, 23)));
        assert_eq!(place(24), Some((1, 0)));
        assert_eq!(place(44), None);
        let rate = |done| options.rate(options.place(done).unwrap());
        assert!((rate(0) - 0.05).abs() < 1e-12);
        assert!((rate(12) - 0.05 * 0.65).abs() < 1e-12);
        assert!((rate(24) - 0.25).abs() < 1e-12);
        let averaged = [24, 20, 1].map(|steps| options.num_averaged(Stage::new(1.0, steps)));
        assert_eq!(averaged, [9, 8, 1]);
    }
}
