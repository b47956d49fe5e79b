//! The plot as SVG.

use super::axis::{CostAxis, GainAxis, cost_label};
use super::labels::{self, Label, Rectangle};
use super::{COST, GAIN, Plot, Point, class};
use crate::draw::svg::{Elements, coordinate, escape};
use crate::pear::report::{CandidateKind, Report};
use crate::pear::theme;

/// Width and height in pixels.
type Size = (f64, f64);
/// For a page that is wide.
pub(in crate::pear) const WIDE: Size = (760.0, 430.0);
/// For a telephone.
pub(in crate::pear) const NARROW: Size = (336.0, 380.0);

const LEFT: f64 = 40.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 46.0;
/// Radius of a mark.
const MARK: f64 = 5.5;

/// The plot as a file of its own, light or dark with the reader's screen.
pub fn front_svg(report: &Report) -> String {
    let (width, height) = WIDE;
    let style = theme::without_variables(include_str!("plot.css"));
    let title = format!(
        "Following the context against its cost: {}",
        report.model.name
    );
    format!(
        concat!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" class="plot" viewBox="0 0 {width} {height}" width="{width}" height="{height}" "#,
            r#"role="img" aria-label="{label}"><title>{title}</title><style>{style}</style>"#,
            r#"<rect class="behind" width="{width}" height="{height}"/>{elements}</svg>"#,
            "\n"
        ),
        width = width,
        height = height,
        label = escape(&description(report)),
        title = escape(&title),
        style = style,
        elements = Canvas::new(&Plot::new(report), WIDE).draw(),
    )
}

/// The plot for a page whose style sheet has the rules of `plot.css`, with a class of its own.
pub(in crate::pear) fn inline_svg(report: &Report, (width, height): Size, class: &str) -> String {
    format!(
        r#"<svg class="plot {class}" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" aria-label="{label}">{elements}</svg>"#,
        label = escape(&description(report)),
        elements = Canvas::new(&Plot::new(report), (width, height)).draw(),
    )
}

/// What the plot shows, in words.
fn description(report: &Report) -> String {
    let plot = Plot::new(report);
    let points: Vec<String> = plot
        .points
        .iter()
        .map(|point| {
            let choice = if point.chosen { ", the choice" } else { "" };
            format!(
                "{}: KL {:.4}, {:.1} %{choice}",
                point.name,
                point.cost,
                100.0 * point.gain
            )
        })
        .collect();
    format!(
        "Scatter plot. Across: {COST}. Upwards: {GAIN}. {}.",
        points.join("; ")
    )
}

struct Canvas<'a> {
    plot: &'a Plot<'a>,
    size: Size,
    across: CostAxis,
    up: GainAxis,
    elements: Elements,
}

impl<'a> Canvas<'a> {
    fn new(plot: &'a Plot, size: Size) -> Self {
        Self {
            plot,
            size,
            across: CostAxis::new(plot.largest_cost()),
            up: GainAxis::new(plot.gains()),
            elements: Elements::default(),
        }
    }

    fn draw(mut self) -> String {
        self.axes();
        self.front();
        for point in &self.plot.points {
            let (from, to) = (
                self.at(point.cost, point.low),
                self.at(point.cost, point.high),
            );
            self.elements.line("interval", from, to);
        }
        self.names();
        for point in &self.plot.points {
            let mark = mark(point, self.at(point.cost, point.gain));
            self.elements.push(mark);
        }
        self.elements.into_string()
    }

    fn right(&self) -> f64 {
        self.size.0 - RIGHT
    }

    fn bottom(&self) -> f64 {
        self.size.1 - BOTTOM
    }

    /// The pixel of a cost and a share.
    fn at(&self, cost: f64, gain: f64) -> (f64, f64) {
        let x = LEFT + self.across.place(cost) * (self.right() - LEFT);
        let y = self.bottom() - self.up.place(gain) * (self.bottom() - TOP);
        (x, y)
    }

    fn axes(&mut self) {
        let (right, bottom) = (self.right(), self.bottom());
        self.elements.text(
            "start",
            (4.0, 16.0),
            self.fitting(&[
                "↑ conflict questions answered from the context, %",
                "↑ answered from the context, %",
            ]),
        );
        for tick in self.up.ticks() {
            let (_, y) = self.at(0.0, tick);
            self.elements.line("grid", (LEFT, y), (right, y));
            self.elements.text(
                "end",
                (LEFT - 6.0, y + 4.0),
                &format!("{:.0}", 100.0 * tick),
            );
        }
        for tick in self.across.ticks(38.0 / (right - LEFT)) {
            let (x, _) = self.at(tick, 0.0);
            self.elements.line("grid", (x, TOP), (x, bottom));
            self.elements
                .text("middle", (x, bottom + 17.0), &cost_label(tick));
        }
        self.elements.line("axis", (LEFT, bottom), (right, bottom));
        let cost = self.fitting(&[
            "KL divergence from the unmodified model on plain text, nats a token (root scale) →",
            "KL on plain text, nats a token (root scale) →",
        ]);
        self.elements.text("end", (right, bottom + 38.0), cost);
    }

    /// The first of some texts that is not wider than the plot; the last, if none is.
    fn fitting<'t>(&self, texts: &[&'t str]) -> &'t str {
        let fits = |text: &&&str| labels::width(text) < self.size.0 - 8.0;
        texts
            .iter()
            .find(fits)
            .or(texts.last())
            .copied()
            .unwrap_or_default()
    }

    fn front(&mut self) {
        let corners = self.corners();
        self.elements.polyline("front", &corners);
    }

    /// Steps from each point of the front to the right and up to the next.
    fn corners(&self) -> Vec<(f64, f64)> {
        let mut corners = Vec::new();
        for &(cost, gain) in &self.plot.steps {
            let (x, y) = self.at(cost, gain);
            if let Some(&(_, before)) = corners.last() {
                corners.push((x, before));
            }
            corners.push((x, y));
        }
        if let Some(&(_, y)) = corners.last() {
            corners.push((self.right(), y));
        }
        corners
    }

    fn names(&mut self) {
        let area = Rectangle {
            left: LEFT + 2.0,
            top: TOP - 12.0,
            right: self.size.0 - 2.0,
            bottom: self.bottom() - 2.0,
        };
        let places: Vec<_> = self
            .plot
            .points
            .iter()
            .map(|point| self.at(point.cost, point.gain))
            .collect();
        let marks = places.iter().map(|at| Rectangle::around(*at, MARK + 2.0));
        let corners = self.corners();
        let front = corners
            .windows(2)
            .map(|ends| Rectangle::between(ends[0], ends[1], 2.0));
        let taken: Vec<_> = marks.chain(front).collect();
        // The choice has the best place.
        let mut order: Vec<usize> = (0..places.len()).collect();
        order.sort_by_key(|&i| !self.plot.points[i].chosen);
        let named: Vec<_> = order
            .iter()
            .map(|&i| (places[i], shortened(self.plot.points[i].name)))
            .collect();
        for (&i, label) in order.iter().zip(labels::place(&named, &taken, area)) {
            if label.far {
                self.elements
                    .line("leader", places[i], nearest(&label, places[i]));
            }
            let point = &self.plot.points[i];
            let class = if point.chosen { "name choice" } else { "name" };
            self.elements.text(class, label.at, &shortened(point.name));
        }
    }
}

/// A name that has room in the plot.
fn shortened(name: &str) -> String {
    const LONGEST: usize = 20;
    if name.chars().count() <= LONGEST {
        return name.to_owned();
    }
    name.chars().take(LONGEST - 1).chain(['…']).collect()
}

/// The point of a label that is nearest to a place.
fn nearest(label: &Label, (x, y): (f64, f64)) -> (f64, f64) {
    let Rectangle {
        left,
        top,
        right,
        bottom,
    } = label.covers;
    (x.clamp(left, right), y.clamp(top + 3.0, bottom - 3.0))
}

/// A mark whose shape says what kind of candidate it is, and which shows the numbers when it is pointed at.
fn mark(point: &Point, (x, y): (f64, f64)) -> String {
    let [px, py] = [x, y].map(coordinate);
    let kind = point.kind.map_or("unmodified", class);
    let dropped = if point.dropped { " dropped" } else { "" };
    let attributes = format!(r#"class="mark {kind}{dropped}""#);
    let box_of = |side: f64, extra: &str| {
        let [left, top, side] = [x - side / 2.0, y - side / 2.0, side].map(coordinate);
        format!(
            r#"<rect {attributes} x="{left}" y="{top}" width="{side}" height="{side}"{extra}/>"#
        )
    };
    let shape = match point.kind {
        None => box_of(2.0 * MARK, r#" rx="2""#),
        Some(CandidateKind::Ranked) => {
            format!(r#"<circle {attributes} cx="{px}" cy="{py}" r="{MARK}"/>"#)
        }
        Some(CandidateKind::Fixed) => {
            let (bottom, half) = (y + 0.8 * MARK, 1.1 * MARK);
            let corners = [(x - half, bottom), (x + half, bottom), (x, y - 1.2 * MARK)];
            polygon(&attributes, &corners)
        }
        Some(CandidateKind::AllHeads) => {
            let r = 1.25 * MARK;
            polygon(
                &attributes,
                &[(x - r, y), (x, y - r), (x + r, y), (x, y + r)],
            )
        }
    };
    let ring = if point.chosen {
        format!(
            r#"<circle class="ring" cx="{px}" cy="{py}" r="{}"/>"#,
            MARK + 5.0
        )
    } else {
        String::new()
    };
    let [gain, low, high] = [point.gain, point.low, point.high].map(|share| 100.0 * share);
    let numbers = format!(
        "{}: KL {:.4}, {gain:.1} % (95 % interval {low:.1} to {high:.1})",
        point.name, point.cost
    );
    format!("<g><title>{}</title>{ring}{shape}</g>", escape(&numbers))
}

fn polygon(attributes: &str, corners: &[(f64, f64)]) -> String {
    let points: Vec<String> = corners
        .iter()
        .map(|&(x, y)| format!("{},{}", coordinate(x), coordinate(y)))
        .collect();
    format!(r#"<polygon {attributes} points="{}"/>"#, points.join(" "))
}
