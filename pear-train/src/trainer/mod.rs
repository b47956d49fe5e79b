//! The training loop.

mod files;
mod step;

use std::ops::ControlFlow;

use pear_core::files::Provenance;
use pear_core::proxy::ProxyBatch;
use pear_core::{DecoderModel, HeadCoefficients, HeadId};

use crate::checkpoint::State;
use crate::gradients::{Compute, Replica, on_each, on_one};
use crate::options::TrainOptions;
use crate::recompute::Graph;
use crate::sequences::{Sequences, StepReport};
use crate::text::PlainText;
use crate::{Error, Result};

/// Learns one coefficient for each of the given heads of a frozen model.
///
/// It owns its model, which may be a reference or an `Arc` as well. The [crate's](crate) first example uses it.
#[derive(Debug)]
pub struct Trainer<M> {
    /// The model, then its copies on other devices.
    replicas: Vec<Replica<M>>,
    compute: Compute<M>,
    graph: Graph,
    options: TrainOptions,
    /// Fixed: each step tracks a copy, so that no graph outlives it.
    coefficients: HeadCoefficients,
    held_out: Option<ProxyBatch>,
    text: Option<PlainText>,
    provenance: Provenance,
    state: State,
}

impl<M: DecoderModel> Trainer<M> {
    /// Starts with coefficients of 1.
    ///
    /// A model that carries coefficients already is refused by the first step: what is learned would be relative to them, and a
    /// profile cannot say so.
    ///
    /// # Errors
    /// Options out of range, no heads, or heads that the model does not have or that are listed twice.
    pub fn new(model: M, heads: &[HeadId], options: TrainOptions) -> Result<Self> {
        options.validate()?;
        if heads.is_empty() {
            return Err(Error::NoHeads);
        }
        let coefficients = HeadCoefficients::ones(heads, &model.shape(), &model.device())?;
        Ok(Self {
            replicas: vec![Replica::new(model)],
            compute: on_one,
            graph: Graph::Whole,
            options,
            coefficients,
            held_out: None,
            text: None,
            provenance: Provenance::new(),
            state: State::new(heads.len()),
        })
    }

    /// Splits the sequences of each step evenly between the model and copies of it, on other devices as a rule. The result is that of
    /// the model alone up to rounding.
    pub fn with_copies(mut self, copies: impl IntoIterator<Item = M>) -> Self
    where
        M: Sync,
    {
        self.replicas.extend(copies.into_iter().map(Replica::new));
        self.compute = on_each;
        self
    }

    /// Runs each layer once more in the backward pass instead of keeping the graph of all layers
    /// (activation checkpointing, [arXiv 1604.06174](https://arxiv.org/abs/1604.06174)): half the memory, for half
    /// as much time again, as with frozen weights a backward pass costs no more than a forward one. Gradients are the same but for rounding.
    ///
    /// Where a model makes [layers on demand](DecoderModel::layers_on_demand), it is done in any case.
    pub fn with_recompute(mut self, recompute: bool) -> Self {
        self.graph = Graph::new(recompute);
        self
    }

    /// Sequences that nothing is learned from: what [`held_out_every`](TrainOptions::held_out_every) measures on.
    pub fn with_held_out(mut self, sequences: ProxyBatch) -> Self {
        self.held_out = Some(sequences);
        self
    }

    /// Plain text on which predictions are to stay what they are, at the price of [`kl_weight`](TrainOptions::kl_weight).
    ///
    /// # Errors
    /// Pieces longer than the model can read, or with tokens that it does not know.
    pub fn with_text(mut self, text: PlainText) -> Result<Self> {
        text.check(self.model())?;
        // What is known of the pieces of another text is of no use.
        let models = self.replicas.into_iter().map(|replica| replica.model);
        self.replicas = models.map(Replica::new).collect();
        self.text = Some(text);
        Ok(self)
    }

    /// Says which weights and sequences these are. The profile repeats it, and the checkpoint of other ones is refused.
    pub fn with_provenance(mut self, provenance: Provenance) -> Self {
        self.provenance = provenance;
        self
    }

    /// The model.
    pub fn model(&self) -> &M {
        &self.replicas[0].model
    }

    /// Steps taken.
    pub fn steps_done(&self) -> usize {
        self.state.losses.len()
    }

    /// The coefficients as they are now, fixed.
    pub fn coefficients(&self) -> &HeadCoefficients {
        &self.coefficients
    }

    /// The proxy loss before each step.
    pub fn losses(&self) -> &[f64] {
        &self.state.losses
    }

    /// The divergence on plain text before each step, in nats a position; empty where it has no [weight](TrainOptions::kl_weight).
    pub fn kl(&self) -> &[f64] {
        &self.state.kl
    }

    /// Steps done and loss at each measurement on held-out sequences.
    pub fn held_out_losses(&self) -> &[(usize, f64)] {
        self.state.held_out.losses()
    }

    /// Steps after which the held-out loss was lowest, where the run [goes back](TrainOptions::patience) to then.
    pub fn best_step(&self) -> Option<usize> {
        self.options
            .patience
            .and(self.state.held_out.best().map(|(steps, _)| steps))
    }

    /// # Errors
    /// [`Error::Seed`] for sequences of another seed than those of the steps so far.
    pub fn check_sequences(&self, sequences: &Sequences) -> Result<()> {
        self.check_seed(sequences.seed())
    }

    fn check_seed(&self, seed: Option<u64>) -> Result<()> {
        if self.state.losses.is_empty() || self.state.seed == seed {
            return Ok(());
        }
        Err(Error::Seed {
            was: self.state.seed,
            is: seed,
        })
    }

    /// Whether held-out sequences have been measured as often as [`patience`](TrainOptions::patience) grants without a lower loss.
    pub fn is_stalled(&self) -> bool {
        self.options
            .patience
            .is_some_and(|patience| self.state.held_out.since_best() >= patience)
    }

    /// Takes the steps that are left, unobserved; see [`run_with`](Self::run_with).
    ///
    /// # Errors
    /// As [`run_with`](Self::run_with), but for its last.
    pub fn run(&mut self, sequences: &Sequences) -> Result<()> {
        self.run_with(sequences, |_, _| Ok(ControlFlow::Continue(())))
    }

    /// Takes the steps that are left, or fewer if it [stalls](Self::is_stalled). `observe` sees every one, with the trainer as it is
    /// then, and may end the run, with an error of its own if need be. A run with [`patience`](TrainOptions::patience) that comes
    /// to its end goes back to the best coefficients.
    ///
    /// # Errors
    /// As [`step`](Self::step); [`Error::OutOfSequences`] before the first step if those given do not suffice; what `observe`
    /// returns.
    pub fn run_with<E: From<Error>>(
        &mut self,
        sequences: &Sequences,
        mut observe: impl FnMut(&Self, &StepReport) -> Result<ControlFlow<()>, E>,
    ) -> Result<(), E> {
        self.check_sequences(sequences)?;
        let (steps, batch_size) = (self.options.steps, self.options.batch_size);
        if let Sequences::Given(given) = sequences {
            let whole = given.len() / batch_size;
            if whole < steps {
                let left = given.len() % batch_size;
                return Err(Error::OutOfSequences {
                    step: whole,
                    steps,
                    batch_size,
                    left,
                }
                .into());
            }
        }
        if self.state.losses.is_empty()
            && self.state.held_out.losses().is_empty()
            && let Some(metrics) = self.measure(0, &self.coefficients)?
        {
            self.state.held_out.add(0, metrics, &self.state.values);
        }
        while self.state.losses.len() < steps && !self.is_stalled() {
            let start = self.state.losses.len() * batch_size;
            let batch = match sequences {
                Sequences::Drawn(task) => {
                    let drawn = task.batch(self.options.length, start..start + batch_size);
                    drawn.map_err(Error::from)?
                }
                Sequences::Given(given) => given.slice(start..start + batch_size),
            };
            let report = self.step(&batch)?;
            if observe(self, &report)?.is_break() {
                return Ok(());
            }
        }
        if let Some((_, best)) = self
            .state
            .held_out
            .best()
            .filter(|_| self.options.patience.is_some())
        {
            self.coefficients = self.coefficients.with_values(&rounded(best));
        }
        Ok(())
    }
}

/// What the model sees of the optimizer's numbers.
fn rounded(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&value| value as f32).collect()
}
