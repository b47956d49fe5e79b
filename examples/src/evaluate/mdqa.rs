//! Multi-document questions in the format of the `lost-in-the-middle` data
//! ([arXiv 2307.03172](https://arxiv.org/abs/2307.03172)): the right document is moved to each place asked for.

use std::path::Path;

use anyhow::{Result, bail};
use serde::Deserialize;

use super::metrics::normalize_answer;
use super::{Question, Template, jsonl};
use crate::random::Random;

/// What a template puts in.
pub const PLACES: [&str; 2] = ["search_results", "question"];

/// The published prompt.
pub const PROMPT: &str = include_str!("templates/mdqa.txt");

/// One line of the file.
#[derive(Clone, Debug, Deserialize)]
struct Record {
    question: String,
    answers: Vec<String>,
    ctxs: Vec<Document>,
}

#[derive(Clone, Debug, Deserialize)]
struct Document {
    title: String,
    text: String,
    #[serde(default)]
    isgold: bool,
    #[serde(default)]
    hasanswer: bool,
}

/// How questions are made of the records.
#[derive(Clone, Debug)]
pub struct Options {
    /// Documents before each question, the right one among them.
    pub documents: usize,
    /// Where the right one stands, from 0.
    pub gold_positions: Vec<usize>,
    /// Records that are read.
    pub limit: usize,
    /// For the draw of other documents where the file has too few.
    pub seed: u64,
    /// New tokens at most.
    pub max_new_tokens: usize,
}

/// The questions of a file, a group for each place, and the number of those whose other documents were drawn from other questions.
///
/// Documents are numbered anew after the right one has been moved. Where a record holds too few, others are right documents of other
/// questions in which none of the answers stands as words of its own; they are the same, in the same order, for every place.
///
/// # Errors
/// A file that cannot be read, lacks a field, has no right document, or too few others.
pub fn questions(
    path: &Path,
    template: &Template,
    options: &Options,
) -> Result<(Vec<Question>, usize)> {
    if let Some(place) = options
        .gold_positions
        .iter()
        .find(|&&place| place >= options.documents)
    {
        bail!(
            "--gold-position {place}: expected less than {}, the number of --documents",
            options.documents
        );
    }
    // Others are drawn from the whole file, whatever the limit.
    let records: Vec<Record> = jsonl::read(path, usize::MAX)?;
    let gold: Vec<&Document> = records
        .iter()
        .enumerate()
        .map(|(index, record)| record.gold(path, index))
        .collect::<Result<_>>()?;
    let (mut questions, mut drawn) = (Vec::new(), 0);
    for (index, record) in records.iter().take(options.limit).enumerate() {
        let right = gold[index];
        let mut others: Vec<&Document> = record
            .ctxs
            .iter()
            .filter(|document| !std::ptr::eq(*document, right))
            .collect();
        others.truncate(options.documents - 1);
        if others.len() < options.documents - 1 {
            drawn += 1;
            draw_others(&mut others, &gold, index, record, options, path)?;
        }
        for &place in &options.gold_positions {
            let mut documents = others.clone();
            documents.insert(place, right);
            let lines = documents
                .iter()
                .enumerate()
                .map(|(i, d)| format!("Document [{}](Title: {}) {}", i + 1, d.title, d.text));
            let results = lines.collect::<Vec<_>>().join("\n");
            questions.push(Question {
                index,
                group: format!("right document {place}"),
                prompt: template.fill([&results, &record.question]),
                answers: record.answers.clone(),
                max_new_tokens: options.max_new_tokens,
            });
        }
    }
    Ok((questions, drawn))
}

impl Record {
    /// The right document: the one that says so, else the first that holds an answer.
    fn gold(&self, path: &Path, index: usize) -> Result<&Document> {
        if self.answers.is_empty() {
            bail!(
                "{}, record {}: `answers` is empty",
                path.display(),
                index + 1
            );
        }
        let marked = self.ctxs.iter().find(|document| document.isgold);
        match marked.or_else(|| self.ctxs.iter().find(|document| document.hasanswer)) {
            Some(document) => Ok(document),
            None => bail!(
                "{}, record {}: no document of `ctxs` has `isgold` or `hasanswer`",
                path.display(),
                index + 1
            ),
        }
    }
}

/// Adds right documents of other questions until there are enough.
fn draw_others<'a>(
    others: &mut Vec<&'a Document>,
    gold: &[&'a Document],
    index: usize,
    record: &Record,
    options: &Options,
    path: &Path,
) -> Result<()> {
    // As whole words: an answer such as `S` stands within the words of any text.
    let spaced = |text: &str| format!(" {} ", normalize_answer(text));
    let answers: Vec<String> = record
        .answers
        .iter()
        .map(|answer| spaced(answer))
        .filter(|answer| answer != "  ")
        .collect();
    // A stream for each record: the same documents whatever the limit.
    let mut random = Random::new(options.seed, index as u64);
    let mut tried = 0;
    while others.len() < options.documents - 1 {
        tried += 1;
        if tried > 100 * options.documents {
            bail!(
                "{}, record {}: too few other documents without the answer: expected --documents {} or less",
                path.display(),
                index + 1,
                others.len() + 1
            );
        }
        let candidate = gold[random.below(gold.len())];
        let text = spaced(&format!("{} {}", candidate.title, candidate.text));
        let tells = answers.iter().any(|answer| text.contains(answer));
        let known = others
            .iter()
            .chain([&gold[index]])
            .any(|document| document.text == candidate.text);
        if !tells && !known {
            others.push(candidate);
        }
    }
    Ok(())
}
