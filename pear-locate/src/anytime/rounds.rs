//! What finished rounds found.

use pear_core::proxy::ProxyBatch;
use pear_core::{HeadId, ModelShape};
use serde::{Deserialize, Serialize};

use super::budget::Budget;
use super::schedule::Schedule;
use super::standing::Standing;
use crate::separation::{Candidate, Length, candidates};
use crate::{Error, LocateOptions, PatchedLogits, Result};

/// What finished rounds of locating within a budget found: what [`AnytimeLocator::with_finished`](super::AnytimeLocator::with_finished) takes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rounds {
    /// Number of rounds.
    pub(super) finished: usize,
    /// Row passes that they took.
    pub(super) row_passes: u64,
    /// The heads that the next round replaces.
    pub(super) active: Vec<HeadId>,
    /// Heads that may be among the K or not, by rank.
    pub(super) undecided: Vec<HeadId>,
    /// In the order of the batches.
    pub(super) by_length: Vec<PatchedLogits>,
}

impl Rounds {
    /// Number of finished rounds.
    pub fn finished(&self) -> usize {
        self.finished
    }

    /// Row passes that they took.
    pub fn row_passes(&self) -> u64 {
        self.row_passes
    }

    /// The heads that the next round replaces; none: this was the last one.
    pub fn active(&self) -> &[HeadId] {
        &self.active
    }

    /// Heads that cannot be told yet to be among the K or not, in the order of their ranks.
    pub fn undecided(&self) -> &[HeadId] {
        &self.undecided
    }

    /// Every logit so far, in the order of the batches.
    pub fn by_length(&self) -> &[PatchedLogits] {
        &self.by_length
    }

    /// Sequences of each length that the next round takes; `None` if there is none.
    pub(super) fn next_counts(
        &self,
        schedule: &Schedule,
        budget: &Budget,
        options: &LocateOptions,
        batches: &[ProxyBatch],
    ) -> Result<Option<Vec<usize>>> {
        if self.active.is_empty() || self.finished == schedule.rounds {
            return Ok(None);
        }
        if self.finished == 0 {
            return Ok(Some(schedule.first(&self.active, budget.row_passes)));
        }
        let left = budget.row_passes.saturating_sub(self.row_passes);
        let share = left / (schedule.rounds - self.finished) as u64;
        // A share that pays for no sequence at all is added to the last one's.
        let share = share.max(schedule.costs(&self.active).into_iter().max().unwrap_or(0));
        let run: Vec<usize> = self.by_length.iter().map(PatchedLogits::samples).collect();
        let variances = self.variances(options, budget.top_k, batches)?;
        let counts = schedule.more(&self.active, &run, &variances, share.min(left));
        Ok(counts.iter().any(|&count| count > 0).then_some(counts))
    }

    /// Adds what a round found, and sees what is settled.
    pub(super) fn add(
        &mut self,
        round: Vec<Option<PatchedLogits>>,
        row_passes: u64,
        schedule: &Schedule,
        budget: &Budget,
        options: &LocateOptions,
        batches: &[ProxyBatch],
    ) -> Result<()> {
        if self.finished == 0 {
            self.by_length = round.into_iter().flatten().collect();
        } else {
            let lengths = self.by_length.iter_mut().zip(round);
            lengths.for_each(|(all, round)| all.extend(round));
        }
        self.finished += 1;
        self.row_passes += row_passes;
        let candidates = self.candidates(options, batches)?;
        let error_rate = (1.0 - budget.confidence) / schedule.rounds as f64;
        let standing = Standing::new(&candidates, budget.top_k, error_rate);
        self.undecided = standing
            .undecided()
            .map(|index| candidates[index].head)
            .collect();
        self.active = schedule.survivors(&candidates, &standing, &self.active, self.finished);
        Ok(())
    }

    fn candidates(
        &self,
        options: &LocateOptions,
        batches: &[ProxyBatch],
    ) -> Result<Vec<Candidate>> {
        let lengths: Vec<Length<'_>> = self
            .by_length
            .iter()
            .zip(batches)
            .map(|(logits, batch)| Length {
                logits,
                available: batch.len(),
            })
            .collect();
        candidates(options.metric, options.rank_by, &lengths)
    }

    /// For each length, the variance of what a sequence contributes to the difference between an active head and the one at the boundary,
    /// the mean over active heads.
    fn variances(
        &self,
        options: &LocateOptions,
        top_k: usize,
        batches: &[ProxyBatch],
    ) -> Result<Vec<f64>> {
        let candidates = self.candidates(options, batches)?;
        // Only the order is wanted: any rate will do.
        let order = Standing::new(&candidates, top_k, 0.5).order;
        let boundary = &candidates[order[top_k]];
        let of_length = |length: usize| {
            let active = candidates
                .iter()
                .filter(|candidate| self.active.contains(&candidate.head));
            let squares = active.map(|candidate| {
                let moves = &candidate.moves[length];
                let pairs = moves.iter().zip(&boundary.moves[length]);
                let sum: f64 = pairs.map(|(a, b)| (a - b).powi(2)).sum();
                sum * moves.len() as f64
            });
            squares.sum::<f64>()
        };
        Ok((0..batches.len()).map(of_length).collect())
    }

    /// Whether these can be rounds over these sequences.
    pub(super) fn check_belongs(
        &self,
        heads: &[HeadId],
        shape: &ModelShape,
        batches: &[ProxyBatch],
        options: &LocateOptions,
    ) -> Result<()> {
        if self.finished == 0 {
            return Ok(());
        }
        let unresumable = |batch: &ProxyBatch| Error::Unresumable { n: batch.n() };
        let known = |listed: &[HeadId]| listed.iter().all(|head| heads.contains(head));
        if self.by_length.len() != batches.len() || !known(&self.active) || !known(&self.undecided)
        {
            return Err(unresumable(&batches[0]));
        }
        for (logits, batch) in self.by_length.iter().zip(batches) {
            let belongs = logits.n == batch.n()
                && (1..=batch.len()).contains(&logits.samples())
                && logits.is_first_sequences_of(heads, shape, options.metric);
            if !belongs {
                return Err(unresumable(batch));
            }
        }
        Ok(())
    }
}
