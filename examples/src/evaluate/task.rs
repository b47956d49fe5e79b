//! What `evaluate` measures beside a text, with its input read.

use anyhow::{Context, Result};
use pear_core::proxy::ProxyBatch;
use pear_models::evaluation::{
    Answerer, EvaluationError, PromptBuilder, PromptTemplate, Question, longbench, mdqa,
};
use pear_models::{Error, ModelDirectory};

use super::context::ContextItems;
use super::{
    Arguments, By, Format, Measured, Models, OutputFile, QuestionReport, proxy_task, tiny_world,
};
use crate::cli;
use crate::proxy::Draw;

/// Index of the first held-out proxy sequence: `train` never reaches it.
const NEVER_DRAWN: usize = 1 << 40;

/// What is measured, with its input read.
#[derive(Debug)]
pub enum Task {
    /// Questions that are answered by generation.
    Questions(Vec<Question>, Box<Answerer>),
    /// Context against memory.
    Context(ContextItems, Box<Answerer>),
    /// The proxy task.
    Proxy(Vec<ProxyBatch>),
    /// Questions of the tiny world.
    TinyWorld,
}

impl Task {
    /// Reads what is to be measured.
    ///
    /// # Errors
    /// Data that cannot be read, and flags that do not fit the model.
    pub fn prepare(
        format: Format,
        arguments: &Arguments,
        directory: &ModelDirectory,
    ) -> Result<Self> {
        let questions = match format {
            Format::Mdqa => mdqa_questions(arguments)?,
            Format::Longbench => longbench_questions(arguments)?,
            Format::Conflict | Format::Swap | Format::Kv => {
                let prompts = prompts(format, arguments, directory)?;
                let items = ContextItems::read(format, arguments, &prompts)?;
                let answerer = answerer(arguments, directory, prompts, items.max_new_tokens)?;
                return Ok(Self::Context(items, Box::new(answerer)));
            }
            Format::Proxy => return Ok(Self::Proxy(proxy_batches(arguments, directory)?)),
            Format::TinyWorld => return Ok(Self::TinyWorld),
        };
        let longest_answer = questions.iter().map(|question| question.max_new_tokens);
        let longest_answer = longest_answer.max().unwrap_or(0);
        let prompts = prompts(format, arguments, directory)?;
        let answerer = answerer(arguments, directory, prompts, longest_answer)?;
        Ok(Self::Questions(questions, Box::new(answerer)))
    }

    /// Measures it.
    ///
    /// # Errors
    /// What a model cannot read; a file that cannot be written.
    pub fn run(self, arguments: &Arguments, models: &Models) -> Result<Measured> {
        let answer = |questions: &[Question], answerer: &Answerer| -> Result<Measured> {
            let outputs = arguments
                .outputs
                .as_ref()
                .map(|path| OutputFile::create(path))
                .transpose()?;
            let batch_tokens = arguments.batch_tokens();
            let report = QuestionReport::run(questions, answerer, models, batch_tokens, outputs)?;
            Ok(report.measured())
        };
        match self {
            Self::Questions(questions, answerer) => answer(&questions, &answerer),
            Self::Context(mut items, answerer) => {
                let mut measured = items.choose(&models.baseline, arguments.batch_tokens())?;
                if arguments.by().contains(&By::Likelihood) {
                    measured.append(items.likelihood(models, arguments.batch_tokens())?);
                }
                if arguments.by().contains(&By::Generation) {
                    let is_chat = answerer.prompts().is_chat();
                    let answers = answer(&items.questions(is_chat), &answerer)?;
                    measured.append(answers.under("generation"));
                }
                Ok(measured)
            }
            Self::Proxy(batches) => proxy_task(&batches, models),
            Self::TinyWorld => tiny_world(arguments.samples(), arguments.seed, models),
        }
    }
}

fn mdqa_questions(arguments: &Arguments) -> Result<Vec<Question>> {
    let path = arguments.data.as_deref().context("--data is missing")?;
    let defaults = mdqa::Options::default();
    let options = mdqa::Options {
        template: template(arguments, mdqa::FIELDS)?.unwrap_or(defaults.template),
        num_documents: arguments.documents(),
        gold_positions: arguments.gold_position(),
        limit: arguments.limit,
        seed: arguments.seed,
        max_new_tokens: arguments.max_new_tokens.unwrap_or(defaults.max_new_tokens),
    };
    let set = mdqa::questions(path, &options)?;
    if set.num_with_drawn_distractors > 0 {
        cli::warn(&format!(
            "{}: {} of {} questions have fewer than {} documents: the others are right documents of other questions",
            path.display(),
            set.num_with_drawn_distractors,
            set.num_records,
            options.num_documents
        ));
    }
    Ok(set.questions)
}

fn longbench_questions(arguments: &Arguments) -> Result<Vec<Question>> {
    let path = arguments.data.as_deref().context("--data is missing")?;
    let options = longbench::Options {
        template: template(arguments, longbench::FIELDS)?,
        max_new_tokens: arguments.max_new_tokens,
        limit: arguments.limit,
    };
    Ok(longbench::questions(path, &options)?)
}

/// The template of `--template`, if it is given.
///
/// # Errors
/// One that cannot be read or lacks a field.
pub(super) fn template(arguments: &Arguments, fields: [&str; 2]) -> Result<Option<PromptTemplate>> {
    let Some(path) = &arguments.template else {
        return Ok(None);
    };
    PromptTemplate::read(path, fields)
        .map(Some)
        .with_context(|| format!("--template {}", path.display()))
}

fn prompts(
    format: Format,
    arguments: &Arguments,
    directory: &ModelDirectory,
) -> Result<PromptBuilder> {
    let prompts =
        PromptBuilder::new(directory)?.with_max_prompt_tokens(arguments.max_prompt_tokens);
    let chat_template = if arguments.chat {
        Some(directory.chat_template()?)
    } else if format == Format::Swap {
        directory.find_chat_template()?
    } else {
        None
    };
    Ok(match chat_template {
        Some(chat_template) => prompts.with_chat_template(chat_template),
        None => prompts,
    })
}

fn answerer(
    arguments: &Arguments,
    directory: &ModelDirectory,
    prompts: PromptBuilder,
    longest_answer: usize,
) -> Result<Answerer> {
    if longest_answer > 0 {
        prompts.room(longest_answer).map_err(name_flag)?;
    }
    Ok(Answerer::new(prompts, directory.eos_tokens()?)
        .with_stop_at_newline(arguments.stop_at_newline))
}

/// An option out of range under the name of its flag.
fn name_flag(error: Error) -> anyhow::Error {
    match error {
        Error::Evaluation(EvaluationError::Option {
            option,
            value,
            expected,
        }) => cli::option_error(option, &value, &expected),
        other => other.into(),
    }
}

fn proxy_batches(arguments: &Arguments, directory: &ModelDirectory) -> Result<Vec<ProxyBatch>> {
    let draw = Draw {
        seed: arguments.seed,
        bos: arguments.bos,
        special: false,
    };
    let task = draw.task(directory)?;
    let indices = NEVER_DRAWN..NEVER_DRAWN + arguments.samples();
    let batch = |&n: &usize| {
        draw.check_length("--lengths", n, directory)?;
        Ok(task.batch(n, indices.clone())?)
    };
    arguments.lengths().iter().map(batch).collect()
}
