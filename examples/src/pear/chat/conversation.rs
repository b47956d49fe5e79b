//! One conversation with two models: the unmodified one and the one with coefficients, which share their weights.

use std::cell::Cell;
use std::ops::ControlFlow;

use burn::prelude::*;
use pear_core::{DecoderModel, HeadCoefficients, HeadEdit, ModelShape, Profile};
use pear_models::{ChatTemplate, Decoder, Error, GenerateOptions, Generator, Message, Tokenizer};

use crate::text_stream::TextStream;

/// Index of the unmodified model.
pub const BEFORE: usize = 0;
/// Index of the model with coefficients.
pub const AFTER: usize = 1;

/// What both models have heard and said. Each remembers its own answers.
pub struct Conversation<'a> {
    generator: Generator<&'a Decoder>,
    coefficients: HeadCoefficients,
    eos_tokens: Vec<u32>,
    tokenizer: &'a Tokenizer,
    template: Option<ChatTemplate>,
    turns: [Vec<Message>; 2],
}

/// What becomes known while both models answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A model goes on with this text.
    Text(usize, &'a str),
    /// A model has ended its answer.
    End(usize),
}

impl<'a> Conversation<'a> {
    /// A conversation with `model`, which must have no coefficients, and with the same model under `profile`. Without a chat template,
    /// each prompt is a text to go on with, and nothing is remembered.
    ///
    /// # Errors
    /// A profile for another shape of model; options that are out of range.
    pub fn new(
        model: &'a Decoder,
        profile: &Profile,
        tokenizer: &'a Tokenizer,
        template: Option<ChatTemplate>,
        options: GenerateOptions,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            coefficients: profile.for_model(&model.shape(), &model.device())?,
            eos_tokens: options.eos_tokens.clone(),
            generator: Generator::new(model, options)?,
            tokenizer,
            template,
            turns: [Vec::new(), Vec::new()],
        })
    }

    /// Forgets what was said.
    pub fn clear(&mut self) {
        self.turns = [Vec::new(), Vec::new()];
    }

    /// Both models' answers to a prompt. They are generated together; `observe` is told as they grow.
    ///
    /// # Errors
    /// A prompt without tokens, or a conversation that is too long for the model's positions: it is as it was before, then. What
    /// `observe` returns.
    pub fn answer<E: From<Error>>(
        &mut self,
        prompt: &str,
        mut observe: impl FnMut(Event) -> Result<(), E>,
    ) -> Result<[String; 2], E> {
        let prompts = [self.tokens(BEFORE, prompt)?, self.tokens(AFTER, prompt)?];
        let going = Cell::new([true; 2]);
        let mut edit = OneRow {
            coefficients: &mut self.coefficients,
            going: &going,
        };
        let mut streams = [self.tokenizer, self.tokenizer].map(TextStream::new);
        let rows = self
            .generator
            .run_with::<E>(&prompts, &mut edit, |model, token| {
                if self.eos_tokens.contains(&token) {
                    let mut rows = going.get();
                    rows[model] = false;
                    going.set(rows);
                    observe(Event::End(model))?;
                    return Ok(ControlFlow::Break(()));
                }
                let text = streams[model].add(token)?;
                if !text.is_empty() {
                    observe(Event::Text(model, &text))?;
                }
                Ok(ControlFlow::Continue(()))
            })?;
        for model in [BEFORE, AFTER]
            .into_iter()
            .filter(|&model| going.get()[model])
        {
            observe(Event::End(model))?;
        }
        let mut answers = [String::new(), String::new()];
        for (answer, tokens) in answers.iter_mut().zip(&rows) {
            *answer = self.tokenizer.decode(tokens)?;
        }
        self.remember(prompt, &answers);
        Ok(answers)
    }

    /// What a model reads: all that was said to it and by it, and the prompt.
    fn tokens(&self, model: usize, prompt: &str) -> Result<Vec<u32>, Error> {
        let tokens = match &self.template {
            Some(template) => {
                let said = self.turns[model].iter().cloned();
                let messages: Vec<Message> = said.chain([Message::user(prompt)]).collect();
                self.tokenizer
                    .encode_rendered(&template.render(&messages, true)?)?
            }
            None => self.tokenizer.encode(prompt)?,
        };
        if tokens.is_empty() {
            return Err(Error::Input(
                "a prompt without tokens: expected at least 1".into(),
            ));
        }
        Ok(tokens)
    }

    fn remember(&mut self, prompt: &str, answers: &[String; 2]) {
        if self.template.is_none() {
            return;
        }
        for (turns, answer) in self.turns.iter_mut().zip(answers) {
            turns.push(Message::user(prompt));
            turns.push(Message {
                role: "assistant".into(),
                content: answer.trim().into(),
            });
        }
    }
}

/// Coefficients for the second of two texts that are continued together.
struct OneRow<'a> {
    coefficients: &'a mut HeadCoefficients,
    /// Which of the two have not ended: the batch consists of these.
    going: &'a Cell<[bool; 2]>,
}

impl HeadEdit for OneRow<'_> {
    fn edit(&mut self, layer: usize, heads: Tensor<4>) -> pear_core::Result<Tensor<4>> {
        if self.coefficients.layer(layer).is_none() {
            return Ok(heads);
        }
        match self.going.get() {
            [_, false] => Ok(heads),
            [false, true] => self.coefficients.edit(layer, heads),
            [true, true] => {
                let before = heads.clone().narrow(0, BEFORE, 1);
                let after = self.coefficients.edit(layer, heads.narrow(0, AFTER, 1))?;
                Ok(Tensor::cat(vec![before, after], 0))
            }
        }
    }

    fn check(&self, model: &ModelShape) -> pear_core::Result<()> {
        self.coefficients.check(model)
    }

    fn reweights(&self) -> bool {
        self.coefficients.reweights()
    }
}
