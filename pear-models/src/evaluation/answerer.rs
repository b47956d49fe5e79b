//! Greedy answers to questions.

use std::collections::BTreeMap;
use std::time::Instant;

use pear_core::DecoderModel;

use super::{AnswerRecord, AnswerScores, Prompt, PromptBuilder, Question};
use crate::{Error, GenerateOptions, Generator};

/// Lets a model answer questions, always with the most likely token.
///
/// ```
/// # #[cfg(feature = "tiny")] {
/// use burn::prelude::*;
/// use burn::tensor::DType;
/// use pear_models::{Error, ModelDirectory};
/// use pear_models::evaluation::{Answerer, PromptBuilder, Question};
///
/// let folder = tempfile::tempdir()?;
/// pear_models::tiny::Tiny::Rope.write(folder.path())?;
/// let directory = ModelDirectory::open(folder.path())?;
/// let model = directory.load(&Device::flex(), DType::F32)?;
/// let question = Question {
///     index: 0,
///     group: "all".into(),
///     prompt: "the old dog sees a".into(),
///     answers: vec!["boy".into(), "girl".into()],
///     max_new_tokens: 1,
/// };
/// let answerer = Answerer::new(PromptBuilder::new(&directory)?, directory.eos_tokens()?);
/// let record = answerer.answer("baseline", &model, &question)?;
/// assert_eq!((record.prompt_tokens, record.new_tokens), (6, 1));
///
/// // Many questions at once.
/// let prompt = answerer.prompts().build(&question.prompt, question.max_new_tokens)?;
/// let records = answerer.answer_batch("baseline", &model, &[(&question, &prompt); 3], 4096, |_, _| Ok::<_, Error>(()))?;
/// assert!(records.iter().all(|same| same.output == record.output));
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Answerer {
    prompts: PromptBuilder,
    eos_tokens: Vec<u32>,
    stop_at_newline: bool,
}

impl Answerer {
    /// Makes prompts with `prompts`, and ends answers at each of `eos_tokens`: those of
    /// [`ModelDirectory::eos_tokens`](crate::ModelDirectory::eos_tokens).
    pub fn new(prompts: PromptBuilder, eos_tokens: Vec<u32>) -> Self {
        Self {
            prompts,
            eos_tokens,
            stop_at_newline: false,
        }
    }

    /// Whether an answer ends with its first line.
    pub fn with_stop_at_newline(mut self, stop_at_newline: bool) -> Self {
        self.stop_at_newline = stop_at_newline;
        self
    }

    /// What makes the prompts.
    pub fn prompts(&self) -> &PromptBuilder {
        &self.prompts
    }

    /// The answer of `model`, recorded under the name `run`.
    ///
    /// # Errors
    /// As [`PromptBuilder::build`] and [`Generator::run_with`].
    pub fn answer<M: DecoderModel>(
        &self,
        run: &str,
        model: &M,
        question: &Question,
    ) -> Result<AnswerRecord, Error> {
        let prompt = self
            .prompts
            .build(&question.prompt, question.max_new_tokens)?;
        self.answer_batch(run, model, &[(question, &prompt)], 0, |_, _| {
            Ok::<_, Error>(())
        })?
        .pop()
        .ok_or_else(|| Error::Input("no answer was generated".into()))
    }

    /// The answers of `model` to questions whose [prompts](PromptBuilder::build) are at hand, in their order: those of
    /// [`answer`](Self::answer), up to rounding. `observe` is told of each answer as it comes, with the index of its question, and may end
    /// the work with an error.
    ///
    /// Questions with the same `max_new_tokens` are answered together, at most `batch_tokens` tokens of prompts and answers at once, padding
    /// included (or one question, where that is longer): so many tokens are in the key/value cache at a time. What prompts begin with in common
    /// is read once ([`Generator::run_in_turn`]).
    ///
    /// # Errors
    /// As [`Generator::run_with`]; what `observe` returns.
    pub fn answer_batch<M: DecoderModel, E: From<Error>>(
        &self,
        run: &str,
        model: &M,
        questions: &[(&Question, &Prompt)],
        batch_tokens: usize,
        mut observe: impl FnMut(usize, &AnswerRecord) -> Result<(), E>,
    ) -> Result<Vec<AnswerRecord>, E> {
        let mut records: Vec<Option<AnswerRecord>> = vec![None; questions.len()];
        let mut since = Instant::now();
        for (max_new_tokens, indices) in by_answer_length(questions) {
            let options = GenerateOptions {
                max_new_tokens,
                eos_tokens: self.eos_tokens.clone(),
                ..GenerateOptions::default()
            };
            let prompts: Vec<&[u32]> = indices
                .iter()
                .map(|&index| &questions[index].1.tokens[..])
                .collect();
            let is_complete = |tokens: &[u32]| Ok(self.is_complete(tokens)?);
            Generator::new(model, options)?.run_in_turn(
                &prompts,
                batch_tokens,
                is_complete,
                |prompt, tokens| {
                    let index = indices[prompt];
                    let mut record = self.record(run, questions[index], &tokens)?;
                    record.seconds = since.elapsed().as_secs_f64();
                    since = Instant::now();
                    observe(index, &record)?;
                    records[index] = Some(record);
                    Ok::<_, E>(())
                },
            )?;
        }
        Ok(records.into_iter().flatten().collect())
    }

    fn record(
        &self,
        run: &str,
        (question, prompt): (&Question, &Prompt),
        tokens: &[u32],
    ) -> Result<AnswerRecord, Error> {
        let mut output = self.prompts.decode(tokens)?;
        if self.stop_at_newline {
            output = first_line(&output).to_owned();
        }
        Ok(AnswerRecord {
            run: run.into(),
            index: question.index,
            group: question.group.clone(),
            scores: AnswerScores::of(&output, &question.answers),
            output,
            answers: question.answers.clone(),
            prompt_tokens: prompt.tokens.len(),
            cut: prompt.cut,
            new_tokens: tokens.len(),
            seconds: 0.0,
        })
    }

    /// Whether an answer needs no further tokens. Line breaks before its first word do not end it.
    fn is_complete(&self, tokens: &[u32]) -> Result<bool, Error> {
        Ok(self.stop_at_newline && self.prompts.decode(tokens)?.trim_start().contains('\n'))
    }
}

/// The first line that is not blank, without white space around it.
fn first_line(text: &str) -> &str {
    text.trim().lines().next().unwrap_or_default().trim()
}

/// Indices of questions with the same `max_new_tokens`.
fn by_answer_length(questions: &[(&Question, &Prompt)]) -> BTreeMap<usize, Vec<usize>> {
    let mut by_length: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (index, (question, _)) in questions.iter().enumerate() {
        let same = by_length.entry(question.max_new_tokens).or_default();
        same.push(index);
    }
    by_length
}
