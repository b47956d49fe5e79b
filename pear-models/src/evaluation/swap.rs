//! Questions with a passage in which the answer was replaced by another one: does the model answer from the passage?
//!
//! The data are those of NQ-Swap ([arXiv 2109.05052](https://arxiv.org/abs/2109.05052)): each line of a file is a record with `question`,
//! `org_context` and `org_answer`, the passage as it was and its answers, `sub_context` and `sub_answer`, both after the replacement.
//!
//! Each question is asked in three ways: with the passage that was changed (*substituted*), where memory and context disagree; with the
//! passage as it was (*agreeing*); and without one (*closed book*). [`evaluate`] measures the probability of the first token of the right
//! answer; [`questions`] are those to be answered by generation.

use std::collections::HashSet;
use std::path::Path;
use std::sync::LazyLock;

use pear_core::DecoderModel;
use regex::Regex;
use serde::{Deserialize, Serialize};

use super::jsonl::read_records;
use super::measure::{ItemResult, Measure};
use super::{PromptBuilder, Question};
use crate::{Error, next_token_logits};

/// The longest passage that is used, in characters.
pub const MAX_PASSAGE_CHARS: usize = 900;

/// A question as it stands in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The question, without a question mark.
    pub question: String,
    /// The passage as it was.
    pub org_context: String,
    /// Its answers.
    pub org_answer: Vec<String>,
    /// The passage with another answer in it.
    pub sub_context: String,
    /// That answer.
    pub sub_answer: Vec<String>,
}

/// A question with its three prompts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwapQuestion {
    /// Number of its record, from 0.
    pub index: usize,
    /// Its record, the passages [cleaned](clean_passage).
    pub record: Record,
    /// The prompt with the substituted passage, as tokens.
    pub substituted: Vec<u32>,
    /// The prompt with the original passage, as tokens.
    pub agreeing: Vec<u32>,
    /// The prompt without a passage, as tokens.
    pub closed_book: Vec<u32>,
    /// First token of the first original answer.
    pub original_answer: u32,
    /// First token of the first substituted answer, which is another one.
    pub substituted_answer: u32,
}

/// What a model makes of one question: log-probabilities of first tokens of answers, in nats.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SwapResult {
    /// Of the substituted answer, after the substituted passage.
    pub substituted: f64,
    /// Of the original answer, after the substituted passage: what memory says against the context.
    pub memory: f64,
    /// Of the original answer, after the original passage.
    pub agreeing: f64,
    /// Of the original answer, without a passage.
    pub closed_book: f64,
    /// After the substituted passage, the first token of the substituted answer is the most likely one.
    pub substituted_first: bool,
    /// After the original passage, the first token of the original answer is the most likely one.
    pub agreeing_first: bool,
    /// Without a passage, the first token of the original answer is the most likely one.
    pub closed_book_first: bool,
}

impl ItemResult for SwapResult {
    const MEASURES: &'static [Measure] = &[
        Measure::nats("substituted"),
        Measure::nats("memory"),
        Measure::nats("agreeing"),
        Measure::nats("closed_book"),
        Measure::share("substituted_over_memory"),
        Measure::share("substituted_first"),
        Measure::share("agreeing_first"),
        Measure::share("closed_book_first"),
    ];

    fn values(&self) -> Vec<f64> {
        vec![
            self.substituted,
            self.memory,
            self.agreeing,
            self.closed_book,
            f64::from(self.substituted > self.memory),
            f64::from(self.substituted_first),
            f64::from(self.agreeing_first),
            f64::from(self.closed_book_first),
        ]
    }
}

/// The prompt for a question, with a passage or without one. In plain text, without a chat template, it ends with a cue for the answer.
pub fn prompt(passage: Option<&str>, question: &str, is_chat: bool) -> String {
    let text = match passage {
        Some(passage) => format!(
            "{passage}\n\nUsing only the text above, answer in a few words.\nQuestion: {question}?"
        ),
        None => format!("Answer in a few words.\nQuestion: {question}?"),
    };
    if is_chat { text } else { text + "\nAnswer:" }
}

/// A passage without its `<P>` marks and without the spaces that its tokenization left before punctuation.
///
/// ```
/// use pear_models::evaluation::swap::clean_passage;
///
/// let passage = "<P> The heron 's nest , they say ( in 1907 ) , was empty . </P>";
/// assert_eq!(clean_passage(passage), "The heron's nest, they say ( in 1907), was empty.");
/// ```
pub fn clean_passage(passage: &str) -> String {
    static MARKS: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\s*</?P>\s*").expect("a valid pattern"));
    static SPACES: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\s+([.,;:!?%)\]}]|'s\b)").expect("a valid pattern"));
    let unmarked = MARKS.replace_all(passage, " ");
    SPACES.replace_all(unmarked.trim(), "$1").into_owned()
}

/// The questions of a `.jsonl` or `.jsonl.gz` file, at most `limit` of them: see [`swap_questions`].
///
/// # Errors
/// As [`swap_questions`]; [`Error::Io`] if the file cannot be opened; for its contents,
/// [`EvaluationError::Line`](super::EvaluationError::Line) or [`NoRecords`](super::EvaluationError::NoRecords).
pub fn read(
    path: impl AsRef<Path>,
    prompts: &PromptBuilder,
    limit: Option<usize>,
) -> Result<Vec<SwapQuestion>, Error> {
    read_records(path.as_ref(), |records| {
        swap_questions(records, prompts, limit)
    })
}

/// The first `limit` records that can be used: cleaned passages of at most [`MAX_PASSAGE_CHARS`], answers whose first tokens differ, and no
/// record before with the same question.
///
/// # Errors
/// Those of `records`, and as [`PromptBuilder::build`].
pub fn swap_questions(
    records: impl IntoIterator<Item = Result<Record, Error>>,
    prompts: &PromptBuilder,
    limit: Option<usize>,
) -> Result<Vec<SwapQuestion>, Error> {
    let mut questions = Vec::new();
    let mut seen = HashSet::new();
    for (index, record) in records.into_iter().enumerate() {
        if limit.is_some_and(|limit| questions.len() >= limit) {
            break;
        }
        let record = record?;
        if seen.contains(&record.question) {
            continue;
        }
        if let Some(question) = swap_question(index, record, prompts)? {
            seen.insert(question.record.question.clone());
            questions.push(question);
        }
    }
    Ok(questions)
}

/// `None` for passages that are too long, and answers that are missing, begin with the same token, or do not begin at the same place: the
/// space before one is a token of its own.
fn swap_question(
    index: usize,
    mut record: Record,
    prompts: &PromptBuilder,
) -> Result<Option<SwapQuestion>, Error> {
    record.org_context = clean_passage(&record.org_context);
    record.sub_context = clean_passage(&record.sub_context);
    let is_long = |passage: &str| passage.chars().count() > MAX_PASSAGE_CHARS;
    if is_long(&record.org_context) || is_long(&record.sub_context) {
        return Ok(None);
    }
    let (Some(original), Some(substituted)) =
        (record.org_answer.first(), record.sub_answer.first())
    else {
        return Ok(None);
    };
    if original.trim().is_empty() || substituted.trim().is_empty() {
        return Ok(None);
    }
    // In plain text a space stands before the answer, whether it is a token of its own or not.
    let lead = if prompts.is_chat() { "" } else { " " };
    let ask = |passage: Option<&str>, answer: &str| -> Result<(Vec<u32>, u32), Error> {
        let text = prompt(passage, &record.question, prompts.is_chat());
        let (prompt, answer) = prompts.build_with_answer(&text, lead, answer)?;
        Ok((prompt.tokens, answer[0]))
    };
    let (with_substituted, substituted_answer) = ask(Some(&record.sub_context), substituted)?;
    let (with_original, original_answer) = ask(Some(&record.sub_context), original)?;
    if with_substituted != with_original || original_answer == substituted_answer {
        return Ok(None);
    }
    let (agreeing, _) = ask(Some(&record.org_context), original)?;
    let (closed_book, _) = ask(None, original)?;
    Ok(Some(SwapQuestion {
        index,
        record,
        substituted: with_substituted,
        agreeing,
        closed_book,
        original_answer,
        substituted_answer,
    }))
}

/// What `model` makes of each question, in their order. `observe` is called after each of the three prompts of each question, in an order
/// of its own, and may end the evaluation with an error.
///
/// # Errors
/// As [`next_token_logits`].
pub fn evaluate<M: DecoderModel, E: From<Error>>(
    model: &M,
    questions: &[SwapQuestion],
    batch_tokens: usize,
    mut observe: impl FnMut() -> Result<(), E>,
) -> Result<Vec<SwapResult>, E> {
    let prompts: Vec<&[u32]> = questions
        .iter()
        .flat_map(|q| [&q.substituted[..], &q.agreeing, &q.closed_book])
        .collect();
    let empty = SwapResult {
        substituted: f64::NAN,
        memory: f64::NAN,
        agreeing: f64::NAN,
        closed_book: f64::NAN,
        substituted_first: false,
        agreeing_first: false,
        closed_book_first: false,
    };
    let mut results = vec![empty; questions.len()];
    next_token_logits(model, &prompts, batch_tokens, |prompt, next| {
        let (question, result) = (&questions[prompt / 3], &mut results[prompt / 3]);
        let original = next.log_prob(question.original_answer);
        let original_first = next.top_token() == question.original_answer;
        match prompt % 3 {
            0 => {
                result.substituted = next.log_prob(question.substituted_answer);
                result.memory = original;
                result.substituted_first = next.top_token() == question.substituted_answer;
            }
            1 => (result.agreeing, result.agreeing_first) = (original, original_first),
            _ => (result.closed_book, result.closed_book_first) = (original, original_first),
        }
        observe()
    })?;
    Ok(results)
}

/// Three questions for each, to be answered by generation: in the group `substituted` the substituted answers are right, in `agreeing`
/// and `closed book` the original ones. `is_chat` as in [`prompt`].
pub fn questions(
    questions: &[SwapQuestion],
    max_new_tokens: usize,
    is_chat: bool,
) -> Vec<Question> {
    let question =
        |q: &SwapQuestion, group: &str, passage: Option<&str>, answers: &[String]| Question {
            index: q.index,
            group: group.into(),
            prompt: prompt(passage, &q.record.question, is_chat),
            answers: answers.to_vec(),
            max_new_tokens,
        };
    questions
        .iter()
        .flat_map(|q| {
            let r = &q.record;
            [
                question(q, "substituted", Some(&r.sub_context), &r.sub_answer),
                question(q, "agreeing", Some(&r.org_context), &r.org_answer),
                question(q, "closed book", None, &r.org_answer),
            ]
        })
        .collect()
}
