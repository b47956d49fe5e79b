//! Questions on long texts in the format of LongBench ([arXiv 2308.14508](https://arxiv.org/abs/2308.14508)).

use std::path::Path;

use anyhow::{Result, bail};
use serde::Deserialize;

use super::{Question, Template, jsonl};

/// What a template puts in.
pub const PLACES: [&str; 2] = ["context", "input"];

const PASSAGES: &str = include_str!("templates/passages.txt");
const QASPER: &str = include_str!("templates/qasper.txt");
const MULTIFIELDQA: &str = include_str!("templates/multifieldqa.txt");
const NARRATIVEQA: &str = include_str!("templates/narrativeqa.txt");

/// One line of the file.
#[derive(Clone, Debug, Deserialize)]
struct Record {
    input: String,
    context: String,
    answers: Vec<String>,
    #[serde(default)]
    dataset: String,
}

/// The published prompt of a dataset, and how many new tokens its answers may have.
fn published(dataset: &str) -> (&'static str, usize) {
    match dataset.strip_suffix("_e").unwrap_or(dataset) {
        "qasper" => (QASPER, 128),
        "multifieldqa_en" => (MULTIFIELDQA, 64),
        "narrativeqa" => (NARRATIVEQA, 128),
        // 2WikiMultihopQA, MuSiQue, HotpotQA, and whatever has passages.
        _ => (PASSAGES, 32),
    }
}

/// The first `limit` questions of a file, a group for each dataset, with the published prompt and number of new tokens where none is
/// given.
///
/// # Errors
/// A file that cannot be read or lacks a field.
pub fn questions(
    path: &Path,
    template: Option<&Template>,
    max_new_tokens: Option<usize>,
    limit: usize,
) -> Result<Vec<Question>> {
    let records: Vec<Record> = jsonl::read(path, limit)?;
    let question = |(index, record): (usize, Record)| {
        if record.answers.is_empty() {
            bail!(
                "{}, record {}: `answers` is empty",
                path.display(),
                index + 1
            );
        }
        let (text, new_tokens) = published(&record.dataset);
        let own;
        let template = match template {
            Some(template) => template,
            None => {
                own = Template::new(
                    text.strip_suffix('\n').unwrap_or(text),
                    PLACES,
                    "the built-in template",
                )?;
                &own
            }
        };
        Ok(Question {
            index,
            group: if record.dataset.is_empty() {
                "all".into()
            } else {
                record.dataset.clone()
            },
            prompt: template.fill([&record.context, &record.input]),
            answers: record.answers,
            max_new_tokens: max_new_tokens.unwrap_or(new_tokens),
        })
    };
    records.into_iter().enumerate().map(question).collect()
}
