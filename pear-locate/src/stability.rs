//! Whether the heads found are a matter of the sequences, the lengths or the metric.

use pear_core::HeadId;

use crate::report::{Report, length_scores};
use crate::separation::{Length, candidates};
use crate::{Gap, Metric, Overlap, PatchedLogits, Result, Scores, Stability};

/// Compares the `top_k` heads of a report with those of its halves (even and odd sequences of every length), those of each length with
/// those of every other, and those of its metric with those of the metrics that the same logits give; and measures how far head
/// `top_k` stands above the next.
///
/// What cannot be computed is left out: halves of single sequences, a ratio to a logit of zero.
pub fn stability(report: &Report, top_k: usize) -> Stability {
    let metric = report.scores.settings.metric;
    let every = |step, start| {
        report
            .by_length
            .iter()
            .map(move |length| length.logits.every(step, start))
    };
    let mut overlaps = Vec::new();
    if report
        .by_length
        .iter()
        .all(|length| length.logits.samples() > 1)
    {
        let halves = [0, 1].map(|start| top(report, metric, every(2, start), top_k));
        overlaps.extend(overlap(["even sequences", "odd sequences"], &halves));
    }
    for (index, a) in report.by_length.iter().enumerate() {
        for b in &report.by_length[index + 1..] {
            let tops = [a, b]
                .map(|length| top(report, metric, [length.logits.clone()].into_iter(), top_k));
            overlaps.extend(overlap(
                [a, b].map(|length| format!("n = {}", length.logits.n)),
                &tops,
            ));
        }
    }
    for other in [Metric::LogitRatio, Metric::LogitDiff]
        .into_iter()
        .filter(|&other| other != metric)
    {
        let tops = [
            Ok(report.scores.top(top_k)),
            top(report, other, every(1, 0), top_k),
        ];
        overlaps.extend(overlap(
            [metric, other].map(|metric| metric.to_string()),
            &tops,
        ));
    }
    Stability {
        top_k,
        overlaps,
        gap: gap(report, top_k),
        attribution_rank_correlation: None,
        rounding: None,
    }
}

fn overlap(between: [impl Into<String>; 2], tops: &[Result<Vec<HeadId>>; 2]) -> Option<Overlap> {
    match tops {
        [Ok(a), Ok(b)] => Some(Overlap::of(between, a, b)),
        _ => None,
    }
}

fn top(
    report: &Report,
    metric: Metric,
    logits: impl Iterator<Item = PatchedLogits>,
    top_k: usize,
) -> Result<Vec<HeadId>> {
    let by_length = logits
        .map(|logits| length_scores(metric, &logits))
        .collect::<Result<_>>()?;
    Ok(Scores::new(
        report.scores.model.clone(),
        report.scores.settings.clone(),
        by_length,
    )?
    .top(top_k))
}

/// Spearman's rank correlation of two scores of the same heads, in −1 ..= 1; `None` where all scores of one are equal, or layers differ.
pub fn rank_correlation(a: &Scores, b: &Scores) -> Option<f64> {
    if a.model != b.model || a.layers() != b.layers() {
        return None;
    }
    let scored = |scores: &Scores| {
        scores
            .grid()
            .into_iter()
            .flatten()
            .filter(|score| !score.is_nan())
            .collect::<Vec<f64>>()
    };
    let centred = |scores: &[f64]| {
        // Equal scores share the mean of their ranks; less half the number of heads, ranks have mean 0.
        let below = |x: &f64| scores.iter().filter(|y| *y < x).count() as f64;
        let not_above = |x: &f64| scores.iter().filter(|y| *y <= x).count() as f64;
        scores
            .iter()
            .map(|x| (below(x) + not_above(x) - scores.len() as f64) / 2.0)
            .collect::<Vec<f64>>()
    };
    let (a, b) = (centred(&scored(a)), centred(&scored(b)));
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let scale = (product(&a, &a) * product(&b, &b)).sqrt();
    (scale > 0.0).then(|| product(&a, &b) / scale)
}

/// Heads are compared on the same sequences, so that what moves both does not count as noise.
fn gap(report: &Report, top_k: usize) -> Option<Gap> {
    let ranked = report.scores.ranked();
    let (last, next) = (ranked.get(top_k.checked_sub(1)?)?, ranked.get(top_k)?);
    let lengths: Vec<Length<'_>> = report
        .by_length
        .iter()
        .zip(&report.scores.by_length)
        .map(|(report, scores)| Length {
            logits: &report.logits,
            available: scores.available(),
        })
        .collect();
    let settings = &report.scores.settings;
    let candidates = candidates(settings.metric, settings.rank_by, &lengths).ok()?;
    let of = |head: HeadId| candidates.iter().find(|candidate| candidate.head == head);
    let gap = of(last.head)?.less(of(next.head)?);
    Some(Gap {
        difference: gap.difference,
        standard_error: gap.standard_error?,
    })
}
