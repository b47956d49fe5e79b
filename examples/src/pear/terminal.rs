//! What is printed on the way.

use std::collections::BTreeMap;
use std::fmt::Write;

use pear_models::evaluation::{Estimate, PairedDifference};

use super::report::{Candidate, Copying, HeadGrid, Measures, Report, Verdict};
use crate::draw::terminal_heat_map;

/// Heads of the ranking that are outlined and listed.
const LISTED: usize = 10;

/// How well the model copies at each length.
pub fn copying(lengths: &[Copying]) -> String {
    let mut text = String::from("\n     n  samples  copied\n");
    for length in lengths {
        let used = if length.used { "  used" } else { "" };
        let _ = writeln!(
            text,
            "{:>6}  {:>7}  {:>5.1} %{used}",
            length.n,
            length.samples,
            100.0 * length.accuracy
        );
    }
    text
}

/// The heat map and the first heads of the ranking.
pub fn heads(grid: &HeadGrid) -> String {
    let first = &grid.ranked[..grid.ranked.len().min(LISTED)];
    let listed: Vec<String> = first
        .iter()
        .map(|head| {
            let at = |of: &[Vec<f64>]| of[head.layer][head.head];
            let z = at(&grid.scores) / at(&grid.errors).max(f64::MIN_POSITIVE);
            format!("{head} (z {z:.1})")
        })
        .collect();
    format!(
        "\n{}first heads of the ranking, z being score over standard error: {}\n",
        terminal_heat_map(&grid.scores, first),
        listed.join(", ")
    )
}

/// The head of the table of candidates, with the unmodified model.
pub fn candidates_head(baseline: &Measures) -> String {
    format!(
        "\n{:<16}{:>9}{:>11}{:>22}{:>22}\n{:<16}{:>9}{:>11}{:>22}{:>22}\n",
        "candidate",
        "KL",
        "same top",
        "conflicting",
        "agreeing",
        "unmodified",
        "0",
        "100.0 %",
        share(&baseline.conflicting),
        share(&baseline.agreeing),
    )
}

/// One line of that table.
pub fn candidate_line(candidate: &Candidate, baseline: &Measures) -> String {
    let mut line = format!(
        "{:<16}{:>9.4}{:>9.1} %",
        candidate.id,
        candidate.divergence.kl,
        100.0 * candidate.divergence.same_top_token
    );
    if let Some(measures) = &candidate.measures {
        let _ = write!(
            line,
            "{:>22}{:>22}",
            changed(&baseline.conflicting, &measures.conflicting),
            changed(&baseline.agreeing, &measures.agreeing)
        );
    }
    if let Some(reason) = &candidate.dropped {
        let _ = write!(line, "    dropped: {reason}");
    }
    line + "\n"
}

fn share(estimate: &Estimate) -> String {
    format!("{:.1} %", 100.0 * estimate.mean)
}

fn changed(before: &Estimate, after: &Estimate) -> String {
    format!(
        "{} ({:+.1})",
        share(after),
        100.0 * (after.mean - before.mean)
    )
}

/// The verdict with what it rests on.
pub fn verdict(verdict: &Verdict) -> String {
    let mut text = String::new();
    if !verdict.groups.is_empty() {
        let _ = writeln!(
            text,
            "\n{:<24}{:>9}{:>12}{:>12}{:>26}{:>12}",
            "held-out questions", "number", "before", "after", "change", "p"
        );
    }
    for group in &verdict.groups {
        let _ = writeln!(
            text,
            "{:<24}{:>9}{:>12}{:>12}{:>26}{:>12.1e}",
            group.group,
            group.before.count,
            share(&group.before),
            share(&group.after),
            interval(&group.change),
            group.change.p_value
        );
    }
    for control in &verdict.controls {
        let _ = writeln!(
            text,
            "{:<24}{:>9}{:>12}{:>12}{:>26}{:>12.1e}",
            format!("random heads, draw {}", control.draw),
            control.conflicting.count,
            format!("KL {:.3}", control.divergence.kl),
            share(&control.conflicting),
            interval(&control.change),
            control.change.p_value
        );
    }
    if let Some(divergence) = &verdict.divergence {
        let _ = writeln!(
            text,
            "plain text: KL {:.4}, same top token {:.1} %",
            divergence.kl,
            100.0 * divergence.same_top_token
        );
    }
    for check in &verdict.checks {
        let mark = if check.holds { "yes" } else { "NO " };
        let _ = writeln!(text, "{mark}  {}: {}", check.condition, check.found);
    }
    let _ = writeln!(text, "\n{}", verdict.summary);
    text
}

fn interval(change: &PairedDifference) -> String {
    format!(
        "{:+.1} ({:+.1} to {:+.1})",
        100.0 * change.difference,
        100.0 * change.low,
        100.0 * change.high
    )
}

/// What the run took: its longest steps, and memory where the system reports it.
pub fn cost(seconds: &BTreeMap<String, f64>, peak_memory: u64) -> String {
    let mut longest: Vec<(&str, f64)> = seconds
        .iter()
        .map(|(step, seconds)| (step.as_str(), *seconds))
        .collect();
    longest.sort_by(|a, b| b.1.total_cmp(&a.1));
    let steps: Vec<String> = longest
        .iter()
        .take(LISTED / 2)
        .map(|(step, seconds)| format!("{step} {seconds:.1} s"))
        .collect();
    let mut text = format!("longest steps: {}\n", steps.join(", "));
    if peak_memory > 0 {
        let _ = writeln!(text, "peak memory {} MiB", peak_memory >> 20);
    }
    text
}

/// Some answers side by side.
pub fn answers(report: &Report) -> String {
    let mut text = String::new();
    for pair in report.answers.iter().take(3) {
        let _ = write!(
            text,
            "\n  {}\n    before  {}\n    after   {}\n",
            pair.prompt.trim(),
            pair.before.trim(),
            pair.after.trim()
        );
    }
    text
}
