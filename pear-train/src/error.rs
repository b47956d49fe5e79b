//! What can go wrong in training.

use std::path::PathBuf;

/// Everything in this crate that can fail.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An option out of range.
    #[error("`{option}` is {value}: expected {expected}")]
    Option {
        /// The option.
        option: &'static str,
        /// What it holds.
        value: String,
        /// What it should hold.
        expected: &'static str,
    },
    /// No heads to learn coefficients for.
    #[error("no heads given: expected at least one to learn a coefficient for")]
    NoHeads,
    /// A loss, gradient or coefficient that is not a finite number. The trainer is as it was before the step.
    #[error(
        "step {step}: the {what} is {value}: training has diverged (lower the learning rate, or clip gradients)"
    )]
    Diverged {
        /// The step, from 0.
        step: usize,
        /// `loss`, `divergence`, `gradient`, `coefficient` or `held-out loss`.
        what: &'static str,
        /// The number.
        value: f64,
    },
    /// Sequences that come to an end before training does.
    #[error("step {step} of {steps} needs {batch_size} sequences, but only {left} are left")]
    OutOfSequences {
        /// The step, from 0.
        step: usize,
        /// Steps asked for.
        steps: usize,
        /// Sequences a step.
        batch_size: usize,
        /// Sequences that are left.
        left: usize,
    },
    /// Sequences of another seed than those of the steps before.
    #[error(
        "the sequences are not those of the steps so far: `seed` was {} and is {}",
        shown(was),
        shown(is)
    )]
    Seed {
        /// Seed of the sequences so far; `None` for given ones.
        was: Option<u64>,
        /// Seed of the sequences at hand.
        is: Option<u64>,
    },
    /// Plain text that cannot be used.
    #[error("the plain text: {0}")]
    Text(String),
    /// A Fisher matrix that cannot be inverted.
    #[error(
        "the Fisher matrix of {heads} heads, a mean over {samples} samples, cannot be inverted: use a larger ridge, or more text or draws"
    )]
    Fisher {
        /// Rows and columns.
        heads: usize,
        /// Gradients that it is the mean of.
        samples: usize,
    },
    /// A checkpoint that cannot be resumed.
    #[error("{path}: {problem}", path = path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Heads, sequences or files that do not fit the model.
    #[error(transparent)]
    Core(#[from] pear_core::Error),
}

fn shown(seed: &Option<u64>) -> String {
    seed.map_or("none".into(), |seed| seed.to_string())
}
