//! Heat maps of scores and curves of training, as SVG or PNG depending on the name of the file; heat maps for the terminal.
//!
//! The font (DejaVu Sans) is part of the program, so that pictures do not depend on the fonts of the machine.

mod colour;
mod curves;
mod heat_map;
pub(crate) mod svg;
mod terminal;

use std::io::Write;
use std::path::Path;
use std::sync::Once;

use anyhow::{Context, Result, anyhow, bail};
use pear_core::files::write_atomic;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};

pub(crate) use colour::{diverging, diverging_on_dark};
pub use curves::{Curve, curves, curves_over};
pub use heat_map::heat_map;
pub use terminal::terminal_heat_map;

/// The name under which the font is registered in plotters, and which an SVG file refers to.
const FONT: &str = "sans-serif";

/// A drawing area of either format.
type Canvas<'a, B> = DrawingArea<B, Shift>;

/// A picture that can be drawn in either format.
trait Picture {
    fn size(&self) -> (u32, u32);
    fn draw<B: DrawingBackend>(
        &self,
        canvas: &Canvas<B>,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>>;
}

/// Checks the name of a picture.
///
/// # Errors
/// If `path` ends neither in `.svg` nor in `.png`.
pub fn check_picture(path: &Path) -> Result<()> {
    format(path).map(|_| ())
}

enum Format {
    Svg,
    Png,
}

fn format(path: &Path) -> Result<Format> {
    match path
        .extension()
        .and_then(|e| e.to_str())
        .map(str::to_ascii_lowercase)
        .as_deref()
    {
        Some("svg") => Ok(Format::Svg),
        Some("png") => Ok(Format::Png),
        _ => bail!(
            "{}: expected a name that ends in .svg or .png",
            path.display()
        ),
    }
}

/// Draws a picture and writes it atomically.
fn write(path: &Path, picture: &impl Picture) -> Result<()> {
    static FONTS: Once = Once::new();
    FONTS.call_once(|| {
        // The font is a constant; if it were broken, drawing would fail.
        let _ = register_font(FONT, FontStyle::Normal, dejavu::sans::regular());
    });
    let bytes = match format(path)? {
        Format::Svg => {
            let mut text = String::new();
            render(SVGBackend::with_string(&mut text, picture.size()), picture)?;
            text.into_bytes()
        }
        Format::Png => {
            // plotters encodes a PNG only when it writes to a file with that extension.
            let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
            let file = folder.path().join("picture.png");
            render(BitMapBackend::new(&file, picture.size()), picture)?;
            std::fs::read(&file)?
        }
    };
    write_atomic(path, |file| file.write_all(&bytes))
        .with_context(|| format!("{}: cannot write", path.display()))
}

fn render<B: DrawingBackend>(backend: B, picture: &impl Picture) -> Result<()> {
    let canvas = backend.into_drawing_area();
    let drawn = canvas
        .fill(&WHITE)
        .and_then(|()| picture.draw(&canvas))
        .and_then(|()| canvas.present());
    drawn.map_err(|e| anyhow!("cannot draw the picture: {e}"))
}

/// The largest finite absolute value in a grid; 1 if all are zero.
pub(crate) fn largest(grid: &[Vec<f64>]) -> f64 {
    let largest = grid
        .iter()
        .flatten()
        .filter(|x| x.is_finite())
        .fold(0.0, |largest: f64, x| largest.max(x.abs()));
    if largest > 0.0 { largest } else { 1.0 }
}

/// Three significant digits, with an exponent only for very small and very large numbers.
pub(crate) fn short(x: f64) -> String {
    match x.abs() {
        0.0 => "0".into(),
        a if (0.001..10000.0).contains(&a) => {
            let digits = (2 - a.log10().floor() as i32).max(0) as usize;
            format!("{x:.digits$}")
        }
        _ => format!("{x:.1e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pear_core::HeadId;

    #[test]
    fn heat_maps_of_any_size_are_drawn_in_both_formats() {
        let folder = tempfile::tempdir().unwrap();
        for (layers, heads) in [(1, 1), (2, 4), (80, 64), (0, 0)] {
            let grid: Vec<Vec<f64>> = (0..layers)
                .map(|l| {
                    (0..heads)
                        .map(|h| ((l * 7 + h * 3) % 11) as f64 - 5.0)
                        .collect()
                })
                .collect();
            let outlined: Vec<HeadId> = (0..layers.min(heads)).map(|i| HeadId::new(i, i)).collect();
            let [svg, png] = ["map.svg", "map.PNG"].map(|name| folder.path().join(name));
            heat_map(&svg, "scores & <heads>", &grid, &outlined).unwrap();
            heat_map(&png, "scores", &grid, &outlined).unwrap();
            let text = std::fs::read_to_string(svg).unwrap();
            assert!(
                text.starts_with("<svg")
                    && text.trim_end().ends_with("</svg>")
                    && text.contains("&lt;heads&gt;")
            );
            assert!(std::fs::read(png).unwrap().starts_with(b"\x89PNG"));
        }
    }

    #[test]
    fn curves_of_any_length_and_of_non_finite_values_are_drawn() {
        let folder = tempfile::tempdir().unwrap();
        for (index, values) in [
            vec![],
            vec![1.0],
            vec![f64::NAN, f64::INFINITY],
            vec![3.0; 5],
            vec![1e9, -1e9, 2.0],
        ]
        .into_iter()
        .enumerate()
        {
            let many = (0..3)
                .map(|i| Curve::new(i.to_string(), values.clone()))
                .collect();
            let panels = [
                ("loss", vec![Curve::new("loss", values)]),
                ("coefficients", many),
            ];
            curves(&folder.path().join(format!("{index}.png")), &panels).unwrap();
            curves(&folder.path().join(format!("{index}.svg")), &panels).unwrap();
        }
    }

    #[test]
    fn names_of_other_formats_are_refused() {
        for name in ["map.jpg", "map", "svg", ".svg", ""] {
            assert!(check_picture(name.as_ref()).is_err(), "{name}");
        }
    }

    #[test]
    fn numbers_have_three_significant_digits() {
        assert_eq!(
            [0.0, 0.5, -12.3, 1234.0, 1e-5].map(short),
            ["0", "0.500", "-12.3", "1234", "1.0e-5"]
        );
    }
}
