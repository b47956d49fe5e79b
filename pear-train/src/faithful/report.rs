//! What a run tells of each step, and what it comes to.

use pear_core::HeadCoefficients;
use serde::{Deserialize, Serialize};

/// What one step did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FaithfulStep {
    /// The step, from 0, counted over all stages.
    pub step: usize,
    /// The stage, from 0.
    pub stage: usize,
    /// Price of the divergence.
    pub kl_weight: f64,
    /// The items read, before the step, in the order of the groups.
    pub groups: Vec<GroupLoss>,
    /// The divergence on the text read, before the step, in nats a position.
    pub kl: f64,
    /// `½ |θ|²` before the step: the divergence that the Fisher matrix predicts.
    pub predicted_kl: f64,
    /// The length of the step in whitened coordinates.
    pub step_norm: f64,
}

impl FaithfulStep {
    /// The objective on what was read: the weighted losses of all groups, and the price of the divergence.
    pub fn objective(&self) -> f64 {
        let items: f64 = self
            .groups
            .iter()
            .map(|group| group.weight * group.loss)
            .sum();
        items + self.kl_weight * self.kl
    }
}

/// The items of one group that a step read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupLoss {
    /// The group's name.
    pub name: String,
    /// The group's weight.
    pub weight: f64,
    /// The mean loss, in nats.
    pub loss: f64,
    /// Share of items with a positive [difference](super::ItemLoss::difference): of preferences, those whose preferred token is the
    /// likelier one.
    pub wins: f64,
}

/// What a stage came to.
#[derive(Clone, Debug)]
pub struct FrontPoint {
    /// Price of the divergence.
    pub kl_weight: f64,
    /// The coefficients, fixed: the mean over the last steps of the stage.
    pub coefficients: HeadCoefficients,
    /// Their divergence on plain text, in nats a position, measured on the first
    /// [`measured_pieces`](super::FaithfulOptions::measured_pieces) pieces.
    pub kl: f64,
    /// `½ |θ|²`: the divergence that the Fisher matrix predicts.
    pub predicted_kl: f64,
}
