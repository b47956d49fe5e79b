//! The heads: what they scored, and what they are multiplied by.

use minijinja::Value;
use pear_core::HeadId;
use serde::Serialize;

use super::heat_map::{self, HeatMap};
use crate::pear::number::three_digits;
use crate::pear::report::{Candidate, CandidateKind, Coefficient, HeadGrid, Report};

/// Heads in the table.
const ROWS: usize = 20;
/// Heads that are framed where none were chosen by their rank.
const FRAMED: usize = 10;

/// What the section about heads shows.
#[derive(Serialize)]
pub(super) struct Section {
    caption: String,
    maps: Value,
    rows: Vec<Row>,
}

/// A head of the table.
#[derive(Serialize)]
struct Row {
    layer: usize,
    head: usize,
    score: String,
    error: String,
    z: String,
    coefficient: String,
}

pub(super) fn section(report: &Report) -> Section {
    let grid = &report.heads;
    let chosen = report.chosen();
    let by_rank = chosen.filter(|candidate| candidate.kind != CandidateKind::AllHeads);
    let framed: Vec<HeadId> = match by_rank {
        Some(candidate) => candidate.coefficients.iter().map(|c| c.head).collect(),
        None => grid.ranked.iter().take(FRAMED).copied().collect(),
    };
    let by_z = grid.ranked_by == "z" && has_errors(grid);
    let (values, what) = if by_z {
        (
            z_scores(grid),
            "score divided by its standard error".to_owned(),
        )
    } else {
        (grid.scores.clone(), format!("score ({})", grid.metric))
    };
    let scores = HeatMap {
        id: "scores",
        caption: &format!(
            "Each head's {what}. Red: the model copies better without the head. Framed: {}.",
            frame(by_rank.is_some(), framed.len())
        ),
        grid: &values,
        outlined: &framed,
        label: &heat_map::score,
    };
    let mut maps = scores.figure();
    if let Some(candidate) = chosen {
        let values = distances(report, candidate);
        let coefficients = HeatMap {
            id: "coefficients",
            caption: &format!(
                "The coefficients of {}. Blue: the head is damped; red: it is amplified.",
                candidate.id
            ),
            grid: &values,
            outlined: &[],
            label: &heat_map::coefficient,
        };
        maps += &coefficients.figure();
    }
    Section {
        caption: caption(report),
        maps: Value::from_safe_string(maps),
        rows: rows(grid, chosen),
    }
}

fn caption(report: &Report) -> String {
    let how = match report.heads.ranked_by.as_str() {
        "z" => "by score divided by standard error",
        _ => "by score",
    };
    format!(
        "A head scores high if the model copies random tokens better when the head's output is replaced by its mean: it stands in the way of \
         using what was read. Heads are ranked {how}."
    )
}

fn frame(chosen: bool, count: usize) -> String {
    match (chosen, count) {
        (true, 1) => "the chosen head".into(),
        (true, _) => format!("the {count} chosen heads"),
        (false, _) => format!("the first {count} of the ranking"),
    }
}

fn has_errors(grid: &HeadGrid) -> bool {
    grid.errors.iter().flatten().any(|error| *error > 0.0)
}

fn z(score: f64, error: Option<&f64>) -> Option<f64> {
    error
        .filter(|error| **error > 0.0)
        .map(|error| score / error)
}

fn z_scores(grid: &HeadGrid) -> Vec<Vec<f64>> {
    let rows = grid.scores.iter().enumerate();
    rows.map(|(layer, row)| {
        let heads = row.iter().enumerate();
        heads
            .map(|(head, score)| z(*score, error(grid, layer, head)).unwrap_or(0.0))
            .collect()
    })
    .collect()
}

fn error(grid: &HeadGrid, layer: usize, head: usize) -> Option<&f64> {
    grid.errors.get(layer)?.get(head)
}

/// How far each head's coefficient is from 1.
fn distances(report: &Report, candidate: &Candidate) -> Vec<Vec<f64>> {
    let mut grid = vec![vec![0.0; report.model.num_heads]; report.model.num_layers];
    for Coefficient { head, value } in &candidate.coefficients {
        if let Some(place) = grid
            .get_mut(head.layer)
            .and_then(|row| row.get_mut(head.head))
        {
            *place = value - 1.0;
        }
    }
    grid
}

/// The first heads of the ranking.
fn rows(grid: &HeadGrid, chosen: Option<&Candidate>) -> Vec<Row> {
    let coefficient = |head: HeadId| {
        let all = chosen
            .map(|candidate| candidate.coefficients.as_slice())
            .unwrap_or_default();
        all.iter().find(|c| c.head == head).map(|c| c.value)
    };
    grid.ranked
        .iter()
        .take(ROWS)
        .filter_map(|&id| {
            let score = *grid.scores.get(id.layer)?.get(id.head)?;
            let error = error(grid, id.layer, id.head);
            let dash = || "–".to_owned();
            Some(Row {
                layer: id.layer,
                head: id.head,
                score: heat_map::score(score),
                error: error.map_or_else(dash, |error| three_digits(*error)),
                z: z(score, error).map_or_else(dash, |z| format!("{z:.1}").replace('-', "−")),
                coefficient: coefficient(id)
                    .map_or_else(|| "1".into(), |value| format!("{value:.3}")),
            })
        })
        .collect()
}
