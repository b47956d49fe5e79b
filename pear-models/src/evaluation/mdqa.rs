//! Multi-document questions, in the format of the *Lost in the Middle* data ([arXiv 2307.03172](https://arxiv.org/abs/2307.03172)):
//! the gold document, which contains the answer, is put at chosen positions among distractors.
//!
//! Each line of a file is a record with `question`, `answers` and `ctxs`: documents with `title`, `text` and, for the gold document,
//! `isgold` or `hasanswer`.

use std::path::Path;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::Deserialize;

use super::metrics::normalize_answer;
use super::{EvaluationError, JsonLines, PromptTemplate, Question};
use crate::Error;

/// The fields of a template: the documents and the question.
pub const FIELDS: [&str; 2] = ["search_results", "question"];

/// The published prompt.
pub fn template() -> PromptTemplate {
    PromptTemplate::built_in(include_str!("templates/mdqa.txt"), FIELDS)
}

/// How questions are made from the records of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// A template with [`FIELDS`]. Default: [the published one](template).
    pub template: PromptTemplate,
    /// Documents in each prompt, the gold document included. Default: 10.
    pub num_documents: usize,
    /// Positions of the gold document, from 0; one question for each. Default: first, middle and last.
    pub gold_positions: Vec<usize>,
    /// Use only the first so many records; gold documents of all are drawn from. Default: all.
    pub limit: Option<usize>,
    /// Seed for drawing distractors where a record has too few. Default: 0.
    pub seed: u64,
    /// How long answers may be, in tokens. Default: 100, as published.
    pub max_new_tokens: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            template: template(),
            num_documents: 10,
            gold_positions: vec![0, 4, 9],
            limit: None,
            seed: 0,
            max_new_tokens: 100,
        }
    }
}

impl Options {
    fn validate(&self) -> Result<(), EvaluationError> {
        if self.num_documents == 0 {
            return Err(EvaluationError::Option {
                option: "num_documents",
                value: "0".into(),
                expected: "at least 1".into(),
            });
        }
        let outside = |position: &&usize| **position >= self.num_documents;
        match self.gold_positions.iter().find(outside) {
            Some(position) => Err(EvaluationError::Option {
                option: "gold_positions",
                value: position.to_string(),
                expected: format!("less than {}, the number of documents", self.num_documents),
            }),
            None => Ok(()),
        }
    }
}

/// The questions of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuestionSet {
    /// For each record in turn, one question for each position of the gold document, grouped by position.
    pub questions: Vec<Question>,
    /// Records that were used.
    pub num_records: usize,
    /// Those among them with distractors from other records.
    pub num_with_drawn_distractors: usize,
}

/// The questions of a `.jsonl` or `.jsonl.gz` file.
///
/// Documents are numbered after the gold document has been moved. Where a record has too few distractors, gold documents of other
/// records are drawn, none of which contains one of the answers as whole words. The distractors of a record and their order are the
/// same for all positions.
///
/// # Errors
/// [`EvaluationError::Option`] for positions outside the documents; [`Error::Io`] if the file cannot be opened;
/// [`EvaluationError::Line`], [`Record`](EvaluationError::Record) or [`NoRecords`](EvaluationError::NoRecords) for its contents, such
/// as a record without a gold document or with too few distractors to be found.
pub fn questions(path: impl AsRef<Path>, options: &Options) -> Result<QuestionSet, Error> {
    let path = path.as_ref();
    options.validate()?;
    let (records, gold) = read(path, options)?;
    let mut set = QuestionSet {
        questions: Vec::with_capacity(records.len() * options.gold_positions.len()),
        num_records: records.len(),
        num_with_drawn_distractors: 0,
    };
    for (index, record) in records.iter().enumerate() {
        let mut distractors: Vec<&Document> = record.distractors.iter().collect();
        if distractors.len() < options.num_documents - 1 {
            set.num_with_drawn_distractors += 1;
            draw_distractors(&mut distractors, &gold, index, record, options)
                .map_err(|problem| EvaluationError::record(path, index, problem))?;
        }
        for &position in &options.gold_positions {
            let mut documents = distractors.clone();
            documents.insert(position, &gold[index]);
            set.questions.push(Question {
                index,
                group: format!("right document {position}"),
                prompt: options
                    .template
                    .fill([&search_results(&documents), &record.question]),
                answers: record.answers.clone(),
                max_new_tokens: options.max_new_tokens,
            });
        }
    }
    Ok(set)
}

/// Bytes of gold documents that distractors are drawn from, at most: all of Natural Questions has a thousandth.
const MAX_GOLD_BYTES: usize = 256 << 20;

/// One line of the file.
#[derive(Deserialize)]
struct RawRecord {
    question: String,
    answers: Vec<String>,
    ctxs: Vec<Document>,
}

#[derive(Deserialize)]
struct Document {
    title: String,
    text: String,
    #[serde(default)]
    isgold: bool,
    #[serde(default)]
    hasanswer: bool,
}

/// A record without its gold document.
struct Record {
    question: String,
    answers: Vec<String>,
    distractors: Vec<Document>,
}

/// The records up to the limit, with as many distractors as are needed, and the gold documents of all.
fn read(path: &Path, options: &Options) -> Result<(Vec<Record>, Vec<Document>), Error> {
    let limit = options.limit.unwrap_or(usize::MAX);
    let mut records = Vec::new();
    let mut gold: Vec<Document> = Vec::new();
    let (mut bytes, mut is_short) = (0, false);
    for (index, record) in JsonLines::<RawRecord>::open(path)?.enumerate() {
        // Other records are needed for their documents alone.
        if index >= limit && !is_short {
            break;
        }
        let mut record = record?;
        let gold_index =
            gold_index(&record).map_err(|problem| EvaluationError::record(path, index, problem))?;
        let document = record.ctxs.remove(gold_index);
        bytes += document.title.len() + document.text.len();
        if bytes > MAX_GOLD_BYTES {
            let problem =
                format!("the gold documents so far have more than {MAX_GOLD_BYTES} bytes");
            return Err(EvaluationError::record(path, index, problem).into());
        }
        gold.push(document);
        if index < limit {
            is_short |= record.ctxs.len() < options.num_documents - 1;
            record.ctxs.truncate(options.num_documents - 1);
            records.push(Record {
                question: record.question,
                answers: record.answers,
                distractors: record.ctxs,
            });
        }
    }
    if gold.is_empty() {
        return Err(EvaluationError::NoRecords { path: path.into() }.into());
    }
    Ok((records, gold))
}

/// The document marked as gold, or else the first that is said to contain an answer.
fn gold_index(record: &RawRecord) -> Result<usize, &'static str> {
    if record.answers.is_empty() {
        return Err("`answers` is empty");
    }
    let documents = &record.ctxs;
    documents
        .iter()
        .position(|document| document.isgold)
        .or_else(|| documents.iter().position(|document| document.hasanswer))
        .ok_or("no document of `ctxs` has `isgold` or `hasanswer`")
}

/// The documents as they stand in a prompt, numbered from 1.
fn search_results(documents: &[&Document]) -> String {
    let lines: Vec<String> = (1..)
        .zip(documents)
        .map(|(number, document)| {
            format!(
                "Document [{number}](Title: {}) {}",
                document.title, document.text
            )
        })
        .collect();
    lines.join("\n")
}

/// Adds gold documents of other records until there are enough distractors.
fn draw_distractors<'a>(
    distractors: &mut Vec<&'a Document>,
    gold: &'a [Document],
    index: usize,
    record: &Record,
    options: &Options,
) -> Result<(), String> {
    // Compared as whole words: an answer such as `S` is part of some word in any text.
    let padded = |text: &str| format!(" {} ", normalize_answer(text));
    let answers: Vec<String> = record
        .answers
        .iter()
        .filter(|answer| !normalize_answer(answer).is_empty())
        .map(|answer| padded(answer))
        .collect();
    // A stream for each record, so that the draw does not depend on the limit.
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
    rng.set_stream(index as u64);
    for _ in 0..100 * options.num_documents {
        if distractors.len() == options.num_documents - 1 {
            return Ok(());
        }
        let candidate = &gold[below(gold.len(), &mut rng)];
        let text = padded(&format!("{} {}", candidate.title, candidate.text));
        let has_answer = answers.iter().any(|answer| text.contains(answer));
        let is_duplicate = distractors
            .iter()
            .chain([&&gold[index]])
            .any(|document| document.text == candidate.text);
        if !has_answer && !is_duplicate {
            distractors.push(candidate);
        }
    }
    if distractors.len() == options.num_documents - 1 {
        return Ok(());
    }
    Err(format!(
        "too few other documents without the answer: expected at most {} documents to a question",
        distractors.len() + 1
    ))
}

/// Uniform below `bound`, the same on every machine (multiply-shift).
fn below(bound: usize, rng: &mut ChaCha8Rng) -> usize {
    ((u128::from(rng.next_u64()) * bound as u128) >> 64) as usize
}
