//! A single step.

use pear_core::proxy::ProxyBatch;
use pear_core::{DecoderModel, HeadCoefficients};

use super::{Trainer, rounded};
use crate::gradients::{Reading, StepGradients};
use crate::objective::{ProxyMetrics, evaluate};
use crate::sequences::StepReport;
use crate::{Error, Result};

impl<M: DecoderModel> Trainer<M> {
    /// One step on these sequences, and on the pieces of plain text that are drawn for it.
    ///
    /// # Errors
    /// [`Error::Diverged`], the trainer staying as it was; sequences of another length than the options say, or longer than the model
    /// can read; a [`kl_weight`](crate::TrainOptions::kl_weight) without [text](Self::with_text).
    pub fn step(&mut self, batch: &ProxyBatch) -> Result<StepReport> {
        self.check_batch(batch)?;
        let step = self.steps_done();
        let reading = self.reading(batch)?;
        let of_step = (self.compute)(&self.replicas, &reading, &self.coefficients)?;
        if step == 0 && !of_step.proxy.0.is_finite() {
            // Nothing was learned that could be wrong: the model itself is, and this says where.
            evaluate(&self.replicas[0].model, batch, Some(&self.coefficients))?;
        }
        let loss = finite(step, "loss", of_step.proxy.0)?;
        let kl = match &of_step.divergence {
            Some((kl, _)) => Some(finite(step, "divergence", *kl)?),
            None => None,
        };
        let mut gradients = objective_gradients(of_step, self.options.kl_weight);
        let norm = gradients.iter().map(|g| g * g).sum::<f64>().sqrt();
        let norm = finite(step, "gradient", norm)?;
        if let Some(limit) = self.options.clip_norm.filter(|limit| norm > *limit) {
            gradients
                .iter_mut()
                .for_each(|gradient| *gradient *= limit / norm);
        }
        let (mut values, mut optimizer) = (self.state.values.clone(), self.state.optimizer.clone());
        let learning_rate = self.options.rate(step);
        optimizer.step(
            &mut values,
            &gradients,
            learning_rate,
            self.options.weight_decay,
            self.options.sparsity,
        );
        if let Some((low, high)) = self.options.clamp {
            values
                .iter_mut()
                .for_each(|value| *value = value.clamp(low, high));
        }
        let coefficients = rounded(&values);
        for &value in &coefficients {
            finite(step, "coefficient", f64::from(value))?;
        }
        let updated = self.coefficients.with_values(&coefficients);
        let held_out = self.measure(step + 1, &updated)?;
        let distance = self.state.values.iter().map(|value| (value - 1.0).abs());
        let report = StepReport {
            step,
            loss,
            kl,
            distance_from_one: distance.sum(),
            at_one: coefficients.iter().filter(|value| **value == 1.0).count(),
            learning_rate,
            gradient_norm: norm,
            coefficients,
            held_out,
        };
        self.coefficients = updated;
        (self.state.values, self.state.optimizer) = (values, optimizer);
        self.state.losses.push(loss);
        self.state.kl.extend(kl);
        self.state.seed = batch.seed();
        if let Some(metrics) = held_out {
            self.state
                .held_out
                .add(step + 1, metrics, &self.state.values);
        }
        Ok(report)
    }

    fn check_batch(&self, batch: &ProxyBatch) -> Result<()> {
        if batch.n() != self.options.length {
            let value = self.options.length.to_string();
            return Err(Error::Option {
                option: "length",
                value,
                expected: "the length of the sequences at hand",
            });
        }
        self.check_seed(batch.seed())
    }

    /// These sequences, and the pieces of text that are due.
    fn reading(&self, batch: &ProxyBatch) -> Result<Reading<'_>> {
        let options = &self.options;
        let text = match &self.text {
            _ if options.kl_weight == 0.0 => None,
            Some(text) => Some((text, text.drawn(self.steps_done(), options.text_batch_size))),
            None => {
                return Err(Error::Option {
                    option: "kl_weight",
                    value: options.kl_weight.to_string(),
                    expected: "0, as there is no plain text",
                });
            }
        };
        let all = batch.len().max(options.text_batch_size);
        Ok(Reading {
            batch: batch.clone(),
            text,
            at_once: options.micro_batch_size.unwrap_or(all),
            graph: self.graph,
        })
    }

    /// Measures on the held-out sequences, if that is due after so many steps.
    pub(super) fn measure(
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
        let metrics = evaluate(self.model(), sequences, Some(coefficients))?;
        finite(steps.saturating_sub(1), "held-out loss", metrics.loss)?;
        Ok(Some(metrics))
    }
}

/// The gradients of the proxy loss and of the divergence together.
fn objective_gradients(of_step: StepGradients, kl_weight: f64) -> Vec<f64> {
    let mut gradients = of_step.proxy.1;
    if let Some((_, of_divergence)) = of_step.divergence {
        for (gradient, of_divergence) in gradients.iter_mut().zip(of_divergence) {
            *gradient += kl_weight * of_divergence;
        }
    }
    gradients
}

fn finite(step: usize, what: &'static str, value: f64) -> Result<f64> {
    if value.is_finite() {
        Ok(value)
    } else {
        Err(Error::Diverged { step, what, value })
    }
}
