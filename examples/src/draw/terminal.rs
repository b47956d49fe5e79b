//! Heat maps for the terminal.

use std::fmt::Write;
use std::io::{IsTerminal, stdout};

use pear_core::HeadId;

use super::{diverging, largest};

/// A heat map of `grid[layer][head]`, one line for each layer: in colours if standard output is a terminal, in characters otherwise.
///
/// As a character, a score is a digit in tenths of the largest one, `-` if it is below zero and `.` if it is close to zero. `marked`
/// heads are put in brackets if a line has room for them.
pub fn terminal_heat_map(grid: &[Vec<f64>], marked: &[HeadId]) -> String {
    let colours = stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    draw(grid, marked, colours)
}

fn draw(grid: &[Vec<f64>], marked: &[HeadId], colours: bool) -> String {
    let limit = largest(grid);
    let columns = grid.iter().map(Vec::len).max().unwrap_or(0);
    let wide = columns <= 32;
    let mut text = String::new();
    for (layer, row) in grid.iter().enumerate() {
        let _ = write!(text, "{layer:>5} ");
        for (head, &score) in row.iter().enumerate() {
            let marked = marked.contains(&HeadId::new(layer, head));
            text += &if colours {
                colour(score / limit, marked, wide)
            } else {
                sign(score / limit, marked, wide)
            };
        }
        text.push('\n');
    }
    let width_of_cell = match (wide, colours) {
        (false, _) => 1,
        (true, true) => 2,
        (true, false) => 3,
    };
    let width = columns * width_of_cell;
    let _ = writeln!(
        text,
        "layer {:^width$}",
        format!("head 0–{}", columns.saturating_sub(1))
    );
    text
}

fn colour(score: f64, marked: bool, wide: bool) -> String {
    let plotters::style::RGBColor(r, g, b) = diverging(score);
    let letter = match (marked, wide) {
        (true, true) => "[]",
        (true, false) => "o",
        (false, true) => "  ",
        (false, false) => " ",
    };
    let ink = if score.abs() > 0.5 { "97" } else { "30" };
    format!("\x1b[48;2;{r};{g};{b}m\x1b[{ink}m{letter}\x1b[0m")
}

fn sign(score: f64, marked: bool, wide: bool) -> String {
    let sign = if score.is_nan() {
        '?'
    } else if score.abs() < 0.05 {
        '.'
    } else if score < 0.0 {
        '-'
    } else {
        char::from(b'0' + (score * 10.0).min(9.0) as u8)
    };
    match (wide, marked) {
        (true, true) => format!("[{sign}]"),
        (true, false) => format!(" {sign} "),
        (false, _) => sign.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_characters_and_marked_heads_in_brackets() {
        let text = draw(
            &[vec![1.0, -0.5, 0.0], vec![0.31, f64::NAN, 0.02]],
            &[HeadId::new(0, 0)],
            false,
        );
        assert_eq!(text, "    0 [9] -  . \n    1  3  ?  . \nlayer head 0–2 \n");
    }

    #[test]
    fn each_colour_is_reset() {
        let text = draw(
            &[vec![1.0; 64], vec![-1.0; 64]],
            &[HeadId::new(1, 63)],
            true,
        );
        assert_eq!(text.matches("\x1b[48;2;").count(), 128);
        assert_eq!(text.matches("\x1b[0m").count(), 128);
    }
}
