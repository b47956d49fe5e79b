//! Measures question answering, the proxy task or plain text, with and without coefficients.
//!
//! ```sh
//! cargo run --release --example evaluate -- --model DIR --profile profile.json --format mdqa --data nq-open.jsonl.gz --gold-position 0,4,9
//! ```

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use pear_core::files::{SequenceRecord, write_json};
use pear_core::proxy::ProxyBatch;
use pear_examples::cli::{self, ModelArgs};
use pear_examples::evaluate::{
    Measured, Models, OutputFile, QuestionReport, proxy_task, text_cost, tiny_world,
};
use pear_examples::memory::peak_memory;
use pear_examples::proxy::Draw;
use pear_models::evaluation::{
    Answerer, EvaluationError, PromptBuilder, PromptTemplate, Question, TextWindows, longbench,
    mdqa,
};
use pear_models::{Error, ModelDirectory};
use serde_json::{Map, Value, json};

/// Index of the first held-out proxy sequence: `train` never reaches it.
const NEVER_DRAWN: usize = 1 << 40;

/// Measure question answering, the proxy task or plain text, without and with the coefficients of a profile
#[derive(Parser, Debug)]
#[command(name = "evaluate", allow_negative_numbers = true)]
struct Arguments {
    #[command(flatten)]
    model: ModelArgs,

    /// What to measure [default: mdqa with --data]
    #[arg(long, value_enum)]
    format: Option<Format>,

    /// mdqa, longbench: file of questions, JSON lines (.jsonl or .jsonl.gz)
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,

    /// Profile of `train` whose coefficients are compared with none
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,

    /// mdqa: number of documents before each question
    #[arg(long, value_name = "COUNT", default_value_t = 10)]
    documents: usize,

    /// mdqa: positions of the right document, from 0
    #[arg(
        long,
        value_name = "PLACE,…",
        value_delimiter = ',',
        default_value = "0,4,9"
    )]
    gold_position: Vec<usize>,

    /// Use only the first COUNT questions of the file
    #[arg(long, value_name = "COUNT")]
    limit: Option<usize>,

    /// Largest number of new tokens in an answer [default: 100 for mdqa; as published for each dataset of longbench]
    #[arg(long, value_name = "COUNT")]
    max_new_tokens: Option<usize>,

    /// Largest number of tokens in a prompt; longer prompts are cut in the middle [default: what the model has room for beside the new
    /// tokens]
    #[arg(long, value_name = "TOKENS")]
    max_prompt_tokens: Option<usize>,

    /// File with another prompt template: a text with {search_results} and {question} (mdqa) or {context} and {input} (longbench)
    #[arg(long, value_name = "FILE")]
    template: Option<PathBuf>,

    /// Put each prompt into the model's chat template
    #[arg(long)]
    chat: bool,

    /// End each answer after its first line
    #[arg(long)]
    stop_at_newline: bool,

    /// File to write every answer to, for scoring them again: JSON lines
    #[arg(long, value_name = "FILE")]
    outputs: Option<PathBuf>,

    /// proxy: numbers n of random tokens that are repeated
    #[arg(
        long,
        value_name = "N,…",
        value_delimiter = ',',
        default_value = "10,25,50"
    )]
    lengths: Vec<usize>,

    /// proxy: number of sequences for each length; tiny-world: number of questions for each kind, number of documents and position
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    samples: usize,

    /// proxy: begin each sequence with the model's BOS
    #[arg(long)]
    bos: bool,

    /// Seed for everything drawn: documents from other questions, proxy sequences, questions of the tiny world
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// A plain text whose perplexity is measured: what the coefficients cost
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,

    /// Number of tokens of the text that are read at once
    #[arg(long, value_name = "TOKENS", default_value_t = 512, requires = "text")]
    window: usize,

    /// Warn if the perplexity of the text rises by more than this share
    #[arg(long, value_name = "SHARE", default_value_t = 0.05, requires = "text")]
    text_limit: f64,

    /// File to write the results to
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Multi-document questions, with the right document at chosen positions
    Mdqa,
    /// Questions on long documents
    Longbench,
    /// The proxy task: random tokens repeated
    Proxy,
    /// Questions for the small models that `pretrain` trains
    TinyWorld,
}

fn main() -> ExitCode {
    cli::main_with(run)
}

fn run(arguments: Arguments) -> Result<()> {
    let format = format(&arguments)?;
    check(&arguments, format)?;
    // Everything that can be wrong with the input is found before any weights are loaded.
    let directory = arguments.model.open()?;
    let profile = arguments
        .profile
        .as_ref()
        .map(|path| cli::read_profile(path, &directory))
        .transpose()?;
    let task = format
        .map(|format| Task::prepare(format, &arguments, &directory))
        .transpose()?;
    let text = arguments
        .text
        .as_ref()
        .map(|path| TextWindows::read(path, &directory, arguments.window))
        .transpose()?;

    let models = Models::new(arguments.model.load(&directory)?, profile.as_ref())?;
    cli::print(&format!("model     {}\n", directory.shape()))?;
    let mut results = Map::new();
    if let Some(task) = task {
        let measured = task.run(&arguments, &models)?;
        cli::print(&measured.table)?;
        results = measured.json;
    }
    if let Some(text) = &text {
        let cost = text_cost(text, arguments.text_limit, &models)?;
        results.insert("text".into(), cost);
    }
    let peak = peak_memory();
    if peak > 0 {
        cli::print(&format!("peak memory {} MiB\n", peak >> 20))?;
    }
    if let Some(out) = &arguments.out {
        results.insert("settings".into(), settings(&arguments, format));
        results.insert("provenance".into(), provenance(&arguments, &directory)?);
        write_json(out, &results)?;
    }
    Ok(())
}

/// The format asked for, or the one that the other flags imply; none where only a text is measured.
fn format(arguments: &Arguments) -> Result<Option<Format>> {
    match (arguments.format, &arguments.data) {
        (Some(format), _) => Ok(Some(format)),
        (None, Some(_)) => Ok(Some(Format::Mdqa)),
        (None, None) if arguments.text.is_some() => Ok(None),
        (None, None) => bail!("expected --data, --format or --text: something to measure"),
    }
}

/// Checks the flags against each other.
fn check(arguments: &Arguments, format: Option<Format>) -> Result<()> {
    for (flag, path) in [("--out", &arguments.out), ("--outputs", &arguments.outputs)] {
        if let Some(path) = path {
            cli::check_out(flag, path)?;
        }
    }
    let needs_data = matches!(format, Some(Format::Mdqa | Format::Longbench));
    if needs_data && arguments.data.is_none() {
        bail!("--format: expected --data beside it, the file of questions");
    }
    if !needs_data && arguments.data.is_some() {
        bail!("--data: only mdqa and longbench read a file of questions");
    }
    for (flag, count) in [
        ("--documents", Some(arguments.documents)),
        ("--samples", Some(arguments.samples)),
        ("--limit", arguments.limit),
        ("--max-new-tokens", arguments.max_new_tokens),
    ] {
        if count == Some(0) {
            bail!("{flag} 0: expected at least 1");
        }
    }
    if format == Some(Format::Mdqa) {
        let documents = arguments.documents;
        let positions = &arguments.gold_position;
        if let Some(position) = positions.iter().find(|&&position| position >= documents) {
            bail!(
                "--gold-position {position}: expected less than {documents}, the number of --documents"
            );
        }
    }
    if arguments.window < 2 {
        bail!("--window {}: expected at least 2 tokens", arguments.window);
    }
    cli::check_text_limit(arguments.text_limit)
}

/// What is measured, beside a text, with its input read.
enum Task {
    Questions(Vec<Question>, Box<Answerer>),
    Proxy(Vec<ProxyBatch>),
    TinyWorld,
}

impl Task {
    fn prepare(format: Format, arguments: &Arguments, directory: &ModelDirectory) -> Result<Self> {
        let questions = match format {
            Format::Mdqa => mdqa_questions(arguments)?,
            Format::Longbench => longbench_questions(arguments)?,
            Format::Proxy => return Ok(Self::Proxy(proxy_batches(arguments, directory)?)),
            Format::TinyWorld => return Ok(Self::TinyWorld),
        };
        let answerer = answerer(arguments, directory, &questions)?;
        Ok(Self::Questions(questions, Box::new(answerer)))
    }

    fn run(&self, arguments: &Arguments, models: &Models) -> Result<Measured> {
        match self {
            Self::Questions(questions, answerer) => {
                let mut outputs = arguments
                    .outputs
                    .as_ref()
                    .map(|path| OutputFile::create(path))
                    .transpose()?;
                let report = QuestionReport::run(questions, answerer, models, outputs.as_mut())?;
                Ok(report.measured())
            }
            Self::Proxy(batches) => proxy_task(batches, models),
            Self::TinyWorld => tiny_world(arguments.samples, arguments.seed, models),
        }
    }
}

fn mdqa_questions(arguments: &Arguments) -> Result<Vec<Question>> {
    let path = arguments.data.as_deref().context("--data is missing")?;
    let defaults = mdqa::Options::default();
    let options = mdqa::Options {
        template: template(arguments, mdqa::FIELDS)?.unwrap_or(defaults.template),
        num_documents: arguments.documents,
        gold_positions: arguments.gold_position.clone(),
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

fn template(arguments: &Arguments, fields: [&str; 2]) -> Result<Option<PromptTemplate>> {
    let Some(path) = &arguments.template else {
        return Ok(None);
    };
    PromptTemplate::read(path, fields)
        .map(Some)
        .with_context(|| format!("--template {}", path.display()))
}

fn answerer(
    arguments: &Arguments,
    directory: &ModelDirectory,
    questions: &[Question],
) -> Result<Answerer> {
    let mut prompts =
        PromptBuilder::new(directory)?.with_max_prompt_tokens(arguments.max_prompt_tokens);
    if arguments.chat {
        prompts = prompts.with_chat_template(directory.chat_template()?);
    }
    let longest_answer = questions.iter().map(|question| question.max_new_tokens);
    if let Some(max_new_tokens) = longest_answer.max() {
        prompts.room(max_new_tokens).map_err(name_flag)?;
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
    let indices = NEVER_DRAWN..NEVER_DRAWN + arguments.samples;
    let batch = |&n: &usize| {
        draw.check_length("--lengths", n, directory)?;
        Ok(task.batch(n, indices.clone())?)
    };
    arguments.lengths.iter().map(batch).collect()
}

/// Where the results come from. The settings describe the sequences.
fn provenance(arguments: &Arguments, directory: &ModelDirectory) -> Result<Value> {
    let no_sequences = SequenceRecord::Drawn {
        bos: None,
        special: false,
    };
    let mut provenance = arguments.model.provenance(directory, no_sequences)?;
    provenance.sequences = None;
    Ok(json!(provenance))
}

fn settings(arguments: &Arguments, format: Option<Format>) -> Value {
    let name = format
        .and_then(|format| format.to_possible_value())
        .map(|value| value.get_name().to_owned());
    json!({
        "format": name, "documents": arguments.documents, "gold_position": arguments.gold_position, "limit": arguments.limit,
        "max_new_tokens": arguments.max_new_tokens, "max_prompt_tokens": arguments.max_prompt_tokens,
        "template": arguments.template, "chat": arguments.chat, "stop_at_newline": arguments.stop_at_newline, "lengths": arguments.lengths,
        "samples": arguments.samples, "bos": arguments.bos, "seed": arguments.seed, "window": arguments.window,
    })
}
