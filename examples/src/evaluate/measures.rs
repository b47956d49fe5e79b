//! Measures of single items: a table for people, JSON for programs.

use std::fmt::Write;

use pear_models::evaluation::{
    Estimate, ItemResult, Measure, MeasureKind, PairedDifference, compare, summarize,
};
use serde_json::{Map, Value, json};

use super::{Measured, estimate_cell, p_value_text};

/// The results of each model on the same items.
pub(super) struct MeasuredItems<R> {
    /// The baseline first.
    pub by_model: Vec<(&'static str, Vec<R>)>,
    /// The group of each item.
    pub groups: Vec<String>,
}

/// What the results of a group, or of all items, add up to.
struct Part {
    /// `None`: all items.
    group: Option<String>,
    /// For each model.
    estimates: Vec<(&'static str, Vec<(Measure, Estimate)>)>,
    /// From the first model to the second, if there are two.
    changes: Option<Vec<(Measure, PairedDifference)>>,
}

/// All measures, for each group where there is more than one, and for all items.
pub(super) fn measures<R: ItemResult + Clone>(items: &MeasuredItems<R>) -> Measured {
    let mut groups: Vec<&String> = items.groups.iter().collect();
    groups.sort_by_key(|group| first_number(group));
    groups.dedup();
    let own = if groups.len() > 1 { groups } else { Vec::new() };
    let parts: Vec<Part> = own
        .into_iter()
        .map(Some)
        .chain([None])
        .map(|group| part(items, group))
        .collect();
    Measured {
        table: table(&parts),
        json: results(&parts),
    }
}

/// Groups of places are sorted by their first place.
fn first_number(text: &str) -> usize {
    let digits = text
        .chars()
        .skip_while(|c| !c.is_ascii_digit())
        .take_while(char::is_ascii_digit);
    digits.collect::<String>().parse().unwrap_or(0)
}

fn part<R: ItemResult + Clone>(items: &MeasuredItems<R>, group: Option<&String>) -> Part {
    let chosen: Vec<(&str, Vec<R>)> = items
        .by_model
        .iter()
        .map(|(name, results)| {
            let of_group = results.iter().zip(&items.groups);
            let of_group = of_group.filter(|(_, own)| group.is_none_or(|group| *own == group));
            (*name, of_group.map(|(result, _)| result.clone()).collect())
        })
        .collect();
    Part {
        group: group.cloned(),
        estimates: chosen
            .iter()
            .map(|(name, results)| (*name, summarize(results)))
            .collect(),
        changes: match &chosen[..] {
            [(_, before), (_, after)] => Some(compare(before, after)),
            _ => None,
        },
    }
}

fn table(parts: &[Part]) -> String {
    let has_changes = parts.iter().any(|part| part.changes.is_some());
    let mut text = format!("\n{:<40}{:>8}{:>26}", "", "number", "baseline");
    if has_changes {
        let _ = write!(text, "{:>26}{:>28}", "PEAR", "change");
    }
    text.push('\n');
    for part in parts {
        if let Some(group) = &part.group {
            let _ = writeln!(text, "{group}");
        } else if parts.len() > 1 {
            text.push_str("all\n");
        }
        let measures = part.estimates.first().map_or(0, |(_, rows)| rows.len());
        for row in 0..measures {
            let (measure, estimate) = part.estimates[0].1[row];
            let name = measure.name.replace('_', " ");
            let _ = write!(text, "{name:<40}{:>8}", estimate.count);
            for (_, estimates) in &part.estimates {
                let _ = write!(text, "{:>26}", value_cell(measure, &estimates[row].1));
            }
            if let Some(changes) = &part.changes {
                let _ = write!(text, "{:>28}", difference_cell(measure, &changes[row].1));
            }
            text.push('\n');
        }
    }
    text += "[95 % interval]; log-probabilities in nats";
    if has_changes {
        text += "; change ± standard error; p: sign test on the items that changed (for shares: McNemar's exact test)";
    }
    text + "\n"
}

fn value_cell(measure: Measure, estimate: &Estimate) -> String {
    match measure.kind {
        MeasureKind::Share => estimate_cell(estimate),
        MeasureKind::Nats => {
            let Estimate {
                mean, low, high, ..
            } = estimate;
            format!("{mean:.3} [{low:.3}, {high:.3}]")
        }
    }
}

fn difference_cell(measure: Measure, change: &PairedDifference) -> String {
    let p = p_value_text(change.p_value);
    match measure.kind {
        MeasureKind::Share => format!(
            "{:+.1} ± {:.1}, p = {p}",
            100.0 * change.difference,
            100.0 * change.standard_error
        ),
        MeasureKind::Nats => format!(
            "{:+.3} ± {:.3}, p = {p}",
            change.difference, change.standard_error
        ),
    }
}

/// `{"baseline": {…}, "pear": {…}, "paired": {…}}`: each measure by its name, and all of them again for each group.
fn results(parts: &[Part]) -> Map<String, Value> {
    let mut all = Map::new();
    for part in parts {
        for (name, estimates) in &part.estimates {
            insert(&mut all, name, part.group.as_deref(), values(estimates));
        }
        if let Some(changes) = &part.changes {
            let changes = changes
                .iter()
                .map(|(measure, change)| (measure.name.to_owned(), json!(change)));
            insert(&mut all, "paired", part.group.as_deref(), changes.collect());
        }
    }
    all
}

/// Puts results of a group into `by_group`, and those of all items beside it.
fn insert(
    all: &mut Map<String, Value>,
    name: &str,
    group: Option<&str>,
    results: Map<String, Value>,
) {
    let own = all.entry(name).or_insert_with(|| json!({"by_group": {}}));
    match (own, group) {
        (own, Some(group)) => own["by_group"][group] = results.into(),
        (Value::Object(own), None) => own.extend(results),
        _ => {}
    }
}

fn values(estimates: &[(Measure, Estimate)]) -> Map<String, Value> {
    let mut values = Map::new();
    let mut intervals = Map::new();
    for (measure, estimate) in estimates {
        values.insert("items".into(), estimate.count.into());
        values.insert(measure.name.into(), estimate.mean.into());
        intervals.insert(measure.name.into(), json!([estimate.low, estimate.high]));
    }
    values.insert("intervals".into(), intervals.into());
    values
}
