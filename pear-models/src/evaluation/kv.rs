//! Key-value retrieval: find the value of a key in a JSON object of random pairs.
//!
//! The data are those of *Lost in the Middle* ([arXiv 2307.03172](https://arxiv.org/abs/2307.03172)): each line of a file is a record with
//! `ordered_kv_records`, pairs of a key and its value, and `key` and `value`, the pair that is asked for.

use std::path::Path;

use pear_core::DecoderModel;
use serde::{Deserialize, Serialize};

use super::measure::{ItemResult, Measure};
use super::{EvaluationError, JsonLines, PromptBuilder, PromptTemplate, Question};
use crate::{ContinuationScore, Error, continuation_scores};

/// The fields of a template: the JSON object and the key.
pub const FIELDS: [&str; 2] = ["json", "key"];

/// The published prompt.
pub fn template() -> PromptTemplate {
    PromptTemplate::built_in(include_str!("templates/kv.txt"), FIELDS)
}

/// A key and its value.
pub type Pair = (String, String);

/// A key and the records that its value is to be found in, as they stand in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Keys and values, in their order.
    pub ordered_kv_records: Vec<Pair>,
    /// The key that is asked for.
    pub key: String,
    /// Its value.
    pub value: String,
}

/// How questions are made from the records of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// A template with [`FIELDS`]. Default: [the published one](template).
    pub template: PromptTemplate,
    /// Keep at most so many pairs, the one that is asked for among them, at the same place in proportion. Default: all.
    pub max_pairs: Option<usize>,
    /// Into how many groups the places of the key are divided. Default: 5.
    pub num_groups: usize,
    /// Use only the first so many records. Default: all.
    pub limit: Option<usize>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            template: template(),
            max_pairs: None,
            num_groups: 5,
            limit: None,
        }
    }
}

/// A key whose value is to be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvQuestion {
    /// Number of its record, from 0.
    pub index: usize,
    /// Which of the pairs is asked for, from 0.
    pub place: usize,
    /// The places that results are given for together, such as `pairs 0-14`.
    pub group: String,
    /// The prompt as text.
    pub prompt: String,
    /// The value as text.
    pub value: String,
    /// The prompt and the quotation mark before the value, as tokens.
    pub tokens: Vec<u32>,
    /// Whether tokens were cut out of the middle.
    pub cut: bool,
    /// The value as tokens.
    pub value_tokens: Vec<u32>,
}

/// What a model makes of one key.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct KvResult {
    /// Log-probability of the whole value, in nats.
    pub log_prob: f64,
    /// The same for each of its tokens, on average.
    pub log_prob_per_token: f64,
    /// Each token of the value is the most likely one, given those before it.
    pub greedy: bool,
}

impl ItemResult for KvResult {
    const MEASURES: &'static [Measure] = &[
        Measure::nats("log_prob"),
        Measure::nats("log_prob_per_token"),
        Measure::share("greedy"),
    ];

    fn values(&self) -> Vec<f64> {
        vec![
            self.log_prob,
            self.log_prob_per_token,
            f64::from(self.greedy),
        ]
    }
}

impl From<&ContinuationScore> for KvResult {
    fn from(score: &ContinuationScore) -> Self {
        Self {
            log_prob: score.log_prob(),
            log_prob_per_token: score.log_prob() / score.log_probs.len() as f64,
            greedy: score.is_greedy,
        }
    }
}

/// The questions of a `.jsonl` or `.jsonl.gz` file.
///
/// # Errors
/// [`EvaluationError::Option`] for options out of range; [`Error::Io`] if the file cannot be opened; [`EvaluationError::Line`],
/// [`Record`](EvaluationError::Record) or [`NoRecords`](EvaluationError::NoRecords) for its contents; as [`PromptBuilder::build`].
pub fn read(
    path: impl AsRef<Path>,
    prompts: &PromptBuilder,
    options: &Options,
) -> Result<Vec<KvQuestion>, Error> {
    let path = path.as_ref();
    for (option, count) in [
        ("max_pairs", options.max_pairs),
        ("num_groups", Some(options.num_groups)),
    ] {
        if count == Some(0) {
            return Err(EvaluationError::Option {
                option,
                value: "0".into(),
                expected: "at least 1".into(),
            }
            .into());
        }
    }
    let limit = options.limit.unwrap_or(usize::MAX);
    let mut questions = Vec::new();
    for (index, record) in JsonLines::<Record>::open(path)?.take(limit).enumerate() {
        let (place, pairs) = chosen_pairs(record?, options.max_pairs)
            .map_err(|problem| EvaluationError::record(path, index, problem))?;
        questions.push(question(index, place, &pairs, prompts, options)?);
    }
    if questions.is_empty() {
        return Err(EvaluationError::NoRecords { path: path.into() }.into());
    }
    Ok(questions)
}

/// The place of the pair that is asked for, and the pairs.
fn chosen_pairs(
    record: Record,
    max_pairs: Option<usize>,
) -> Result<(usize, Vec<Pair>), &'static str> {
    let Record {
        ordered_kv_records: mut pairs,
        key,
        value,
    } = record;
    if value.is_empty() {
        return Err("`value` is empty");
    }
    let asked = (key, value);
    let place = pairs
        .iter()
        .position(|pair| *pair == asked)
        .ok_or("no pair of `ordered_kv_records` is that of `key` and `value`")?;
    let max_pairs = max_pairs.unwrap_or(pairs.len());
    if pairs.len() <= max_pairs {
        return Ok((place, pairs));
    }
    // First and last places stay first and last.
    let new_place = (place * (max_pairs - 1) + (pairs.len() - 1) / 2) / (pairs.len() - 1);
    pairs.remove(place);
    pairs.truncate(max_pairs - 1);
    pairs.insert(new_place, asked);
    Ok((new_place, pairs))
}

/// Where the probability of the value is measured, it is quoted, as in the JSON object.
fn question(
    index: usize,
    place: usize,
    pairs: &[Pair],
    prompts: &PromptBuilder,
    options: &Options,
) -> Result<KvQuestion, Error> {
    let (key, value) = &pairs[place];
    let prompt = options.template.fill([&json_object(pairs), key]);
    let quote = if prompts.is_chat() { "\"" } else { " \"" };
    let (built, value_tokens) = prompts.build_with_answer(&prompt, quote, value)?;
    Ok(KvQuestion {
        index,
        place,
        group: group(place, pairs.len(), options.num_groups),
        value: value.clone(),
        prompt,
        tokens: built.tokens,
        cut: built.cut,
        value_tokens,
    })
}

/// The pairs as they stand in the published prompt, one a line.
fn json_object(pairs: &[Pair]) -> String {
    let lines: Vec<String> = pairs
        .iter()
        .map(|(key, value)| format!("\"{key}\": \"{value}\""))
        .collect();
    format!("{{{}}}", lines.join(",\n "))
}

/// The places that stand for `place` when all are divided into groups of equal size, the last one smaller where it must be.
fn group(place: usize, num_pairs: usize, num_groups: usize) -> String {
    let size = num_pairs.div_ceil(num_groups).max(1);
    let first = place / size * size;
    let last = (first + size).min(num_pairs) - 1;
    format!("pairs {first}-{last}")
}

/// What `model` makes of each key, in their order. `observe` is called after each, in an order of its own, and may end the evaluation with
/// an error.
///
/// # Errors
/// As [`continuation_scores`].
pub fn evaluate<M: DecoderModel, E: From<Error>>(
    model: &M,
    questions: &[KvQuestion],
    batch_tokens: usize,
    mut observe: impl FnMut() -> Result<(), E>,
) -> Result<Vec<KvResult>, E> {
    let continuations: Vec<(&[u32], &[u32])> = questions
        .iter()
        .map(|question| (&question.tokens[..], &question.value_tokens[..]))
        .collect();
    let scores = continuation_scores(model, &continuations, batch_tokens, |_, _| observe())?;
    Ok(scores.iter().map(KvResult::from).collect())
}

/// The same questions, to be answered by generation; the value must be [contained](super::metrics::substring) in the answer.
pub fn questions(questions: &[KvQuestion], max_new_tokens: usize) -> Vec<Question> {
    let question = |question: &KvQuestion| Question {
        index: question.index,
        group: question.group.clone(),
        prompt: question.prompt.clone(),
        answers: vec![question.value.clone()],
        max_new_tokens,
    };
    questions.iter().map(question).collect()
}
