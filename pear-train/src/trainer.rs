//! The training loop, and a single step of it.

use std::ops::ControlFlow;
use std::path::Path;

use pear_core::files::{Profile, Provenance, TrainingRecord};
use pear_core::proxy::ProxyBatch;
use pear_core::{DecoderModel, HeadCoefficients, HeadId};

use crate::checkpoint::{Checkpoint, Run, State};
use crate::gradients::{Compute, on_each, on_one};
use crate::objective::{ProxyMetrics, evaluate};
use crate::options::TrainOptions;
use crate::sequences::{Sequences, StepReport};
use crate::{Error, Result};

/// Learns one coefficient for each of the given heads of a frozen model.
///
/// It owns its model, which may be a reference or an `Arc` as well. The [crate's](crate) first example uses it.
#[derive(Debug)]
pub struct Trainer<M> {
    /// The model, then its copies on other devices.
    models: Vec<M>,
    compute: Compute<M>,
    options: TrainOptions,
    /// Fixed: each step tracks a copy, so that no graph outlives it.
    coefficients: HeadCoefficients,
    held_out: Option<ProxyBatch>,
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
            models: vec![model],
            compute: on_one,
            options,
            coefficients,
            held_out: None,
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
        self.models.extend(copies);
        self.compute = on_each;
        self
    }

    /// Sequences that nothing is learned from: what [`held_out_every`](TrainOptions::held_out_every) measures on.
    pub fn with_held_out(mut self, sequences: ProxyBatch) -> Self {
        self.held_out = Some(sequences);
        self
    }

    /// Says which weights and sequences these are. The profile repeats it, and the checkpoint of other ones is refused.
    pub fn with_provenance(mut self, provenance: Provenance) -> Self {
        self.provenance = provenance;
        self
    }

    /// The model.
    pub fn model(&self) -> &M {
        &self.models[0]
    }

    /// Steps taken.
    pub fn steps_done(&self) -> usize {
        self.state.losses.len()
    }

    /// The coefficients as they are now, fixed.
    pub fn coefficients(&self) -> &HeadCoefficients {
        &self.coefficients
    }

    /// The loss before each step.
    pub fn losses(&self) -> &[f64] {
        &self.state.losses
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

    /// One step on these sequences.
    ///
    /// # Errors
    /// [`Error::Diverged`], the trainer staying as it was; sequences of another length than the options say, or longer than the model
    /// can read.
    pub fn step(&mut self, batch: &ProxyBatch) -> Result<StepReport> {
        if batch.n() != self.options.length {
            let value = self.options.length.to_string();
            return Err(Error::Option {
                option: "length",
                value,
                expected: "the length of the sequences at hand",
            });
        }
        self.check_seed(batch.seed())?;
        let step = self.state.losses.len();
        let finite = |what, value: f64| {
            if value.is_finite() {
                Ok(value)
            } else {
                Err(Error::Diverged { step, what, value })
            }
        };
        let at_once = self.options.micro_batch_size.unwrap_or(batch.len());
        let (loss, mut gradients) =
            (self.compute)(&self.models, batch, &self.coefficients, at_once)?;
        let loss = finite("loss", loss)?;
        let norm = finite(
            "gradient",
            gradients.iter().map(|g| g * g).sum::<f64>().sqrt(),
        )?;
        if let Some(limit) = self.options.clip_norm.filter(|limit| norm > *limit) {
            gradients
                .iter_mut()
                .for_each(|gradient| *gradient *= limit / norm);
        }
        let learning_rate = self.options.rate(step);
        let (mut values, mut optimizer) = (self.state.values.clone(), self.state.optimizer.clone());
        optimizer.step(
            &mut values,
            &gradients,
            learning_rate,
            self.options.weight_decay,
        );
        if let Some((low, high)) = self.options.clamp {
            values
                .iter_mut()
                .for_each(|value| *value = value.clamp(low, high));
        }
        let coefficients = rounded(&values);
        for &value in &coefficients {
            finite("coefficient", f64::from(value))?;
        }
        let updated = self.coefficients.with_values(&coefficients);
        let held_out = self.measure(step + 1, &updated)?;
        self.coefficients = updated;
        (self.state.values, self.state.optimizer) = (values, optimizer);
        self.state.losses.push(loss);
        self.state.seed = batch.seed();
        if let Some(metrics) = held_out {
            self.state
                .held_out
                .add(step + 1, metrics, &self.state.values);
        }
        Ok(StepReport {
            step,
            loss,
            learning_rate,
            gradient_norm: norm,
            coefficients,
            held_out,
        })
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

    /// Measures on the held-out sequences, if that is due after so many steps.
    fn measure(
        &self,
        steps: usize,
        coefficients: &HeadCoefficients,
    ) -> Result<Option<ProxyMetrics>> {
        if !self
            .options
            .held_out_every
            .is_some_and(|every| steps.is_multiple_of(every))
        {
            return Ok(None);
        }
        let Some(sequences) = &self.held_out else {
            let (option, expected) = (
                "held_out_every",
                "nothing, as there are no held-out sequences",
            );
            return Err(Error::Option {
                option,
                value: "given".into(),
                expected,
            });
        };
        let metrics = evaluate(&self.models[0], sequences, Some(coefficients))?;
        if !metrics.loss.is_finite() {
            return Err(Error::Diverged {
                step: steps.saturating_sub(1),
                what: "held-out loss",
                value: metrics.loss,
            });
        }
        Ok(Some(metrics))
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

    /// The coefficients with the record of how they came about.
    ///
    /// # Errors
    /// None that a trainer's own state can cause.
    pub fn profile(&self) -> Result<Profile> {
        let training = TrainingRecord {
            loss: self.state.losses.clone(),
            steps: self.state.losses.len(),
            batch_size: self.options.batch_size,
            length: self.options.length,
            learning_rate: self.options.learning_rate,
            warmup_steps: self.options.warmup_steps,
            schedule: Some(self.options.schedule.to_string()),
            weight_decay: self.options.weight_decay,
            clip_norm: self.options.clip_norm,
            clamp: self.options.clamp,
            seed: self.state.seed,
            held_out: self.state.held_out.losses().to_vec(),
            best_step: self.best_step(),
            held_out_loss: None,
            text_perplexity: None,
        };
        let mut profile = Profile::new(&self.coefficients, Some(training))?;
        profile.provenance = self.provenance.clone();
        Ok(profile)
    }

    /// Writes everything needed to go on to a file, which is whole at any moment.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        Ok(pear_core::files::write_json(
            path,
            &Checkpoint::new(self.run_record(), self.state.clone()),
        )?)
    }

    /// Goes on where [`save`](Self::save) left off: what follows is bit for bit what would have followed there.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for a file that is none, or that was written with other options, heads, weights or sequences: it says
    /// which.
    pub fn restore(&mut self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let state = Checkpoint::read(path, &self.run_record())?;
        self.coefficients = self.coefficients.with_values(&rounded(&state.values));
        self.state = state;
        Ok(())
    }

    fn run_record(&self) -> Run {
        let (model, options) = (self.models[0].shape(), self.options.clone());
        Run {
            model,
            options,
            heads: self.coefficients.heads(),
            provenance: self.provenance.clone(),
        }
    }
}

/// What the model sees of the optimizer's numbers.
fn rounded(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&value| value as f32).collect()
}
