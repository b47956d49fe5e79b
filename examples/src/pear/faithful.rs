//! Learning from questions: all heads at once, at several prices of divergence.

use std::ops::ControlFlow;

use anyhow::Result;
use pear_core::{DecoderModel, HeadId};
use pear_train::faithful::{FaithfulOptions, FaithfulTrainer, Stage};
use pear_train::{Fisher, PlainText, fisher};
use serde::{Deserialize, Serialize};

use super::curriculum::Curriculum;
use super::learning::{Coefficients, Learner, listed};
use super::recipe::PRICES;
use crate::progress::Progress;

/// Steps at the first price, and at each other.
const FIRST_STEPS: usize = 16;
const STEPS: usize = 14;
/// Steps at all prices.
pub const ALL_STEPS: usize = FIRST_STEPS + (PRICES.len() - 1) * STEPS;
/// Tokens of the pieces that the Fisher information is estimated on, and draws for each: the more gradients it is the mean of, the better.
const FISHER_PIECE: usize = 64;
pub const FISHER_DRAWS: usize = 4;
/// Pieces that run at once.
const FISHER_BATCH: usize = 16;
/// Steps between two states on disk.
const SAVE_EVERY: usize = 4;
/// Name of the state in the journal.
const STATE: &str = "faithful-state";

/// Coefficients that were learned at a price.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Priced {
    /// What a nat of divergence a token costs.
    pub price: u32,
    /// The coefficients.
    pub coefficients: Coefficients,
}

impl Learner<'_> {
    /// Learns coefficients of all heads at each of [`PRICES`]; nothing where there is no conflict to learn from.
    ///
    /// # Errors
    /// A loss that is not finite; a state that cannot be read or written.
    pub fn faithful(&self, curriculum: &Curriculum) -> Result<Vec<Priced>> {
        if curriculum.is_empty() {
            return Ok(Vec::new());
        }
        let fisher = self.fisher_of_all()?;
        let mut stages = PRICES.map(|price| Stage::new(f64::from(price), STEPS));
        stages[0].steps = FIRST_STEPS;
        let options = FaithfulOptions {
            stages: stages.to_vec(),
            seed: self.seed,
            ..FaithfulOptions::default()
        };
        let groups = curriculum.groups()?;
        let steps = options.steps();
        let mut trainer = FaithfulTrainer::new(self.model, groups, self.text()?, &fisher, options)?;
        let path = self.journal.path(STATE);
        if path.is_file() {
            trainer.restore(&path)?;
        }
        let mut bar = Progress::new("learning", steps as u64);
        let front = trainer.run_with(|trainer, step| -> Result<_> {
            let done = trainer.steps_done();
            let wins = &step.groups[0].wins;
            let state = format!("conflicts won {:.0} %, KL {:.4}", 100.0 * wins, step.kl);
            bar.set(done as u64, state);
            if done.is_multiple_of(SAVE_EVERY) {
                trainer.save(&path)?;
            }
            Ok(ControlFlow::Continue(()))
        })?;
        self.journal.remove(STATE)?;
        let priced = PRICES.into_iter().zip(front);
        Ok(priced
            .map(|(price, point)| Priced {
                price,
                coefficients: listed(&point.coefficients),
            })
            .collect())
    }

    fn fisher_of_all(&self) -> Result<Fisher> {
        let heads: Vec<HeadId> = self.model.shape().heads().collect();
        let pieces = self
            .text
            .iter()
            .flat_map(|piece| piece.chunks(FISHER_PIECE));
        // A gradient of few positions says little of the mean.
        let pieces: Vec<Vec<u32>> = pieces
            .filter(|piece| piece.len() >= FISHER_PIECE / 4)
            .map(<[u32]>::to_vec)
            .collect();
        let text = PlainText::new(pieces, self.seed)?;
        Ok(fisher(
            self.model,
            &heads,
            &text,
            FISHER_DRAWS,
            self.seed,
            FISHER_BATCH,
        )?)
    }
}
