//! The plot in characters.

use std::fmt::Write;

use super::axis::{CostAxis, GainAxis, cost_label};
use super::{COST, GAIN, Plot, Point};
use crate::pear::report::Report;

const WIDTH: usize = 64;
const HEIGHT: usize = 16;
/// Left of the plot: the numbers at the vertical axis.
const LEFT: usize = 5;

/// The plot for a terminal: a sign for each model, the front as a line of dots, and below it what the signs stand for. The choice is in
/// brackets.
pub fn terminal_front(report: &Report) -> String {
    let plot = Plot::new(report);
    let across = CostAxis::new(plot.largest_cost());
    let up = GainAxis::new(plot.gains());
    let mut grid = vec![vec![' '; WIDTH]; HEIGHT];
    let column = |cost: f64| (across.place(cost) * (WIDTH - 3) as f64).round() as usize + 1;
    let row = |gain: f64| HEIGHT - 1 - (up.place(gain) * (HEIGHT - 1) as f64).round() as usize;

    front(&mut grid, &plot, column, row);
    // The choice last: nothing covers it.
    let mut order: Vec<usize> = (0..plot.points.len()).rev().collect();
    order.sort_by_key(|&i| plot.points[i].chosen);
    for index in order {
        let point = &plot.points[index];
        let (x, y) = (column(point.cost), row(point.gain));
        grid[y][x] = sign(index);
        if point.chosen {
            (grid[y][x - 1], grid[y][x + 1]) = ('[', ']');
        }
    }

    let mut text = format!("{GAIN}\n");
    let ticks = up.ticks();
    for (y, line) in grid.iter().enumerate() {
        let label = ticks.iter().find(|tick| row(**tick) == y);
        let label = label.map_or(String::new(), |tick| format!("{:.0}", 100.0 * tick));
        let line: String = line.iter().collect();
        let _ = writeln!(text, "{label:>LEFT$} │{}", line.trim_end());
    }
    text += &cost_axis(across, column);
    let _ = writeln!(text, "{:LEFT$}  {COST}\n", "");
    text + &legend(&plot.points)
}

/// Dots along the front, where there is nothing else.
fn front(
    grid: &mut [Vec<char>],
    plot: &Plot,
    column: impl Fn(f64) -> usize,
    row: impl Fn(f64) -> usize,
) {
    let ends = plot
        .steps
        .iter()
        .skip(1)
        .map(|(cost, gain)| (column(*cost), row(*gain)));
    let ends = ends.chain(std::iter::once((WIDTH - 1, 0)));
    for (&(cost, gain), (next, above)) in plot.steps.iter().zip(ends) {
        let (x, y) = (column(cost), row(gain));
        for place in &mut grid[y][x..=next] {
            *place = '·';
        }
        // To the right of the last one there is no further step.
        if next < WIDTH - 1 {
            for line in &mut grid[above.min(y)..y] {
                line[next] = '·';
            }
        }
    }
}

/// The horizontal axis with its numbers.
fn cost_axis(axis: CostAxis, column: impl Fn(f64) -> usize) -> String {
    let mut line = vec!['─'; WIDTH];
    let mut labels = vec![' '; WIDTH + 4];
    for tick in axis.ticks(8.0 / WIDTH as f64) {
        let x = column(tick);
        line[x] = '┴';
        let label = cost_label(tick);
        let start = x.saturating_sub(label.len() / 2);
        for (place, c) in labels[start..].iter_mut().zip(label.chars()) {
            *place = c;
        }
    }
    let [line, labels] = [line, labels].map(|chars| chars.into_iter().collect::<String>());
    format!(
        "{:LEFT$} └{line}\n{:LEFT$}  {}\n",
        "",
        "",
        labels.trim_end()
    )
}

/// The sign of a point: a digit, then letters.
fn sign(index: usize) -> char {
    const SIGNS: &str = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    SIGNS.chars().nth(index).unwrap_or('+')
}

fn legend(points: &[Point]) -> String {
    let width = points.iter().map(|point| point.name.chars().count()).max();
    let width = width.unwrap_or(0);
    let mut text = String::new();
    for (index, point) in points.iter().enumerate() {
        let sign = sign(index);
        let sign = if point.chosen {
            format!("[{sign}]")
        } else {
            format!(" {sign} ")
        };
        let note = match (point.chosen, point.dropped) {
            (true, _) => "  chosen",
            (_, true) => "  dropped",
            _ => "",
        };
        let _ = writeln!(
            text,
            "{sign}  {:<width$}  KL {:<8.4} {:>5.1} %{note}",
            point.name,
            point.cost,
            100.0 * point.gain
        );
    }
    text
}
