//! What a trainer writes to files and reads from them.

use std::path::Path;

use pear_core::DecoderModel;
use pear_core::files::{Profile, TrainingRecord};

use super::{Trainer, rounded};
use crate::Result;
use crate::checkpoint::{Checkpoint, Run};
use crate::text::PlainText;

impl<M: DecoderModel> Trainer<M> {
    /// The coefficients with the record of how they came about. Where a coefficient's distance from 1 has a
    /// [price](crate::TrainOptions::sparsity), heads whose coefficient is exactly 1 are left out.
    ///
    /// # Errors
    /// None that a trainer's own state can cause.
    pub fn profile(&self) -> Result<Profile> {
        let text = self.text_fingerprint();
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
            kl_weight: self.options.kl_weight,
            sparsity: self.options.sparsity,
            kl: self.state.kl.clone(),
            text_batch_size: text.as_ref().map(|_| self.options.text_batch_size),
            text,
            seed: self.state.seed,
            held_out: self.state.held_out.losses().to_vec(),
            best_step: self.best_step(),
            held_out_loss: None,
            text_perplexity: None,
        };
        let mut profile = Profile::new(&self.coefficients, Some(training))?;
        if self.options.sparsity > 0.0 {
            profile.coefficients.retain(|c| c.value != 1.0);
        }
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
    /// [`Error::Checkpoint`](crate::Error::Checkpoint) for a file that is none, or that was written with other options, heads, weights or
    /// sequences: it says
    /// which.
    pub fn restore(&mut self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let state = Checkpoint::read(path, &self.run_record())?;
        self.coefficients = self.coefficients.with_values(&rounded(&state.values));
        self.state = state;
        Ok(())
    }

    fn run_record(&self) -> Run {
        let (model, options) = (self.model().shape(), self.options.clone());
        Run {
            model,
            options,
            heads: self.coefficients.heads(),
            provenance: self.provenance.clone(),
            text: self.text_fingerprint(),
        }
    }

    /// Of the plain text, where it is read.
    fn text_fingerprint(&self) -> Option<String> {
        let text = self.text.as_ref();
        text.filter(|_| self.options.kl_weight > 0.0)
            .map(PlainText::fingerprint)
    }
}
