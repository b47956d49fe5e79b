//! Heat maps of the scores of all heads.

use std::path::Path;

use anyhow::Result;
use pear_core::HeadId;
use plotters::element::{Rectangle, Text};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{Canvas, FONT, Picture, diverging, largest, short};

const TITLE: i32 = 18;
const LABEL: i32 = 13;
/// Left margin: layer numbers and the label of the axis.
const LEFT: i32 = 64;
const TOP: i32 = 48;
const BOTTOM: i32 = 52;
/// Right of the map: the colour bar and its labels.
const BAR_GAP: i32 = 24;
const BAR: i32 = 16;
const RIGHT: i32 = 110;

/// Draws `grid[layer][head]` as a heat map: red above zero, blue below, a black frame around `outlined` heads.
///
/// # Errors
/// A name that ends neither in `.svg` nor in `.png`, or a file that cannot be written.
pub fn heat_map(path: &Path, title: &str, grid: &[Vec<f64>], outlined: &[HeadId]) -> Result<()> {
    let columns = grid.iter().map(Vec::len).max().unwrap_or(0) as i32;
    let rows = grid.len() as i32;
    let cell = (640 / columns.max(rows).max(1)).clamp(10, 56);
    super::write(
        path,
        &HeatMap {
            title,
            grid,
            outlined,
            cell,
            rows,
            columns,
        },
    )
}

struct HeatMap<'a> {
    title: &'a str,
    grid: &'a [Vec<f64>],
    outlined: &'a [HeadId],
    cell: i32,
    rows: i32,
    columns: i32,
}

impl HeatMap<'_> {
    fn width(&self) -> i32 {
        self.columns * self.cell
    }

    fn height(&self) -> i32 {
        self.rows * self.cell
    }

    /// Upper left and lower right corner of a head's cell, with one white pixel between neighbours.
    fn place(&self, layer: i32, head: i32) -> [(i32, i32); 2] {
        let (x, y) = (LEFT + head * self.cell, TOP + layer * self.cell);
        [(x, y), (x + self.cell - 1, y + self.cell - 1)]
    }

    /// Every how many rows or columns there is room for a number.
    fn step(&self) -> i32 {
        [1, 2, 4, 8, 16]
            .into_iter()
            .find(|step| step * self.cell >= 24)
            .unwrap_or(16)
    }
}

impl Picture for HeatMap<'_> {
    fn size(&self) -> (u32, u32) {
        // At least as wide as the title.
        let title = LEFT + 10 * self.title.chars().count() as i32;
        let width = (LEFT + self.width() + BAR_GAP + BAR + RIGHT).max(title);
        (width as u32, (TOP + self.height() + BOTTOM) as u32)
    }

    fn draw<B: DrawingBackend>(
        &self,
        canvas: &Canvas<B>,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        let text = |text: String, at: (i32, i32), size: i32, anchor: Pos| {
            let style = (FONT, size).into_text_style(canvas).pos(anchor);
            canvas.draw(&Text::new(text, at, style))
        };
        let (right, bottom) = (LEFT + self.width(), TOP + self.height());
        let limit = largest(self.grid);

        text(
            self.title.into(),
            (LEFT, TOP / 2),
            TITLE,
            Pos::new(HPos::Left, VPos::Center),
        )?;
        for (layer, row) in (0..).zip(self.grid) {
            for (head, &score) in (0..).zip(row) {
                canvas.draw(&Rectangle::new(
                    self.place(layer, head),
                    diverging(score / limit).filled(),
                ))?;
            }
        }
        for head in self.outlined {
            let [(x0, y0), (x1, y1)] = self.place(head.layer as i32, head.head as i32);
            // As a path: plotters gives rectangles in SVG files no line width.
            let corners = vec![(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)];
            canvas.draw(&PathElement::new(corners, BLACK.stroke_width(2)))?;
        }

        let middle = |index: i32| index * self.cell + self.cell / 2;
        for layer in (0..self.rows).step_by(self.step() as usize) {
            let at = (LEFT - 8, TOP + middle(layer));
            text(
                layer.to_string(),
                at,
                LABEL,
                Pos::new(HPos::Right, VPos::Center),
            )?;
        }
        for head in (0..self.columns).step_by(self.step() as usize) {
            let at = (LEFT + middle(head), bottom + 6);
            text(
                head.to_string(),
                at,
                LABEL,
                Pos::new(HPos::Center, VPos::Top),
            )?;
        }
        text(
            "head".into(),
            (LEFT + self.width() / 2, bottom + 28),
            LABEL,
            Pos::new(HPos::Center, VPos::Top),
        )?;
        let sideways = (FONT, LABEL)
            .into_font()
            .transform(FontTransform::Rotate270);
        let sideways = sideways
            .into_text_style(canvas)
            .pos(Pos::new(HPos::Center, VPos::Center));
        canvas.draw(&Text::new("layer", (18, TOP + self.height() / 2), sideways))?;

        let bar = right + BAR_GAP;
        for y in TOP..bottom {
            let value = 1.0 - 2.0 * f64::from(y - TOP) / f64::from((bottom - TOP - 1).max(1));
            canvas.draw(&Rectangle::new(
                [(bar, y), (bar + BAR, y + 1)],
                diverging(value).filled(),
            ))?;
        }
        for part in [1.0, 0.5, 0.0, -0.5, -1.0] {
            let y = TOP + (f64::from(self.height()) * (1.0 - part) / 2.0) as i32;
            text(
                short(part * limit),
                (bar + BAR + 8, y),
                LABEL,
                Pos::new(HPos::Left, VPos::Center),
            )?;
        }
        Ok(())
    }
}
