//! A heat map made of characters.

use std::fmt::Write;
use std::io::{IsTerminal, stdout};

use pear_core::HeadId;

use super::{diverging, largest};

/// `grid[layer][head]` in a few lines: colours where standard output is a terminal, digits and signs otherwise.
///
/// Without colours a digit is the score in tenths of the largest one, `-` a score below zero and `.` one near zero. `marked` heads
/// stand in brackets, where a line has room for them.
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
    let width = columns
        * if !wide {
            1
        } else if colours {
            2
        } else {
            3
        };
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
    let sign = match (score * 10.0).floor() {
        _ if score.is_nan() => '?',
        _ if score.abs() < 0.05 => '.',
        tenths if tenths < 0.0 => '-',
        tenths => char::from(b'0' + tenths.min(9.0) as u8),
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
    fn signs_and_brackets() {
        let text = draw(
            &[vec![1.0, -0.5, 0.0], vec![0.31, f64::NAN, 0.02]],
            &[HeadId::new(0, 0)],
            false,
        );
        assert_eq!(text, "    0 [9] -  . \n    1  3  ?  . \nlayer head 0–2 \n");
    }

    #[test]
    fn colours_are_reset() {
        let text = draw(
            &[vec![1.0; 64], vec![-1.0; 64]],
            &[HeadId::new(1, 63)],
            true,
        );
        assert_eq!(text.matches("\x1b[48;2;").count(), 128);
        assert_eq!(text.matches("\x1b[0m").count(), 128);
    }
}
