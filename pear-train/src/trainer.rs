//! The training loop, and a single step of it.

use std::ops::ControlFlow;
use std::path::Path;

use pear_core::files::{Profile, TrainingRecord};
use pear_core::proxy::ProxyBatch;
use pear_core::{DecoderModel, HeadCoefficients, HeadId, ProxyTask};

use crate::checkpoint::Checkpoint;
use crate::objective::proxy_loss;
use crate::optimizer::AdamW;
use crate::options::TrainOptions;
use crate::{Error, Result};

/// Where the sequences of each step come from.
#[derive(Clone, Debug)]
pub enum Sequences {
    /// Drawn: those of step `s` depend on nothing but the task and `s`.
    Drawn(ProxyTask),
    /// Given, taken in order.
    Given(ProxyBatch),
}

/// What one step did.
#[derive(Clone, Debug, PartialEq)]
pub struct StepReport {
    /// The step, from 0.
    pub step: usize,
    /// The loss before it.
    pub loss: f64,
    /// Its learning rate.
    pub learning_rate: f64,
    /// The Euclidean norm of the gradient, before it was clipped.
    pub gradient_norm: f64,
    /// The coefficients after it, in the order of [`HeadCoefficients::heads`].
    pub coefficients: Vec<f32>,
}

/// Learns one coefficient for each of the given heads of a frozen model.
///
/// The [crate's](crate) first example uses it.
#[derive(Debug)]
pub struct Trainer<'a, M> {
    model: &'a M,
    options: TrainOptions,
    /// Fixed: each step tracks a copy, so that no graph outlives it.
    coefficients: HeadCoefficients,
    /// The same numbers, in the precision that the optimizer works in.
    values: Vec<f64>,
    optimizer: AdamW,
    losses: Vec<f64>,
}

impl<'a, M: DecoderModel> Trainer<'a, M> {
    /// Starts with coefficients of 1.
    ///
    /// # Errors
    /// Options out of range, no heads, or heads that the model has not or that are listed twice.
    pub fn new(model: &'a M, heads: &[HeadId], options: TrainOptions) -> Result<Self> {
        options.validate()?;
        if heads.is_empty() {
            return Err(Error::NoHeads);
        }
        let shape = model.shape();
        shape.check_heads(heads.iter().copied())?;
        let coefficients = HeadCoefficients::ones(heads, shape.num_heads, &model.device())?;
        let (values, optimizer) = (vec![1.0; heads.len()], AdamW::new(heads.len()));
        Ok(Self { model, options, coefficients, values, optimizer, losses: Vec::new() })
    }

    /// Steps taken.
    pub fn steps_done(&self) -> usize {
        self.losses.len()
    }

    /// The coefficients as they are now, fixed.
    pub fn coefficients(&self) -> &HeadCoefficients {
        &self.coefficients
    }

    /// The loss before each step.
    pub fn losses(&self) -> &[f64] {
        &self.losses
    }

    /// One step on these sequences.
    ///
    /// # Errors
    /// [`Error::Diverged`], the trainer staying as it was; sequences of another length than the options say, or longer than the model
    /// can read.
    pub fn step(&mut self, batch: &ProxyBatch) -> Result<StepReport> {
        if batch.n() != self.options.length {
            let value = self.options.length.to_string();
            return Err(Error::Option { option: "length", value, expected: "the length of the sequences at hand" });
        }
        let step = self.losses.len();
        let finite = |what, value: f64| if value.is_finite() { Ok(value) } else { Err(Error::Diverged { step, what, value }) };
        let (loss, mut gradients) = self.gradients(batch)?;
        let loss = finite("loss", loss)?;
        let norm = finite("gradient", gradients.iter().map(|g| g * g).sum::<f64>().sqrt())?;
        if let Some(limit) = self.options.clip_norm.filter(|limit| norm > *limit) {
            gradients.iter_mut().for_each(|gradient| *gradient *= limit / norm);
        }
        let learning_rate = self.options.rate(step);
        let (mut values, mut optimizer) = (self.values.clone(), self.optimizer.clone());
        optimizer.step(&mut values, &gradients, learning_rate, self.options.weight_decay);
        if let Some((low, high)) = self.options.clamp {
            values.iter_mut().for_each(|value| *value = value.clamp(low, high));
        }
        let coefficients: Vec<f32> = values.iter().map(|&value| value as f32).collect();
        for &value in &coefficients {
            finite("coefficient", f64::from(value))?;
        }
        self.coefficients = self.coefficients.with_values(&coefficients);
        (self.values, self.optimizer) = (values, optimizer);
        self.losses.push(loss);
        Ok(StepReport { step, loss, learning_rate, gradient_norm: norm, coefficients })
    }

    /// Whether the loss has not been below its lowest for as many steps as [`patience`](TrainOptions::patience) grants.
    pub fn is_stalled(&self) -> bool {
        let Some(earlier) = self.options.patience.and_then(|patience| self.losses.len().checked_sub(patience)) else {
            return false;
        };
        let lowest = |losses: &[f64]| losses.iter().copied().fold(f64::INFINITY, f64::min);
        earlier > 0 && lowest(&self.losses[earlier..]) >= lowest(&self.losses[..earlier])
    }

    /// Takes the steps that are left, or fewer if it [stalls](Self::is_stalled); `each` sees every one, with the trainer as it is then,
    /// and may stop.
    ///
    /// # Errors
    /// As [`step`](Self::step); [`Error::OutOfSequences`] before the first step if those given do not suffice.
    pub fn run(
        &mut self, sequences: &Sequences, mut each: impl FnMut(&Self, &StepReport) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let (steps, batch_size) = (self.options.steps, self.options.batch_size);
        if let Sequences::Given(given) = sequences {
            let whole = given.len() / batch_size;
            if whole < steps {
                let left = given.len() % batch_size;
                return Err(Error::OutOfSequences { step: whole, steps, batch_size, left });
            }
        }
        while self.losses.len() < steps && !self.is_stalled() {
            let start = self.losses.len() * batch_size;
            let batch = match sequences {
                Sequences::Drawn(task) => task.batch(self.options.length, start..start + batch_size)?,
                Sequences::Given(given) => given.slice(start..start + batch_size),
            };
            let report = self.step(&batch)?;
            if each(self, &report)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// The coefficients with the record of how they came about.
    ///
    /// # Errors
    /// None that a trainer's own state can cause.
    pub fn profile(&self) -> Result<Profile> {
        let training = TrainingRecord {
            loss: self.losses.clone(),
            steps: self.losses.len(),
            batch_size: self.options.batch_size,
            length: self.options.length,
            learning_rate: self.options.learning_rate,
            warmup_steps: self.options.warmup_steps,
            schedule: Some(self.options.schedule.to_string()),
            weight_decay: self.options.weight_decay,
            clip_norm: self.options.clip_norm,
            clamp: self.options.clamp,
            seed: Some(self.options.seed),
            held_out_loss: None,
        };
        Ok(Profile::new(self.model.shape(), &self.coefficients, Some(training))?)
    }

    /// Writes everything needed to go on to a file, which is whole at any moment.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let checkpoint = Checkpoint::new(
            self.model.shape(),
            self.options.clone(),
            self.coefficients.heads(),
            self.values.clone(),
            self.optimizer.clone(),
            self.losses.clone(),
        );
        Ok(pear_core::files::write_json(path, &checkpoint)?)
    }

    /// Goes on where [`save`](Self::save) left off: what follows is bit for bit what would have followed there.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for a file that is none, or that was written with other options, other heads or another model.
    pub fn restore(&mut self, path: &Path) -> Result<()> {
        let checkpoint = Checkpoint::read(path, &self.model.shape(), &self.options, &self.coefficients.heads())?;
        let coefficients: Vec<f32> = checkpoint.values.iter().map(|&value| value as f32).collect();
        self.coefficients = self.coefficients.with_values(&coefficients);
        (self.values, self.optimizer, self.losses) = (checkpoint.values, checkpoint.optimizer, checkpoint.losses);
        Ok(())
    }

    /// The loss and its gradient for each coefficient.
    fn gradients(&self, batch: &ProxyBatch) -> Result<(f64, Vec<f64>)> {
        let at_once = self.options.micro_batch_size.unwrap_or(batch.len());
        let (mut loss, mut gradients) = (0.0, vec![0.0; self.values.len()]);
        for start in (0..batch.len()).step_by(at_once) {
            let part = batch.slice(start..batch.len().min(start + at_once));
            let share = part.len() as f64 / batch.len() as f64;
            let tracked = self.coefficients.clone().trainable();
            let part_loss = proxy_loss(self.model, &part, &tracked)?;
            loss += share * part_loss.clone().into_scalar::<f64>();
            // Backward even where the loss is not finite: a graph that is dropped instead is kept by burn for ever.
            let part_gradients = tracked.gradients(&part_loss.backward());
            for (gradient, part) in gradients.iter_mut().zip(part_gradients) {
                *gradient += share * f64::from(part);
            }
        }
        Ok((loss, gradients))
    }
}
