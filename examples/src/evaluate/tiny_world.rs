//! The questions of the tiny world.

use std::fmt::Write;

use anyhow::{Result, bail};
use pear_models::evaluation::{Estimate, PairedDifference};
use serde_json::{Map, Value, json};

use super::{Measured, Models, change_cell, estimate_cell};
use crate::progress::Progress;
use crate::tiny_world::{Exam, Kind, Marks, Place, World, share};

/// Lets the models sit an exam with `each` questions of each kind, number of documents and place.
///
/// # Errors
/// A model of another vocabulary.
pub fn tiny_world(each: usize, seed: u64, models: &Models) -> Result<Measured> {
    let world = World::new(0);
    if models.vocab_size() != world.words().len() {
        bail!(
            "--format tiny-world: expected a model of its {} words, and the model has {}",
            world.words().len(),
            models.vocab_size()
        );
    }
    let exam = Exam::new(&world, each, seed);
    let marks = sit(&exam, models)?;
    let groups = groups(&marks);
    let mut table = table(&groups);
    for (name, marks) in &marks {
        let _ = writeln!(
            table,
            "{name}: {:.1} % of the conflicting ones answered from memory, perplexity of plain text {:.3}",
            100.0 * marks.from_memory(Kind::Conflicting),
            marks.perplexity
        );
    }
    Ok(Measured {
        table,
        json: results(&marks, &groups),
    })
}

type NamedMarks = (&'static str, Marks);

fn sit(exam: &Exam, models: &Models) -> Result<Vec<NamedMarks>> {
    let mut bar = Progress::new("answering", 100 * models.count() as u64);
    let mut all = Vec::new();
    for (name, model) in models.each() {
        let done = 100 * all.len() as u64;
        let marks = exam.sit(model, |share| {
            bar.set(done + (100.0 * share) as u64, name);
        })?;
        all.push((name, marks));
    }
    Ok(all)
}

/// Questions that results are given for together: what they are called, and whether each model answered each of them right.
struct Group {
    name: String,
    /// For each model.
    right: Vec<Vec<bool>>,
}

impl Group {
    /// As in files of results.
    fn key(&self) -> String {
        self.name
            .replace(", right document ", " ")
            .replace(' ', "_")
    }

    /// What changed from the first model to the second, if there are two.
    fn change(&self) -> Option<PairedDifference> {
        match &self.right[..] {
            [before, after] => Some(PairedDifference::between(before, after)),
            _ => None,
        }
    }
}

/// Each kind of question, each kind by the place of the right document, and the questions without documents.
fn groups(marks: &[NamedMarks]) -> Vec<Group> {
    let group = |name: String, right: &dyn Fn(&Marks) -> Vec<bool>| Group {
        name,
        right: marks.iter().map(|(_, marks)| right(marks)).collect(),
    };
    let mut groups = Vec::new();
    for kind in Kind::ALL {
        groups.push(group(kind.name().into(), &|marks| marks.right(kind, None)));
        for place in Place::ALL {
            let name = format!("{}, right document {}", kind.name(), place.name());
            groups.push(group(name, &|marks| marks.right(kind, Some(place))));
        }
    }
    groups.push(group("closed book".into(), &|marks| {
        marks.closed_book.clone()
    }));
    groups
}

fn table(groups: &[Group]) -> String {
    let mut text = format!(
        "\n{:<40}{:>8}{:>24}{:>24}{:>24}\n",
        "", "number", "baseline", "PEAR", "change"
    );
    for group in groups {
        let _ = write!(text, "{:<40}{:>8}", group.name, group.right[0].len());
        for right in &group.right {
            let _ = write!(text, "{:>24}", estimate_cell(&Estimate::of(right)));
        }
        if let Some(change) = group.change() {
            let _ = write!(text, "{:>24}", change_cell(&change));
        }
        text.push('\n');
    }
    text
}

fn results(marks: &[NamedMarks], groups: &[Group]) -> Map<String, Value> {
    let mut results = Map::new();
    for (index, (name, marks)) in marks.iter().enumerate() {
        let mut result: Map<String, Value> = groups
            .iter()
            .map(|group| (group.key(), json!(Estimate::of(&group.right[index]))))
            .collect();
        let right: Vec<bool> = marks.answers.iter().map(|answer| answer.right).collect();
        result.insert("perplexity".into(), marks.perplexity.into());
        result.insert("accuracy".into(), share(&right).into());
        results.insert((*name).to_owned(), result.into());
    }
    let paired: Map<String, Value> = groups
        .iter()
        .filter_map(|group| Some((group.key(), json!(group.change()?))))
        .collect();
    if !paired.is_empty() {
        results.insert("paired".into(), paired.into());
    }
    results
}
