//! Question answering: all answers, and what they add up to.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use pear_models::evaluation::metrics::is_empty_reference;
use pear_models::evaluation::{
    AnswerRecord, AnswerScores, Answerer, Estimate, PairedDifference, Prompt, Question,
};
use serde_json::{Map, Value, json};

use super::{Measured, Models, change_cell, estimate_cell, shown_name};
use crate::progress::Progress;

/// The scores as they are called in tables, in the order of [`AnswerScores::NAMES`].
const SHOWN_SCORES: [&str; 4] = ["best sub-span EM", "substring", "exact match", "F1"];

/// Questions whose answers are written together: among them, what prompts have in common is read once.
const QUESTIONS_AT_ONCE: usize = 192;

/// The answers of each model to the same questions, in the same order.
#[derive(Clone, Debug)]
pub struct QuestionReport {
    by_model: Vec<(&'static str, Vec<AnswerRecord>)>,
}

impl QuestionReport {
    /// Lets each model answer each question, as many together as `batch_tokens` tokens hold. Answers are written to `outputs` in the order of
    /// the questions, some questions at a time.
    ///
    /// # Errors
    /// A question that a model cannot read, naming it; a file that cannot be written.
    pub fn run(
        questions: &[Question],
        answerer: &Answerer,
        models: &Models,
        batch_tokens: usize,
        mut outputs: Option<OutputFile>,
    ) -> Result<Self> {
        let mut by_model: Vec<(&str, Vec<AnswerRecord>)> =
            models.each().map(|(name, _)| (name, Vec::new())).collect();
        let mut bar = Progress::new("answering", (questions.len() * models.count()) as u64);
        let mut done = 0;
        for part in questions.chunks(QUESTIONS_AT_ONCE) {
            let prompts = prompts(part, answerer)?;
            let prompted: Vec<(&Question, &Prompt)> = part.iter().zip(&prompts).collect();
            for ((name, model), (_, records)) in models.each().zip(&mut by_model) {
                let answers =
                    answerer.answer_batch(name, model, &prompted, batch_tokens, |index, _| {
                        done += 1;
                        bar.set(done, part[index].group.clone());
                        Ok::<_, anyhow::Error>(())
                    })?;
                records.extend(answers);
            }
            if let Some(outputs) = &mut outputs {
                let first = by_model.first().map_or(0, |(_, records)| records.len()) - part.len();
                for index in first..first + part.len() {
                    for (_, records) in &by_model {
                        outputs.add(&records[index])?;
                    }
                }
            }
        }
        Ok(Self { by_model })
    }

    /// The results: scores with intervals by group, what changed, and how long it took.
    pub fn measured(&self) -> Measured {
        Measured {
            table: self.table(),
            json: self.json(),
        }
    }

    fn baseline(&self) -> &[AnswerRecord] {
        self.by_model.first().map_or(&[], |(_, records)| records)
    }

    /// The answers with coefficients, if there are any.
    fn pear(&self) -> Option<&[AnswerRecord]> {
        self.by_model.get(1).map(|(_, records)| &records[..])
    }

    /// Groups in the order of the questions.
    fn groups(&self) -> Vec<&str> {
        let mut groups: Vec<&str> = Vec::new();
        for record in self.baseline() {
            if !groups.contains(&record.group.as_str()) {
                groups.push(&record.group);
            }
        }
        groups
    }

    /// Groups that have results of their own: none if there is only one. Then all together.
    fn groups_and_all(&self) -> Vec<Option<&str>> {
        let groups = self.groups();
        let own = if groups.len() == 1 { &[] } else { &groups[..] };
        own.iter().copied().map(Some).chain([None]).collect()
    }

    /// Questions with a reference that normalises to nothing, which the first score finds in every answer.
    fn empty_references(&self) -> usize {
        let is_empty = |record: &&AnswerRecord| {
            record
                .answers
                .iter()
                .any(|reference| is_empty_reference(reference))
        };
        self.baseline().iter().filter(is_empty).count()
    }

    fn table(&self) -> String {
        let mut text = format!("\n{:<22}{:<10}{:>7}", "", "", "number");
        for name in SHOWN_SCORES {
            let _ = write!(text, "{name:>24}");
        }
        text.push('\n');
        for group in self.groups_and_all() {
            text += &self.group_rows(group);
        }
        text += "\n[95 % interval]; p: sign test on the questions that changed (for right or wrong: McNemar's exact test)\n";
        if self.empty_references() > 0 {
            let _ = writeln!(
                text,
                "{} questions have an answer that normalises to nothing, such as `The`: best sub-span EM gives them 1, as published",
                self.empty_references()
            );
        }
        for (name, records) in &self.by_model {
            let _ = writeln!(text, "{name}: {}", Work::of(records));
        }
        text
    }

    fn group_rows(&self, group: Option<&str>) -> String {
        let mut text = String::new();
        for (name, records) in &self.by_model {
            // The name of the group stands in its first row.
            let shown_group = if text.is_empty() {
                group.unwrap_or("all")
            } else {
                ""
            };
            let columns = columns(records, group);
            let _ = write!(
                text,
                "{shown_group:<22}{:<10}{:>7}",
                shown_name(name),
                columns[0].len()
            );
            for scores in &columns {
                let _ = write!(text, "{:>24}", estimate_cell(&Estimate::of(scores)));
            }
            text.push('\n');
        }
        if let Some(pear) = self.pear() {
            let _ = write!(text, "{:<22}{:<17}", "", "change");
            for change in changes(self.baseline(), pear, group) {
                let _ = write!(text, "{:>24}", change_cell(&change));
            }
            text.push('\n');
        }
        text
    }

    /// `{"baseline": {…}, "pear": {…}, "paired": {…}}`.
    fn json(&self) -> Map<String, Value> {
        let mut all = Map::new();
        let own_groups: Vec<&str> = self.groups_and_all().into_iter().flatten().collect();
        for (name, records) in &self.by_model {
            let by_group: BTreeMap<&str, Value> = own_groups
                .iter()
                .map(|group| (*group, estimates(records, Some(group)).into()))
                .collect();
            let work = Work::of(records);
            let mut result = estimates(records, None);
            result.extend([
                ("by_group".into(), json!(by_group)),
                ("empty_references".into(), self.empty_references().into()),
                ("seconds".into(), work.seconds.into()),
                ("prompt_tokens".into(), work.prompt_tokens.into()),
                ("prompts_cut".into(), work.prompts_cut.into()),
                ("new_tokens".into(), work.new_tokens.into()),
                ("tokens_per_second".into(), work.tokens_per_second().into()),
            ]);
            all.insert((*name).to_owned(), result.into());
        }
        if let Some(pear) = self.pear() {
            let named_changes = |group: Option<&str>| -> Map<String, Value> {
                let changes = changes(self.baseline(), pear, group);
                let names = AnswerScores::NAMES.iter().map(|name| (*name).to_owned());
                names
                    .zip(changes.into_iter().map(|change| json!(change)))
                    .collect()
            };
            let by_group: Map<String, Value> = own_groups
                .iter()
                .map(|group| ((*group).to_owned(), named_changes(Some(group)).into()))
                .collect();
            let mut result = named_changes(None);
            result.insert("by_group".into(), by_group.into());
            all.insert("paired".into(), result.into());
        }
        all
    }
}

/// The prompts of questions, in their order.
fn prompts(questions: &[Question], answerer: &Answerer) -> Result<Vec<Prompt>> {
    let prompt = |question: &Question| {
        answerer
            .prompts()
            .build(&question.prompt, question.max_new_tokens)
            .with_context(|| format!("question {}, {}", question.index + 1, question.group))
    };
    questions.iter().map(prompt).collect()
}

/// Each score of each answer of a group, or of all.
fn columns(records: &[AnswerRecord], group: Option<&str>) -> [Vec<f64>; 4] {
    let mut columns = [const { Vec::new() }; 4];
    for record in records {
        if group.is_none_or(|group| record.group == group) {
            for (column, score) in columns.iter_mut().zip(record.scores.values()) {
                column.push(score);
            }
        }
    }
    columns
}

/// How each score changed.
fn changes(
    before: &[AnswerRecord],
    after: &[AnswerRecord],
    group: Option<&str>,
) -> Vec<PairedDifference> {
    columns(before, group)
        .iter()
        .zip(&columns(after, group))
        .map(|(before, after)| PairedDifference::between(before, after))
        .collect()
}

fn estimates(records: &[AnswerRecord], group: Option<&str>) -> Map<String, Value> {
    let columns = columns(records, group);
    let mut result = Map::from_iter([("questions".into(), columns[0].len().into())]);
    let mut intervals = Map::new();
    for (name, scores) in AnswerScores::NAMES.iter().zip(&columns) {
        let estimate = Estimate::of(scores);
        result.insert((*name).to_owned(), estimate.mean.into());
        intervals.insert((*name).to_owned(), json!([estimate.low, estimate.high]));
    }
    result.insert("intervals".into(), intervals.into());
    result
}

/// What answering took.
#[derive(Default)]
struct Work {
    seconds: f64,
    prompt_tokens: usize,
    prompts_cut: usize,
    new_tokens: usize,
}

impl Work {
    fn of(records: &[AnswerRecord]) -> Self {
        let mut work = Self::default();
        for record in records {
            work.seconds += record.seconds;
            work.prompt_tokens += record.prompt_tokens;
            work.prompts_cut += usize::from(record.cut);
            work.new_tokens += record.new_tokens;
        }
        work
    }

    fn tokens_per_second(&self) -> f64 {
        (self.prompt_tokens + self.new_tokens) as f64 / self.seconds
    }
}

impl std::fmt::Display for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:.1} s, {} prompt tokens ({} prompts cut in the middle), {} new ones, {:.0} tokens a second",
            self.seconds,
            self.prompt_tokens,
            self.prompts_cut,
            self.new_tokens,
            self.tokens_per_second()
        )
    }
}

/// The file of `--outputs`: every answer, one line of JSON each.
#[derive(Debug)]
pub struct OutputFile {
    path: PathBuf,
    file: BufWriter<File>,
}

impl OutputFile {
    /// Makes a new file, or empties one that exists.
    ///
    /// # Errors
    /// A file that cannot be written, naming the flag.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create(path)
            .with_context(|| format!("--outputs {}: cannot write", path.display()))?;
        Ok(Self {
            path: path.into(),
            file: BufWriter::new(file),
        })
    }

    /// Adds an answer, which is on disk afterwards.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn add(&mut self, record: &AnswerRecord) -> Result<()> {
        let line = serde_json::to_string(record)? + "\n";
        self.file
            .write_all(line.as_bytes())
            .and_then(|()| self.file.flush())
            .with_context(|| format!("--outputs {}: cannot write", self.path.display()))
    }
}
