//! Line charts of values over steps.

use std::path::Path;

use anyhow::Result;
use plotters::element::Text;
use plotters::prelude::*;
use plotters::style::RGBAColor;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{Canvas, FONT, Picture};

/// Width of the names to the right of the curves.
const NAMES: i32 = 72;

/// One line of a chart: a value for each step.
#[derive(Clone, Debug)]
pub struct Curve {
    /// Label at the end of the line, shown where there are several lines.
    pub name: String,
    /// The values, from step 0; those that are not finite are left out.
    pub values: Vec<f64>,
}

impl Curve {
    /// A line called `name`.
    pub fn new(name: impl Into<String>, values: Vec<f64>) -> Self {
        Self {
            name: name.into(),
            values,
        }
    }
}

/// Draws panels one above the other, each with a title and curves over steps.
///
/// # Errors
/// A name that ends neither in `.svg` nor in `.png`, or a file that cannot be written.
pub fn curves(path: &Path, panels: &[(&str, Vec<Curve>)]) -> Result<()> {
    curves_over(path, "step", panels)
}

/// Same as [`curves`], with another label for the horizontal axis.
///
/// # Errors
/// As [`curves`].
pub fn curves_over(path: &Path, what: &str, panels: &[(&str, Vec<Curve>)]) -> Result<()> {
    super::write(path, &Panels { what, panels })
}

struct Panels<'a> {
    /// Label of the horizontal axis.
    what: &'a str,
    panels: &'a [(&'a str, Vec<Curve>)],
}

impl Picture for Panels<'_> {
    fn size(&self) -> (u32, u32) {
        (760, 320 * self.panels.len().max(1) as u32)
    }

    fn draw<B: DrawingBackend>(
        &self,
        canvas: &Canvas<B>,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        let areas = canvas.split_evenly((self.panels.len().max(1), 1));
        for (area, (title, curves)) in areas.iter().zip(self.panels) {
            draw_panel(area, self.what, title, curves)?;
        }
        Ok(())
    }
}

fn draw_panel<B: DrawingBackend>(
    area: &Canvas<B>,
    what: &str,
    title: &str,
    curves: &[Curve],
) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
    let finite = || {
        curves
            .iter()
            .flat_map(|curve| &curve.values)
            .copied()
            .filter(|value| value.is_finite())
    };
    let mut low = finite().fold(f64::INFINITY, f64::min);
    let mut high = finite().fold(f64::NEG_INFINITY, f64::max);
    if low > high {
        // There are no values.
        (low, high) = (0.0, 1.0);
    }
    let margin = ((high - low) * 0.05).max(high.abs() * 1e-3).max(1e-6);
    let steps = curves
        .iter()
        .map(|curve| curve.values.len())
        .max()
        .unwrap_or(0);

    let named = curves.len() > 1;
    let mut chart = ChartBuilder::on(area)
        .caption(title, (FONT, 18))
        .margin(12)
        .margin_right(NAMES)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d(
            0.0..steps.saturating_sub(1).max(1) as f64,
            low - margin..high + margin,
        )?;
    // As many decimals as show two digits of the range.
    let digits = (1.0 - (high - low + 2.0 * margin).log10().floor()).clamp(0.0, 9.0) as usize;
    let number = |y: &f64| format!("{y:.digits$}");
    let whole = |x: &f64| {
        if x.fract() == 0.0 {
            format!("{x}")
        } else {
            String::new()
        }
    };
    let mut mesh = chart.configure_mesh();
    mesh.light_line_style(WHITE)
        .label_style((FONT, 13))
        .x_desc(what)
        .x_label_formatter(&whole)
        .y_label_formatter(&number)
        .draw()?;

    let mut ends = Vec::new();
    for (index, curve) in curves.iter().enumerate() {
        let colour = Palette99::pick(index).to_rgba();
        let points = curve
            .values
            .iter()
            .enumerate()
            .map(|(step, &value)| (step as f64, value));
        let points: Vec<_> = points.filter(|(_, value)| value.is_finite()).collect();
        if let Some(end) = points.last().filter(|_| named) {
            ends.push((chart.backend_coord(end).1, &curve.name, colour));
        }
        chart.draw_series(LineSeries::new(points, colour.stroke_width(2)))?;
    }
    draw_names(area, ends)
}

/// Draws the names of the curves to the right of their ends, moved down where they would overlap.
fn draw_names<B: DrawingBackend>(
    area: &Canvas<B>,
    mut ends: Vec<(i32, &String, RGBAColor)>,
) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
    ends.sort_by_key(|(y, ..)| *y);
    let (_, top) = area.get_base_pixel();
    let (width, height) = area.dim_in_pixel();
    let mut free = 0;
    for (y, name, colour) in ends {
        let y = free.max(y - top);
        free = y + 13;
        if free > height as i32 {
            // There is no room for the others.
            break;
        }
        let style = (FONT, 12)
            .into_text_style(area)
            .color(&colour)
            .pos(Pos::new(HPos::Left, VPos::Center));
        area.draw(&Text::new(
            name.as_str(),
            (width as i32 - NAMES + 6, y),
            style,
        ))?;
    }
    Ok(())
}
