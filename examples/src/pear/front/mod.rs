//! The trade-off between following the context and what it costs on plain text: the candidates, and the Pareto front through the best.

mod axis;
mod labels;
mod picture;
mod terminal;

use super::report::{Candidate, CandidateKind, Report};

pub use picture::front_svg;
pub(super) use picture::{NARROW, WIDE, inline_svg};
pub use terminal::terminal_front;

/// What the horizontal axis measures.
const COST: &str =
    "KL divergence from the unmodified model on plain text (nats a token, root scale)";
/// What the vertical axis measures.
const GAIN: &str = "conflict questions answered from the context (%)";
/// The name of the model without coefficients.
const UNMODIFIED: &str = "unmodified";

/// A model in the plot.
#[derive(Clone, Debug, PartialEq)]
struct Point<'a> {
    name: &'a str,
    /// How its coefficients came about; `None`: it has none.
    kind: Option<CandidateKind>,
    /// KL divergence, not negative.
    cost: f64,
    /// Share of the questions, with its interval.
    gain: f64,
    low: f64,
    high: f64,
    dropped: bool,
    chosen: bool,
}

/// The models that answered questions, and the corners of the front.
#[derive(Clone, Debug, PartialEq)]
struct Plot<'a> {
    /// The unmodified model first, then candidates in the order of the report.
    points: Vec<Point<'a>>,
    /// What can be had at each cost: from a point of the front to the right, up to the next one.
    steps: Vec<(f64, f64)>,
}

impl<'a> Plot<'a> {
    fn new(report: &'a Report) -> Self {
        let before = report.baseline.conflicting;
        let unmodified = Point {
            name: UNMODIFIED,
            kind: None,
            cost: 0.0,
            gain: before.mean,
            low: before.low,
            high: before.high,
            dropped: false,
            chosen: report.chosen().is_none(),
        };
        let chosen = report.choice.candidate.as_deref();
        let candidates = report
            .candidates
            .iter()
            .filter_map(|candidate| point(candidate, chosen == Some(candidate.id.as_str())));
        let points: Vec<_> = std::iter::once(unmodified)
            .chain(candidates)
            .filter(|point| point.cost.is_finite() && point.gain.is_finite())
            .collect();
        let on_front =
            |point: &&Point| point.kind.is_none() || report.front.iter().any(|id| id == point.name);
        let mut front: Vec<(f64, f64)> = points
            .iter()
            .filter(on_front)
            .map(|point| (point.cost, point.gain))
            .collect();
        front.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
        Self {
            points,
            steps: front,
        }
    }

    fn largest_cost(&self) -> f64 {
        self.points
            .iter()
            .map(|point| point.cost)
            .fold(0.0, f64::max)
    }

    /// The smallest and the largest gain, intervals included.
    fn gains(&self) -> (f64, f64) {
        self.points
            .iter()
            .fold((1.0, 0.0), |(low, high): (f64, f64), point| {
                (low.min(point.low), high.max(point.high))
            })
    }
}

fn point(candidate: &Candidate, chosen: bool) -> Option<Point<'_>> {
    let gain = candidate.measures.as_ref()?.conflicting;
    Some(Point {
        name: &candidate.id,
        kind: Some(candidate.kind),
        cost: candidate.divergence.kl.max(0.0),
        gain: gain.mean,
        low: gain.low,
        high: gain.high,
        dropped: candidate.dropped.is_some(),
        chosen,
    })
}

/// The class of a candidate in style sheets.
pub(super) fn class(kind: CandidateKind) -> &'static str {
    match kind {
        CandidateKind::Ranked => "ranked",
        CandidateKind::Fixed => "fixed",
        CandidateKind::AllHeads => "all-heads",
    }
}
