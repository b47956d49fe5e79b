//! Greedy answers, with and without PEAR.

use std::ops::ControlFlow;
use std::time::Instant;

use anyhow::Result;
use pear_core::DecoderModel;
use pear_models::{GenerateOptions, generate};
use serde::{Deserialize, Serialize};

use super::metrics::Scores;
use super::{Prompts, Question};

/// One answer, with all that is needed to score it again: a line of the file of outputs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answered {
    /// `baseline` or `pear`.
    pub run: String,
    /// Number of the question in the file, from 0.
    pub index: usize,
    /// Its group.
    pub group: String,
    /// What the model said.
    pub output: String,
    /// What counts as right.
    pub answers: Vec<String>,
    /// Tokens read.
    pub prompt_tokens: usize,
    /// Whether the prompt was cut in the middle.
    pub cut: bool,
    /// Tokens written.
    pub new_tokens: usize,
    /// How long it took.
    pub seconds: f64,
    /// Of the output.
    pub scores: Scores,
}

/// Answers questions.
#[derive(Debug)]
pub struct Runner {
    /// Makes prompts.
    pub prompts: Prompts,
    /// Tokens that end an answer.
    pub eos_tokens: Vec<u32>,
    /// Take the first line of an answer only.
    pub stop_at_newline: bool,
}

impl Runner {
    /// The answer of `model`.
    ///
    /// # Errors
    /// A prompt that the model cannot read.
    pub fn answer<M: DecoderModel>(
        &self,
        run: &str,
        model: &M,
        question: &Question,
    ) -> Result<Answered> {
        let (prompt, cut) = self
            .prompts
            .tokens(&question.prompt, question.max_new_tokens)?;
        let options = GenerateOptions {
            max_new_tokens: question.max_new_tokens,
            eos_tokens: self.eos_tokens.clone(),
            ..GenerateOptions::default()
        };
        let (since, mut said, mut failed) = (Instant::now(), Vec::new(), None);
        let tokens = generate(model, &prompt, &options, |token| {
            said.push(token);
            if !self.stop_at_newline {
                return ControlFlow::Continue(());
            }
            match self.prompts.text(&said) {
                // Line breaks before the answer are none that end it.
                Ok(text) if text.trim_start().contains('\n') => ControlFlow::Break(()),
                Ok(_) => ControlFlow::Continue(()),
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        let seconds = since.elapsed().as_secs_f64();
        let text = self.prompts.text(&tokens)?;
        let output = if self.stop_at_newline {
            text.trim().lines().next().unwrap_or("").trim().to_owned()
        } else {
            text
        };
        Ok(Answered {
            run: run.into(),
            index: question.index,
            group: question.group.clone(),
            scores: Scores::of(&output, &question.answers),
            output,
            answers: question.answers.clone(),
            prompt_tokens: prompt.len(),
            cut,
            new_tokens: tokens.len(),
            seconds,
        })
    }
}
