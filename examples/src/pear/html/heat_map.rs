//! Heat maps of all heads for the page. The cells are drawn once, in units of a cell, and shown twice: with layers from top to bottom
//! where the page is narrow, from left to right where it is wide.

use std::fmt::Write;

use pear_core::HeadId;
use plotters::style::RGBColor;

use crate::draw::svg::{Elements, coordinate, escape};
use crate::draw::{diverging, diverging_on_dark, largest};
use crate::pear::number::three_digits;
use crate::pear::theme::DARK;

/// Shades on each side of zero.
const SHADES: i32 = 12;
/// Widths in pixels that a map may have.
const WIDE: f64 = 900.0;
const NARROW: f64 = 336.0;
/// Room for the numbers and the name of an axis.
const MARGIN: f64 = 40.0;

/// One value for each head.
pub(super) struct HeatMap<'a> {
    /// Sets it apart from the other maps of the page.
    pub(super) id: &'a str,
    /// What the values are.
    pub(super) caption: &'a str,
    /// `[layer][head]`; zero has no colour.
    pub(super) grid: &'a [Vec<f64>],
    /// Heads with a frame.
    pub(super) outlined: &'a [HeadId],
    /// What is shown for a value when its cell is pointed at and at the ends of the scale.
    pub(super) label: &'a dyn Fn(f64) -> String,
}

/// The colours of all maps as a style sheet.
pub(super) fn shades() -> String {
    let rules = |colour: fn(f64) -> RGBColor| {
        (-SHADES..=SHADES).fold(String::new(), |mut css, shade| {
            let RGBColor(r, g, b) = colour(f64::from(shade) / f64::from(SHADES));
            let _ = write!(css, ".{}{{fill:#{r:02x}{g:02x}{b:02x}}}", class(shade));
            css
        })
    };
    format!(
        ".unknown{{fill:#a0a0a0}}{}\n{DARK}{{{}}}\n",
        rules(diverging),
        rules(diverging_on_dark)
    )
}

fn class(shade: i32) -> String {
    match shade {
        0 => "z".into(),
        1.. => format!("p{shade}"),
        _ => format!("n{}", -shade),
    }
}

impl HeatMap<'_> {
    pub(super) fn figure(&self) -> String {
        let id = self.id;
        format!(
            r#"<figure class="map" id="{id}"><figcaption>{}</figcaption>{}{}{}{}</figure>"#,
            escape(self.caption),
            self.cells(),
            self.picture(Way::Across),
            self.picture(Way::Down),
            self.scale(),
        )
    }

    fn layers(&self) -> usize {
        self.grid.len()
    }

    fn heads(&self) -> usize {
        self.grid.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// All cells and frames, to be referred to: heads from left to right, layers from top to bottom, one unit each.
    fn cells(&self) -> String {
        let limit = largest(self.grid);
        let mut cells = Elements::default();
        for (layer, row) in self.grid.iter().enumerate() {
            for (head, &value) in row.iter().enumerate() {
                let class = shade(value / limit);
                let label = escape(&(self.label)(value));
                cells.push(format_args!(
                    r#"<rect class="{class}" x="{head}" y="{layer}" width=".94" height=".94"><title>layer {layer}, head {head}: {label}</title></rect>"#
                ));
            }
        }
        for HeadId { layer, head } in self.outlined {
            cells.push(format_args!(
                r#"<rect class="outline" x="{head}" y="{layer}" width=".94" height=".94"/>"#
            ));
        }
        format!(
            r#"<svg class="defs" aria-hidden="true"><defs><g id="{}-cells">{}</g></defs></svg>"#,
            self.id,
            cells.into_string()
        )
    }

    fn picture(&self, way: Way) -> String {
        let [layers, heads] = [self.layers(), self.heads()].map(|count| count as f64);
        let (columns, rows, room) = match way {
            Way::Across => (layers, heads, WIDE),
            Way::Down => (heads, layers, NARROW),
        };
        let cell = ((room - MARGIN) / columns.max(1.0)).clamp(2.0, 24.0);
        let (width, height) = (MARGIN + columns * cell, rows * cell + MARGIN);
        let side = coordinate(cell);
        let (transform, class) = match way {
            Way::Across => (format!("matrix(0 {side} {side} 0 {MARGIN} 0)"), "wide-only"),
            Way::Down => (format!("translate({MARGIN} 0) scale({side})"), "narrow"),
        };
        let [w, h] = [width, height].map(coordinate);
        format!(
            concat!(
                r##"<svg class="plot {class}" viewBox="0 0 {w} {h}" width="{w}" height="{h}" role="img" aria-label="{label}">"##,
                r##"<use href="#{id}-cells" transform="{transform}"/>{axes}</svg>"##
            ),
            class = class,
            w = w,
            h = h,
            label = escape(&self.description()),
            id = self.id,
            transform = transform,
            axes = axes(way, columns as usize, rows as usize, cell),
        )
    }

    /// The map in words.
    fn description(&self) -> String {
        let [layers, heads] = [self.layers(), self.heads()];
        let framed = match self.outlined.len() {
            0 => String::new(),
            count => format!("; {count} heads are framed"),
        };
        format!(
            "Heat map of {layers} layers and {heads} heads. {}{framed}.",
            self.caption.trim_end_matches('.')
        )
    }

    /// The shades with the values at both ends.
    fn scale(&self) -> String {
        let limit = largest(self.grid);
        let mut bar = Elements::default();
        let count = 2 * SHADES + 1;
        for (i, shade) in (-SHADES..=SHADES).enumerate() {
            let [x, width] = [i as f64, 1.02].map(|x| coordinate(100.0 * x / f64::from(count)));
            bar.push(format_args!(
                r#"<rect class="{}" x="{x}%" width="{width}%" height="100%"/>"#,
                class(shade)
            ));
        }
        format!(
            r#"<div class="scale"><span>{}</span><svg aria-hidden="true">{}</svg><span>{}</span></div>"#,
            escape(&(self.label)(-limit)),
            bar.into_string(),
            escape(&(self.label)(limit))
        )
    }
}

/// Which way layers go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Across,
    Down,
}

/// The class of a value between −1 and 1.
fn shade(value: f64) -> String {
    if value.is_nan() {
        return "unknown".into();
    }
    class((value.clamp(-1.0, 1.0) * f64::from(SHADES)).round() as i32)
}

/// The numbers and names of both axes, left of the cells and below them.
fn axes(way: Way, columns: usize, rows: usize, cell: f64) -> String {
    let (across, down) = match way {
        Way::Across => ("layer", "head"),
        Way::Down => ("head", "layer"),
    };
    let mut axes = Elements::default();
    let bottom = rows as f64 * cell;
    let middle = |index: usize| (index as f64 + 0.47) * cell;
    for column in (0..columns).step_by(step(cell, 20.0)) {
        axes.text(
            "middle",
            (MARGIN + middle(column), bottom + 15.0),
            &column.to_string(),
        );
    }
    for row in (0..rows).step_by(step(cell, 13.0)) {
        axes.text("end", (MARGIN - 6.0, middle(row) + 4.0), &row.to_string());
    }
    axes.text("start", (MARGIN, bottom + 33.0), &format!("{across} →"));
    axes.text("start", (0.0, bottom + 15.0), down);
    axes.into_string()
}

/// Every how many cells there is room for a number.
fn step(cell: f64, room: f64) -> usize {
    [1, 2, 5, 10, 20]
        .into_iter()
        .find(|step| *step as f64 * cell >= room)
        .unwrap_or(50)
}

/// A coefficient by its distance from 1.
pub(super) fn coefficient(distance: f64) -> String {
    format!("{:.2}", 1.0 + distance)
}

/// A score with its sign.
pub(super) fn score(value: f64) -> String {
    let sign = if value > 0.0 { "+" } else { "" };
    format!("{sign}{}", three_digits(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_head_is_drawn_once_and_shown_both_ways() {
        for (layers, heads) in [(1, 1), (30, 9), (80, 64), (0, 0)] {
            let grid: Vec<Vec<f64>> = (0..layers)
                .map(|l| {
                    (0..heads)
                        .map(|h| ((l * 7 + h * 3) % 11) as f64 - 5.0)
                        .collect()
                })
                .collect();
            let map = HeatMap {
                id: "scores",
                caption: "a & <b>",
                grid: &grid,
                outlined: &[],
                label: &score,
            };
            let figure = map.figure();
            assert_eq!(figure.matches("<title>layer ").count(), layers * heads);
            assert_eq!(figure.matches(r##"<use href="#scores-cells""##).count(), 2);
            assert!(figure.contains("<figcaption>a &amp; &lt;b&gt;</figcaption>"));
        }
    }

    #[test]
    fn shades_have_a_rule_in_both_schemes() {
        let css = shades();
        for value in [-1.0, -0.4, 0.0, 0.01, 1.0, 3.0, f64::INFINITY] {
            let rule = format!(".{}{{", shade(value));
            assert_eq!(css.matches(&rule).count(), 2, "{value}: {rule}");
        }
        assert!(css.contains(&format!(".{}{{", shade(f64::NAN))));
    }
}
