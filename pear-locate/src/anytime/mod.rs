//! Locating within a budget: the work goes where the ranking is undecided.
//!
//! Rounds of *sequential halving* ([Karnin, Koren and Somekh, 2013](https://proceedings.mlr.press/v28/karnin13.html)) for the K best of many
//! ([Bubeck, Wang and Viswanathan, 2013](https://proceedings.mlr.press/v28/bubeck13.html)): each spends an equal share of the budget on about
//! half the row passes a sequence of the one before. A head leaves when it is settled, or, being the farthest from the boundary between
//! rank K and rank K + 1 in standard errors, when the rest is to be halved. All heads that are left see the same new sequences, so that
//! differences between heads are measured without what all of them share. Sequences are taken from the length where one lowers the variance
//! of these differences most for its cost.

mod budget;
mod rounds;
mod schedule;
mod standing;

use std::ops::ControlFlow;

use pear_core::proxy::ProxyBatch;
use pear_core::{DecoderModel, HeadId};

pub use budget::Budget;
pub use rounds::Rounds;
use schedule::Schedule;

use crate::locator::common_seed;
use crate::progress::row_passes;
use crate::report::{LengthReport, Report, length_scores};
use crate::selection::Selection;
use crate::{AnytimeRecord, Error, Event, Locator, Outcome, Progress, Result, Scores};

/// Finds the highest-ranked heads within a budget: what [`Locator::within`] gives.
#[derive(Clone, Debug)]
pub struct AnytimeLocator<M> {
    locator: Locator<M>,
    budget: Budget,
    finished: Rounds,
}

impl<M: DecoderModel> Locator<M> {
    /// Finds the `top_k` highest-ranked heads within a budget instead of measuring all heads equally well.
    ///
    /// It ends as soon as it is settled which heads these are, or with the budget or the sequences; the report's
    /// [record](Scores::anytime) lists the heads that are undecided then. Lengths that an earlier run of the uniform sweep finished are not
    /// taken into account.
    pub fn within(self, budget: Budget) -> AnytimeLocator<M> {
        AnytimeLocator {
            locator: self,
            budget,
            finished: Rounds::default(),
        }
    }
}

impl<M: DecoderModel> AnytimeLocator<M> {
    /// Goes on after rounds that an earlier run finished. The end is that of an uninterrupted run.
    ///
    /// The caller answers for model, batches, options and budget being those of the earlier run; [`Error::Unresumable`] says that batches
    /// or heads are not.
    pub fn with_finished(mut self, finished: Rounds) -> Self {
        self.finished = finished;
        self
    }

    /// Runs the rounds, unobserved; see [`run_with`](Self::run_with).
    ///
    /// # Errors
    /// As [`run_with`](Self::run_with), but for its last.
    pub fn run(&self, batches: &[ProxyBatch]) -> Result<Report> {
        match self.run_with(batches, |_| Ok::<_, Error>(ControlFlow::Continue(())))? {
            Outcome::Finished(report) => Ok(report),
            Outcome::Cancelled(_) => unreachable!("the observer never breaks"),
        }
    }

    /// Runs the rounds. `batches` hold the sequences there are, one batch a length: the first ones of each are used, rarely all. `observe` is
    /// called after every layer, with the budget as the total work, and after every round, and may end the run.
    ///
    /// # Errors
    /// As [`Locator::run_with`]; and for
    /// - a budget that does not pay for two sequences of each length with every head replaced, or a length with a single sequence;
    /// - a number of heads that leaves no boundary;
    /// - batch means and attribution patching, which have no rounds;
    /// - what `observe` returns.
    pub fn run_with<E: From<Error>>(
        &self,
        batches: &[ProxyBatch],
        mut observe: impl FnMut(Event<'_>) -> Result<ControlFlow<()>, E>,
    ) -> Result<Outcome<Rounds>, E> {
        let (schedule, mut rounds) = self.start(batches)?;
        if rounds.finished > 0 {
            let progress = self.progress(&batches[0], rounds.row_passes);
            if observe(Event::Layer(progress))?.is_break() {
                return Ok(Outcome::Cancelled(rounds));
            }
        }
        let (options, budget) = (self.locator.options(), &self.budget);
        while let Some(counts) = rounds.next_counts(&schedule, budget, options, batches)? {
            let Some(logits) = self.round(&rounds, &counts, batches, &mut observe)? else {
                return Ok(Outcome::Cancelled(rounds));
            };
            let cost = schedule.cost(&rounds.active, &counts);
            rounds.add(logits, cost, &schedule, budget, options, batches)?;
            if observe(Event::RoundFinished(&rounds))?.is_break() {
                return Ok(Outcome::Cancelled(rounds));
            }
        }
        Ok(Outcome::Finished(self.report(batches, rounds)?))
    }

    fn start(&self, batches: &[ProxyBatch]) -> Result<(Schedule, Rounds)> {
        let (locator, budget) = (&self.locator, &self.budget);
        locator.check(batches)?;
        let shape = locator.model().shape();
        let heads: Vec<HeadId> = locator.selected().iter().collect();
        budget.check(heads.len(), locator.options(), batches)?;
        let schedule = Schedule::new(&shape, &heads, batches);
        let needed = schedule.least(&heads);
        if budget.row_passes < needed {
            return Err(Error::BudgetTooSmall {
                row_passes: budget.row_passes,
                needed,
            });
        }
        self.finished
            .check_belongs(&heads, &shape, batches, locator.options())?;
        let mut rounds = self.finished.clone();
        if rounds.finished == 0 {
            rounds.active = heads;
        }
        Ok((schedule, rounds))
    }

    /// Runs `counts` new sequences of each length with the active heads replaced; `None` if `observe` ended it.
    fn round<E: From<Error>>(
        &self,
        rounds: &Rounds,
        counts: &[usize],
        batches: &[ProxyBatch],
        observe: &mut impl FnMut(Event<'_>) -> Result<ControlFlow<()>, E>,
    ) -> Result<Option<Vec<Option<crate::PatchedLogits>>>, E> {
        let shape = self.locator.model().shape();
        let selected = Selection::of(&shape, &rounds.active)?;
        let taken: Vec<ProxyBatch> = batches
            .iter()
            .zip(counts)
            .enumerate()
            .filter(|(_, (_, count))| **count > 0)
            .map(|(length, (batch, &count))| {
                let run = rounds.by_length.get(length);
                let run = run.map_or(0, |logits| logits.samples());
                batch.slice(run..run + count)
            })
            .collect();
        let mut spent = rounds.row_passes;
        let layer_done = |sequences: &ProxyBatch, layer| {
            spent += row_passes(sequences, &selected, layer);
            observe(Event::Layer(self.progress(sequences, spent)))
        };
        let Some(found) = self.locator.sweep(&taken, &selected, None, layer_done)? else {
            return Ok(None);
        };
        let mut found = found.into_iter();
        let round = counts.iter().map(|&count| match count {
            0 => None,
            _ => found.next(),
        });
        Ok(Some(round.collect()))
    }

    fn progress(&self, batch: &ProxyBatch, done: u64) -> Progress {
        Progress {
            n: batch.n(),
            done,
            total: self.budget.row_passes,
        }
    }

    fn report(&self, batches: &[ProxyBatch], rounds: Rounds) -> Result<Report> {
        let (locator, options) = (&self.locator, self.locator.options());
        let record = AnytimeRecord {
            top_k: self.budget.top_k,
            budget: self.budget.row_passes,
            row_passes: rounds.row_passes,
            rounds: rounds.finished,
            confidence: self.budget.confidence,
            undecided: rounds.undecided,
        };
        let by_length = rounds
            .by_length
            .iter()
            .zip(batches)
            .map(|(logits, batch)| {
                let mut scores = length_scores(options.metric, logits)?;
                scores.available = (scores.samples < batch.len()).then_some(batch.len());
                Ok(scores)
            })
            .collect::<Result<_>>()?;
        let settings = options.settings(common_seed(batches));
        let mut scores = Scores::new(locator.model().shape(), settings, by_length)?;
        scores.anytime = Some(record);
        let by_length = rounds
            .by_length
            .into_iter()
            .map(|logits| LengthReport::new(options.metric, logits))
            .collect::<Result<_>>()?;
        Ok(Report { scores, by_length })
    }
}
