//! What a run of the trainer reads, and what it tells of each step.

use pear_core::ProxyTask;
use pear_core::proxy::ProxyBatch;
use serde::{Deserialize, Serialize};

use crate::objective::ProxyMetrics;

/// Where the sequences of each step come from.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Sequences {
    /// Drawn: those of step `s` depend on nothing but the task and `s`.
    Drawn(ProxyTask),
    /// Given, taken in order.
    Given(ProxyBatch),
}

impl Sequences {
    /// The seed that they are drawn with; `None` for sequences that were given.
    pub fn seed(&self) -> Option<u64> {
        match self {
            Self::Drawn(task) => Some(task.seed()),
            Self::Given(given) => given.seed(),
        }
    }
}

/// What one step did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// The step, from 0.
    pub step: usize,
    /// The proxy loss before it.
    pub loss: f64,
    /// The divergence on plain text before it, in nats a position, where it has a [weight](crate::TrainOptions::kl_weight).
    pub kl: Option<f64>,
    /// `Σ|α − 1|` before it.
    pub distance_from_one: f64,
    /// How many coefficients are exactly 1 after it.
    pub at_one: usize,
    /// Its learning rate.
    pub learning_rate: f64,
    /// The Euclidean norm of the gradient of the objective without its last term, before it was clipped.
    pub gradient_norm: f64,
    /// The coefficients after it, in the order of [`HeadCoefficients::heads`](pear_core::HeadCoefficients::heads).
    pub coefficients: Vec<f32>,
    /// What was measured after it on held-out sequences, where that was [due](crate::TrainOptions::held_out_every).
    pub held_out: Option<ProxyMetrics>,
}
