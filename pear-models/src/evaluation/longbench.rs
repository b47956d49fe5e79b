//! Questions on long documents, in the format of LongBench ([arXiv 2308.14508](https://arxiv.org/abs/2308.14508)).
//!
//! Each line of a file is a record with `context`, `input` (the question), `answers` and `dataset`.

use std::path::Path;

use serde::Deserialize;

use super::{EvaluationError, JsonLines, PromptTemplate, Question};
use crate::Error;

/// The fields of a template: the document and the question.
pub const FIELDS: [&str; 2] = ["context", "input"];

/// How questions are made from the records of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// A template with [`FIELDS`] for all datasets; without one, [the published one](template) of each dataset.
    pub template: Option<PromptTemplate>,
    /// How long answers may be, in tokens; without it, [the published length](max_new_tokens) of each dataset.
    pub max_new_tokens: Option<usize>,
    /// Use only the first so many records.
    pub limit: Option<usize>,
}

#[derive(Deserialize)]
struct Record {
    input: String,
    context: String,
    answers: Vec<String>,
    #[serde(default)]
    dataset: String,
}

/// The published prompt of a dataset such as `qasper`, `qasper_e` or `2wikimqa`. Datasets that are not listed get the prompt of the
/// multi-document ones (2WikiMultiHopQA, MuSiQue, HotpotQA).
pub fn template(dataset: &str) -> PromptTemplate {
    let text = match base_name(dataset) {
        "qasper" => include_str!("templates/qasper.txt"),
        "multifieldqa_en" => include_str!("templates/multifieldqa.txt"),
        "narrativeqa" => include_str!("templates/narrativeqa.txt"),
        _ => include_str!("templates/passages.txt"),
    };
    PromptTemplate::built_in(text, FIELDS)
}

/// How many tokens an answer may have, as published for a dataset; 32 for those that are not listed.
pub fn max_new_tokens(dataset: &str) -> usize {
    match base_name(dataset) {
        "qasper" | "narrativeqa" => 128,
        "multifieldqa_en" => 64,
        _ => 32,
    }
}

/// LongBench-E, with its more even lengths, has the prompts of LongBench.
fn base_name(dataset: &str) -> &str {
    dataset.strip_suffix("_e").unwrap_or(dataset)
}

/// The questions of a `.jsonl` or `.jsonl.gz` file, grouped by dataset (`all` where a record names none).
///
/// # Errors
/// [`Error::Io`] if the file cannot be opened; [`EvaluationError::Line`], [`Record`](EvaluationError::Record) or
/// [`NoRecords`](EvaluationError::NoRecords) for its contents.
pub fn questions(path: impl AsRef<Path>, options: &Options) -> Result<Vec<Question>, Error> {
    let path = path.as_ref();
    let limit = options.limit.unwrap_or(usize::MAX);
    let mut questions = Vec::new();
    for (index, record) in JsonLines::<Record>::open(path)?.take(limit).enumerate() {
        let record = record?;
        if record.answers.is_empty() {
            return Err(EvaluationError::record(path, index, "`answers` is empty").into());
        }
        let template = match &options.template {
            Some(template) => template,
            None => &template(&record.dataset),
        };
        questions.push(Question {
            index,
            prompt: template.fill([&record.context, &record.input]),
            answers: record.answers,
            max_new_tokens: options
                .max_new_tokens
                .unwrap_or_else(|| max_new_tokens(&record.dataset)),
            group: if record.dataset.is_empty() {
                "all".into()
            } else {
                record.dataset
            },
        });
    }
    if questions.is_empty() {
        return Err(EvaluationError::NoRecords { path: path.into() }.into());
    }
    Ok(questions)
}
