//! The score of every head, and their ranking.

use std::io::{IsTerminal, stdout};
use std::ops::ControlFlow;

use anyhow::{Context, Result};
use pear_core::{DecoderModel, ProxyTask};
use pear_locate::{
    Budget, Event, LocateOptions, Locator, Metric, Rounds, Scores, metric, proxy_batches,
};
use pear_models::Decoder;

use super::journal::Journal;
use super::report::{Copying, HeadGrid};
use crate::cli;
use crate::draw::terminal_heat_map;
use crate::progress::Progress;

/// Random tokens at each length: as many sequences as have these.
const RANDOM_TOKENS: usize = 1000;
/// Sequences of a length.
const SAMPLES: std::ops::RangeInclusive<usize> = 16..=100;
/// Heads that are listed in the ranking.
const RANKED: usize = 40;
/// Part of the work of measuring every head on every sequence that is spent at most.
const SHARE: u64 = 2;
/// What an unfinished run keeps.
pub const PARTIAL: &str = "locating-rounds";

/// Scores all heads at the lengths that are used, until it is settled which `count` rank highest or half the work of measuring all of them
/// equally well is spent; goes on after the rounds that an earlier run finished. On a terminal, the heat map is drawn again after each round.
///
/// # Errors
/// Logits that are not finite; files that cannot be written.
pub fn locate(
    model: &Decoder,
    task: &ProxyTask,
    lengths: &[Copying],
    count: usize,
    journal: &Journal,
) -> Result<Scores> {
    let used = lengths.iter().filter(|length| length.used);
    let sizes: Vec<(usize, usize)> = used.map(|length| (length.n, samples(length.n))).collect();
    let batches = proxy_batches(task, &sizes)?;
    // A ratio means nothing where the mean logit is small or negative; a difference is always defined.
    let options = LocateOptions {
        metric: Metric::LogitDiff,
        ..LocateOptions::default()
    };
    let uniform = Budget::of_uniform(&model.shape(), &options, &batches);
    let locator = Locator::new(model, options.clone())
        .within(Budget::new(count, uniform / SHARE))
        .with_finished(journal.read(PARTIAL)?.unwrap_or_default());
    let mut bar = Progress::new("locating", 1);
    let mut map = LiveMap::default();
    let outcome = locator.run_with(&batches, |event| -> Result<ControlFlow<()>> {
        match event {
            Event::Layer(progress) => bar.set_of(progress.done, progress.total, ""),
            Event::RoundFinished(rounds) => {
                journal.write(PARTIAL, rounds)?;
                map.draw(&mean_grid(rounds, &options)?)?;
            }
            _ => {}
        }
        Ok(ControlFlow::Continue(()))
    })?;
    let report = outcome.finished().context("locating was cancelled")?;
    Ok(report.scores)
}

/// Sequences of `n` random tokens, as in the paper: fewer of the longer ones.
pub fn samples(n: usize) -> usize {
    (RANDOM_TOKENS / n).clamp(*SAMPLES.start(), *SAMPLES.end())
}

/// The mean score over the lengths, of the sequences so far.
fn mean_grid(rounds: &Rounds, options: &LocateOptions) -> Result<Vec<Vec<f64>>> {
    let mut sum: Vec<Vec<f64>> = Vec::new();
    let lengths = rounds.by_length();
    for logits in lengths {
        let scores = metric::scores(options.metric, logits)?;
        sum.resize(scores.len(), Vec::new());
        for (sums, scores) in sum.iter_mut().zip(&scores) {
            sums.resize(scores.len(), 0.0);
            for (sum, score) in sums.iter_mut().zip(scores) {
                *sum += score / lengths.len() as f64;
            }
        }
    }
    Ok(sum)
}

/// A heat map on the terminal that is drawn over its last version.
#[derive(Default)]
struct LiveMap {
    lines: usize,
}

impl LiveMap {
    fn draw(&mut self, grid: &[Vec<f64>]) -> Result<()> {
        if !stdout().is_terminal() {
            return Ok(());
        }
        let map = terminal_heat_map(grid, &[]);
        let back = match self.lines {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\x1b[J"),
        };
        self.lines = map.lines().count();
        cli::print(&format!("{back}{map}"))
    }
}

/// The scores and the ranking: by z, score over standard error, so that a high score that is mostly noise comes late.
pub fn head_grid(scores: &Scores) -> HeadGrid {
    let ranked = scores.ranked();
    let mut errors = vec![vec![0.0; scores.model.num_heads]; scores.model.num_layers];
    for head in scores.heads() {
        errors[head.head.layer][head.head.head] = head.standard_error.unwrap_or(0.0);
    }
    HeadGrid {
        metric: scores.settings.metric.to_string(),
        ranked_by: scores.settings.rank_by.to_string(),
        scores: scores.grid(),
        errors,
        ranked: ranked
            .iter()
            .take(RANKED)
            .map(|scored| scored.head)
            .collect(),
    }
}
