//! Greedy answers to questions.

use std::ops::ControlFlow;
use std::time::Instant;

use pear_core::{DecoderModel, NoEdit};

use super::{AnswerRecord, AnswerScores, PromptBuilder, Question};
use crate::{Error, GenerateOptions, Generator};

/// Lets a model answer questions, always with the most likely token.
///
/// ```
/// # #[cfg(feature = "tiny")] {
/// use burn::prelude::*;
/// use burn::tensor::DType;
/// use pear_models::ModelDirectory;
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
        let start = Instant::now();
        let tokens = self.generate(model, &prompt.tokens, question.max_new_tokens)?;
        let seconds = start.elapsed().as_secs_f64();
        let mut output = self.prompts.decode(&tokens)?;
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
            seconds,
        })
    }

    fn generate<M: DecoderModel>(
        &self,
        model: &M,
        prompt: &[u32],
        max_new_tokens: usize,
    ) -> Result<Vec<u32>, Error> {
        let options = GenerateOptions {
            max_new_tokens,
            eos_tokens: self.eos_tokens.clone(),
            ..GenerateOptions::default()
        };
        let mut so_far = Vec::new();
        let generator = Generator::new(model, options)?;
        let mut rows = generator.run_with(&[prompt], &mut NoEdit, |_, token| {
            so_far.push(token);
            Ok::<_, Error>(if self.is_complete(&so_far)? {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        })?;
        Ok(rows.pop().unwrap_or_default())
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
