//! Facts that a model knows, with a statement before them that contradicts it: does the context beat memory?
//!
//! The data are those of *Competition of Mechanisms* ([arXiv 2402.11655](https://arxiv.org/abs/2402.11655)): each line of a file is a
//! record with `base_prompt`, which ends where the fact's last word is missing, `target_true`, that word, `target_new`, another one, both
//! with the space before them, and `prompt`: `Redefine: ` and the statement with the other word, then the base prompt again.
//!
//! Facts are [read](facts) as tokens, reduced to those that the unmodified model [knows](known), and [evaluated](evaluate) for any
//! number of models; results on the same facts are [compared](super::compare). Prompts are plain text: the prompts' builder should have no
//! chat template.

use std::collections::HashSet;
use std::path::Path;

use pear_core::DecoderModel;
use serde::{Deserialize, Serialize};

use super::jsonl::read_records;
use super::measure::{ItemResult, Measure};
use super::{PromptBuilder, Question};
use crate::{Error, next_token_logits};

/// What stands before a contradicting statement in the data, and is not read to the model.
const MARK: &str = "Redefine: ";

/// A fact as it stands in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The fact without its last word.
    pub base_prompt: String,
    /// A statement with `target_new` in place of that word, and the base prompt after it.
    pub prompt: String,
    /// The last word, with the space before it.
    pub target_true: String,
    /// Another word, with the space before it.
    pub target_new: String,
}

impl Record {
    /// The prompt with the contradicting statement, as the model reads it.
    pub fn context_prompt(&self) -> &str {
        self.prompt.strip_prefix(MARK).unwrap_or(&self.prompt)
    }
}

/// A fact whose two last words are one token each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// Number of its record, from 0.
    pub index: usize,
    /// Its record.
    pub record: Record,
    /// The base prompt, which memory alone answers, as tokens.
    pub closed_book: Vec<u32>,
    /// The contradicting statement and the base prompt, as tokens.
    pub context: Vec<u32>,
    /// The last word.
    pub target_true: u32,
    /// The word of the contradicting statement.
    pub target_new: u32,
}

/// What a model makes of one fact.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct FactResult {
    /// After the contradicting statement, the logit of its word is above that of the fact's.
    pub context_over_memory: bool,
    /// There, log-probability of the statement's word minus that of the fact's, in nats.
    pub log_prob_difference: f64,
    /// There, the statement's word is the most likely of all tokens.
    pub context_first: bool,
    /// Closed book, after the base prompt alone, the fact's word is the most likely of all tokens.
    pub closed_book_first: bool,
}

impl ItemResult for FactResult {
    const MEASURES: &'static [Measure] = &[
        Measure::share("context_over_memory"),
        Measure::nats("log_prob_difference"),
        Measure::share("context_first"),
        Measure::share("closed_book_first"),
    ];

    fn values(&self) -> Vec<f64> {
        vec![
            f64::from(self.context_over_memory),
            self.log_prob_difference,
            f64::from(self.context_first),
            f64::from(self.closed_book_first),
        ]
    }
}

/// The facts of a `.jsonl` or `.jsonl.gz` file, at most `limit` of them: see [`facts`].
///
/// # Errors
/// As [`facts`]; [`Error::Io`] if the file cannot be opened; for its contents, [`EvaluationError::Line`](super::EvaluationError::Line)
/// or [`NoRecords`](super::EvaluationError::NoRecords).
pub fn read(
    path: impl AsRef<Path>,
    prompts: &PromptBuilder,
    limit: Option<usize>,
) -> Result<Vec<Fact>, Error> {
    read_records(path.as_ref(), |records| facts(records, prompts, limit))
}

/// The first `limit` records that can be asked about: both last words are one token each where they stand, and not the same one, and no
/// record before has the same base prompt.
///
/// # Errors
/// Those of `records`, and as [`PromptBuilder::build`].
pub fn facts(
    records: impl IntoIterator<Item = Result<Record, Error>>,
    prompts: &PromptBuilder,
    limit: Option<usize>,
) -> Result<Vec<Fact>, Error> {
    let mut facts = Vec::new();
    let mut seen = HashSet::new();
    for (index, record) in records.into_iter().enumerate() {
        if limit.is_some_and(|limit| facts.len() >= limit) {
            break;
        }
        let record = record?;
        if seen.contains(&record.base_prompt) {
            continue;
        }
        if let Some(fact) = fact(index, record, prompts)? {
            seen.insert(fact.record.base_prompt.clone());
            facts.push(fact);
        }
    }
    Ok(facts)
}

/// `None` where a last word is not one token, or both are the same one.
fn fact(index: usize, record: Record, prompts: &PromptBuilder) -> Result<Option<Fact>, Error> {
    let closed_book = prompts.build(&record.base_prompt, 1)?.tokens;
    let context = prompts.build(record.context_prompt(), 1)?.tokens;
    let one_token = |text: &str, prompt: &[u32], target: &str| -> Result<Option<u32>, Error> {
        let (before, target) = prompts.build_with_answer(text, "", target)?;
        Ok(match target[..] {
            [token] if before.tokens == prompt => Some(token),
            _ => None,
        })
    };
    let in_context = record.context_prompt();
    let (Some(target_true), Some(target_new)) = (
        one_token(&record.base_prompt, &closed_book, &record.target_true)?,
        one_token(in_context, &context, &record.target_new)?,
    ) else {
        return Ok(None);
    };
    Ok((target_true != target_new).then_some(Fact {
        index,
        record,
        closed_book,
        context,
        target_true,
        target_new,
    }))
}

/// The facts that `model`, which is the unmodified one, knows: closed book, the right last word is the most likely token.
///
/// # Errors
/// As [`next_token_logits`].
pub fn known<M: DecoderModel, E: From<Error>>(
    model: &M,
    facts: Vec<Fact>,
    batch_tokens: usize,
    observe: impl FnMut() -> Result<(), E>,
) -> Result<Vec<Fact>, E> {
    let first = closed_book_first(model, &facts, batch_tokens, observe)?;
    let mut first = first.into_iter();
    Ok(facts
        .into_iter()
        .filter(|_| first.next() == Some(true))
        .collect())
}

/// What `model` makes of each fact, in their order. `observe` is called after each of the two prompts of each fact, in an order of its own,
/// and may end the evaluation with an error.
///
/// # Errors
/// As [`next_token_logits`].
pub fn evaluate<M: DecoderModel, E: From<Error>>(
    model: &M,
    facts: &[Fact],
    batch_tokens: usize,
    mut observe: impl FnMut() -> Result<(), E>,
) -> Result<Vec<FactResult>, E> {
    let closed_book = closed_book_first(model, facts, batch_tokens, &mut observe)?;
    let mut results: Vec<FactResult> = closed_book
        .into_iter()
        .map(|closed_book_first| FactResult {
            context_over_memory: false,
            log_prob_difference: 0.0,
            context_first: false,
            closed_book_first,
        })
        .collect();
    let prompts: Vec<&[u32]> = facts.iter().map(|fact| &fact.context[..]).collect();
    next_token_logits(model, &prompts, batch_tokens, |index, next| {
        let (fact, result) = (&facts[index], &mut results[index]);
        // The difference of the logits: what both lose to become log-probabilities is the same.
        result.log_prob_difference = next.logit(fact.target_new) - next.logit(fact.target_true);
        result.context_over_memory = result.log_prob_difference > 0.0;
        result.context_first = next.top_token() == fact.target_new;
        observe()
    })?;
    Ok(results)
}

fn closed_book_first<M: DecoderModel, E: From<Error>>(
    model: &M,
    facts: &[Fact],
    batch_tokens: usize,
    mut observe: impl FnMut() -> Result<(), E>,
) -> Result<Vec<bool>, E> {
    let prompts: Vec<&[u32]> = facts.iter().map(|fact| &fact.closed_book[..]).collect();
    let mut first = vec![false; facts.len()];
    next_token_logits(model, &prompts, batch_tokens, |index, next| {
        first[index] = next.top_token() == facts[index].target_true;
        observe()
    })?;
    Ok(first)
}

/// Two questions for each fact, to be answered by generation: in the group `context`, where the statement's word is right, and in
/// `closed book`, where the fact's is.
pub fn questions(facts: &[Fact], max_new_tokens: usize) -> Vec<Question> {
    let question = |fact: &Fact, group: &str, prompt: &str, answer: &str| Question {
        index: fact.index,
        group: group.into(),
        prompt: prompt.into(),
        answers: vec![answer.trim().into()],
        max_new_tokens,
    };
    facts
        .iter()
        .flat_map(|fact| {
            let Record {
                base_prompt,
                target_true,
                target_new,
                ..
            } = &fact.record;
            [
                question(fact, "context", fact.record.context_prompt(), target_new),
                question(fact, "closed book", base_prompt, target_true),
            ]
        })
        .collect()
}
