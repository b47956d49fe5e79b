//! The scores of heads as text for people.

use std::fmt::Write;

use pear_core::HeadId;
use pear_locate::{AnytimeRecord, Overlap, Rounding, Scores, Stability};

use crate::draw::terminal_heat_map;

/// What was measured at each length, the scores of some heads with their ranks, how far to trust them, and a heat map of all heads in
/// which they are outlined.
pub fn head_table(scores: &Scores, heads: &[HeadId]) -> String {
    let mut text = String::from("\n     n  samples  accuracy  base logit\n");
    for length in &scores.by_length {
        let _ = writeln!(
            text,
            "{:>6}  {:>7}  {:>6.1} %  {:>10.4}",
            length.n,
            length.samples,
            100.0 * length.accuracy,
            length.base_logit
        );
    }
    let _ = writeln!(
        text,
        "\nby {}\nrank  head     score  std. error      z",
        scores.settings.rank_by
    );
    for (rank, scored) in (1..).zip(scores.ranked()) {
        if !heads.contains(&scored.head) {
            continue;
        }
        let mut row = format!(
            "{rank:>4}  {:<6} {:>+9.5}",
            scored.head.to_string(),
            scored.score
        );
        if let Some(error) = scored.standard_error {
            let _ = write!(row, " {error:>11.5} {:>6.1}", scored.score / error);
        }
        text += &row;
        text.push('\n');
    }
    if let Some(record) = &scores.anytime {
        text += &anytime_text(record);
    }
    if let Some(stability) = &scores.stability {
        text += &stability_text(stability);
    }
    text.push('\n');
    text += &terminal_heat_map(&scores.grid(), heads);
    text
}

/// What was spent, and which heads are settled.
fn anytime_text(record: &AnytimeRecord) -> String {
    let AnytimeRecord {
        top_k,
        budget,
        row_passes,
        rounds,
        confidence,
        undecided,
    } = record;
    let mut text = format!("\n{row_passes} of {budget} row passes in {rounds} rounds; ");
    let confidence = 100.0 * confidence;
    if record.is_settled() {
        let _ = writeln!(
            text,
            "the top {top_k} are settled ({confidence} % confidence)"
        );
    } else {
        let undecided: Vec<String> = undecided.iter().map(ToString::to_string).collect();
        let _ = writeln!(
            text,
            "in the top {top_k} or not, undecided ({confidence} % confidence): {}",
            undecided.join(" ")
        );
    }
    text
}

/// How far the scores can be trusted.
fn stability_text(stability: &Stability) -> String {
    let k = stability.top_k;
    let mut text = format!("\nshare of the top {k} heads found by both\n");
    for Overlap {
        between: [a, b],
        share,
    } in &stability.overlaps
    {
        let _ = writeln!(text, "{:>6.0} %  {a}, {b}", 100.0 * share);
    }
    if let Some(gap) = stability.gap {
        let _ = writeln!(
            text,
            "head {k} is {:.5} ahead of the next, standard error {:.5}",
            gap.difference, gap.standard_error
        );
    }
    if let Some(correlation) = stability.attribution_rank_correlation {
        let _ = writeln!(
            text,
            "attribution patching ranks all heads with a correlation of {correlation:.3} (Spearman)"
        );
    }
    if let Some(Rounding {
        dtype,
        largest,
        typical,
    }) = &stability.rounding
    {
        let _ = writeln!(
            text,
            "in {dtype} scores differ by {typical:.5} (median), {largest:.5} at most"
        );
    }
    text
}
