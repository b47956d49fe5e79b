//! The score of every head, and their ranking.

use std::io::{IsTerminal, stdout};
use std::ops::ControlFlow;

use anyhow::{Context, Result};
use pear_core::{HeadId, ProxyTask};
use pear_locate::{
    Event, LengthReport, LocateOptions, Locator, Metric, Scores, metric, proxy_batches,
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
/// What an unfinished run keeps.
pub const PARTIAL: &str = "locating-finished-lengths";

/// Scores all heads at the lengths that are used, and goes on after the lengths that an earlier run finished. On a terminal, the heat map is
/// drawn again after each length.
///
/// # Errors
/// Logits that are not finite; files that cannot be written.
pub fn locate(
    model: &Decoder,
    task: &ProxyTask,
    lengths: &[Copying],
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
    let finished: Vec<LengthReport> = journal.read(PARTIAL)?.unwrap_or_default();
    let locator = Locator::new(model, options.clone()).with_finished(finished);
    let mut bar = Progress::new("locating", 1);
    let mut map = LiveMap::default();
    let outcome = locator.run_with(&batches, |event| -> Result<ControlFlow<()>> {
        match event {
            Event::Layer(progress) => {
                let message = format!("n = {}", progress.n);
                bar.set_of(progress.done, progress.total, message);
            }
            Event::LengthFinished(finished) => {
                journal.write(PARTIAL, &finished)?;
                map.draw(&mean_grid(finished, &options)?)?;
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

/// The mean score over the lengths that are finished.
fn mean_grid(finished: &[LengthReport], options: &LocateOptions) -> Result<Vec<Vec<f64>>> {
    let mut sum: Vec<Vec<f64>> = Vec::new();
    for length in finished {
        let scores = metric::scores(options.metric, &length.logits)?;
        sum.resize(scores.len(), Vec::new());
        for (sums, scores) in sum.iter_mut().zip(&scores) {
            sums.resize(scores.len(), 0.0);
            for (sum, score) in sums.iter_mut().zip(scores) {
                *sum += score / finished.len() as f64;
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

/// The heads ranked by z, score over standard error: a high score that is mostly noise comes late. Where errors are not known, by score.
pub fn head_grid(scores: &Scores) -> HeadGrid {
    let mut ranked: Vec<(HeadId, f64)> = scores
        .heads()
        .iter()
        .map(|head| {
            let error = head.standard_error.filter(|error| *error > 0.0);
            (head.head, head.score / error.unwrap_or(1.0))
        })
        .collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let mut errors = vec![vec![0.0; scores.model.num_heads]; scores.model.num_layers];
    for head in scores.heads() {
        errors[head.head.layer][head.head.head] = head.standard_error.unwrap_or(0.0);
    }
    HeadGrid {
        metric: scores.settings.metric.to_string(),
        ranked_by: "z".into(),
        scores: scores.grid(),
        errors,
        ranked: ranked.iter().take(RANKED).map(|(head, _)| *head).collect(),
    }
}
