//! What can go wrong while locating.

use pear_core::{HeadId, LayerRange, ModelShape};

/// Everything in this crate that can fail on input.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Sequences that the model cannot read, and whatever else the core refuses.
    #[error(transparent)]
    Core(#[from] pear_core::Error),
    /// No proxy sequences at all.
    #[error("no proxy sequences to locate heads on")]
    NoBatches,
    /// Two batches of the same length: the mean over lengths would count it twice.
    #[error("two batches of n = {0}: put the sequences of one length into one batch")]
    DuplicateLength(usize),
    /// A model without heads.
    #[error("{0}: there is no head to locate")]
    NoHeads(ModelShape),
    /// Layers that the model has not.
    #[error("layers {layers}: {model} has no such layers (counted from 0)", model = shape)]
    NoSuchLayers {
        /// Those whose heads were to be replaced.
        layers: LayerRange,
        /// The model.
        shape: ModelShape,
    },
    /// A method that says where scores come from, but replaces no heads.
    #[error("the method gradient scales heads and does not replace them: use exact or attribution")]
    NotReplacing,
    /// A method whose graph would keep every layer of a model that makes them on demand.
    #[error(
        "attribution keeps the weights of all layers in memory, which this model reads when they are visited: use exact"
    )]
    KeepsAllLayers,
    /// Devices without a model, or with different ones.
    #[error("several devices need a copy of the same model each")]
    Models,
    /// Finished lengths of another run.
    #[error("n = {n}: what was finished earlier is not what these sequences and options give")]
    Unresumable {
        /// Tokens that are repeated.
        n: usize,
    },
    /// A budget that does not pay for the first round.
    #[error(
        "a budget of {row_passes} row passes: expected at least {needed}, two sequences of each length with every head replaced"
    )]
    BudgetTooSmall {
        /// The budget.
        row_passes: u64,
        /// The smallest there can be.
        needed: u64,
    },
    /// Options that have no rounds to be spread over.
    #[error("a budget: {0}")]
    NotWithinBudget(&'static str),
    /// A length with a single sequence, whose scores have no standard errors.
    #[error("n = {0}: a budget needs at least 2 sequences of each length")]
    SingleSequence(usize),
    /// A number of heads to be found that leaves nothing to be told apart.
    #[error("{top_k} heads to be found among {heads}: expected 1 to {most}", most = heads.saturating_sub(1))]
    TopK {
        /// Heads to be found.
        top_k: usize,
        /// Heads there are.
        heads: usize,
    },
    /// A confidence that is no probability.
    #[error("a confidence of {0}: expected a number between 0 and 1")]
    Confidence(f64),
    /// A model whose weights or coefficients are on the autodiff side of their device.
    #[error(
        "the model is on an autodiff device, where every run would be kept for a backward pass: call `valid()` on it first"
    )]
    Autodiff,
    /// A patched run gives no finite logit.
    #[error("n = {n}: the logit of sequence {sample} is {value} with head {head} replaced")]
    NotFinite {
        /// Tokens that are repeated.
        n: usize,
        /// The head that was replaced.
        head: HeadId,
        /// Which sequence, from 0.
        sample: usize,
        /// The logit, or the number it is compared by.
        value: f32,
    },
    /// A ratio of logits whose denominator is zero but for rounding.
    #[error(
        "n = {n}: the mean logit of the right token is {base_logit:e}, and a ratio to it means nothing: use the metric logit-diff"
    )]
    RatioUndefined {
        /// Tokens that are repeated.
        n: usize,
        /// The mean logit.
        base_logit: f64,
    },
}
