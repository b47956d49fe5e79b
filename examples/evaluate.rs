//! Measures question answering, the proxy task or plain text with and without coefficients.
//!
//! ```sh
//! cargo run --release --example evaluate -- --model DIR --profile profile.json --format mdqa --data nq-open.jsonl.gz --gold-position 0,4,9
//! ```

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use pear_core::files::{SequenceRecord, write_json};
use pear_core::{DecoderModel, Profile};
use pear_examples::cli::{self, ModelArgs};
use pear_examples::evaluate::{
    Answered, Prompts, Question, Report, Runner, Template, longbench, mdqa,
};
use pear_examples::memory::peak_memory;
use pear_examples::perplexity::TextPerplexity;
use pear_examples::progress::Progress;
use pear_examples::proxy::Draw;
use pear_examples::statistics::{Estimate, Paired, p_text};
use pear_examples::tiny_world::{Exam, Kind, Marks, Place, World, share};
use pear_models::{Decoder, ModelDirectory};
use serde_json::{Map, Value, json};

/// New tokens of an answer to multi-document questions, as published.
const NEW_TOKENS: usize = 100;
/// The first of the proxy sequences that `train` never learns from.
const NEVER_DRAWN: usize = 1 << 40;

/// Measure question answering, the proxy task or plain text, without coefficients and with those of a profile
#[derive(Parser, Debug)]
#[command(name = "evaluate", allow_negative_numbers = true)]
struct Arguments {
    #[command(flatten)]
    model: ModelArgs,

    /// What is measured [default: by the flags given: mdqa with --data]
    #[arg(long, value_enum)]
    format: Option<Format>,

    /// Questions of mdqa or longbench: JSON lines, .jsonl or .jsonl.gz
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,

    /// Coefficients to compare with none, as `train` wrote them
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,

    /// mdqa: documents before each question
    #[arg(long, value_name = "COUNT", default_value_t = 10)]
    documents: usize,

    /// mdqa: places of the right document, from 0
    #[arg(
        long,
        value_name = "PLACE,…",
        value_delimiter = ',',
        default_value = "0,4,9"
    )]
    gold_position: Vec<usize>,

    /// Only the first so many questions of the file
    #[arg(long, value_name = "COUNT")]
    limit: Option<usize>,

    /// New tokens at most [default: 100 for mdqa; for longbench as published for the dataset]
    #[arg(long, value_name = "COUNT")]
    max_new_tokens: Option<usize>,

    /// Longer prompts lose their middle [default: what the model has room for beside the new tokens]
    #[arg(long, value_name = "TOKENS")]
    max_prompt_tokens: Option<usize>,

    /// A prompt of your own: a file with {search_results} and {question} (mdqa) or {context} and {input} (longbench) in it
    #[arg(long, value_name = "FILE")]
    template: Option<PathBuf>,

    /// Put each prompt into the model's chat template
    #[arg(long)]
    chat: bool,

    /// An answer ends with its first line
    #[arg(long)]
    stop_at_newline: bool,

    /// Write every answer down as it comes: JSON lines, for scoring them again
    #[arg(long, value_name = "FILE")]
    outputs: Option<PathBuf>,

    /// proxy: lengths n
    #[arg(
        long,
        value_name = "N,…",
        value_delimiter = ',',
        default_value = "10,25,50"
    )]
    lengths: Vec<usize>,

    /// proxy: sequences of each length; tiny-world: questions of each kind, number of documents and place
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    samples: usize,

    /// proxy: put the model's BOS before each sequence
    #[arg(long)]
    bos: bool,

    /// Seed of everything drawn: documents from other questions, proxy sequences, questions of the tiny world
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// A plain text whose perplexity is to stay: what the coefficients cost
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,

    /// Tokens of the text that are read at once
    #[arg(long, value_name = "TOKENS", default_value_t = 512, requires = "text")]
    window: usize,

    /// Share by which the perplexity of the text may rise; a warning says that it does
    #[arg(long, value_name = "SHARE", default_value_t = 0.05, requires = "text")]
    text_limit: f64,

    /// Where the results go
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Multi-document questions, the right document at chosen places
    Mdqa,
    /// Questions on long texts
    Longbench,
    /// Random tokens repeated
    Proxy,
    /// The questions of the small models that `pretrain` makes
    TinyWorld,
}

fn main() -> ExitCode {
    cli::main_with(run)
}

fn run(arguments: Arguments) -> Result<()> {
    for (flag, path) in [("--out", &arguments.out), ("--outputs", &arguments.outputs)] {
        if let Some(path) = path {
            cli::check_out(flag, path)?;
        }
    }
    let format = match (arguments.format, &arguments.data) {
        (Some(format), _) => Some(format),
        (None, Some(_)) => Some(Format::Mdqa),
        (None, None) if arguments.text.is_some() => None,
        (None, None) => bail!("expected --data, --format or --text: something to measure"),
    };
    check(&arguments, format)?;
    let directory = arguments.model.open()?;
    let profile = arguments
        .profile
        .as_ref()
        .map(|path| cli::read_profile(path, &directory))
        .transpose()?;
    let job = match format {
        Some(Format::Mdqa | Format::Longbench) => Some(questions(&arguments, format, &directory)?),
        _ => None,
    };
    let text = arguments
        .text
        .as_ref()
        .map(|path| TextPerplexity::read(path, &directory, arguments.window))
        .transpose()?;

    let models = Models::load(&arguments, &directory, profile.as_ref())?;
    cli::print(&format!("model     {}\n", directory.shape()))?;
    let mut result = match (format, job) {
        (Some(Format::Proxy), _) => proxy(&arguments, &directory, &models)?,
        (Some(Format::TinyWorld), _) => tiny_world(&arguments, &models)?,
        (_, Some((questions, runner))) => answers(&arguments, questions, &runner, &models)?,
        _ => Map::new(),
    };
    if let Some(text) = &text {
        result.insert("text".into(), text_cost(&arguments, text, &models)?);
    }
    match peak_memory() {
        0 => {}
        peak => cli::print(&format!("peak memory {} MiB\n", peak >> 20))?,
    }
    let Some(out) = &arguments.out else {
        return Ok(());
    };
    let record = SequenceRecord::Drawn {
        bos: None,
        special: false,
    };
    let mut provenance = arguments.model.provenance(&directory, record)?;
    provenance.sequences = None;
    result.insert("settings".into(), settings(&arguments, format));
    result.insert("provenance".into(), json!(provenance));
    Ok(write_json(out, &result)?)
}

fn check(arguments: &Arguments, format: Option<Format>) -> Result<()> {
    let asks = matches!(format, Some(Format::Mdqa | Format::Longbench));
    if asks && arguments.data.is_none() {
        bail!("--format: expected --data beside it, the file of questions");
    }
    if !asks && arguments.data.is_some() {
        bail!("--data: only mdqa and longbench read a file of questions");
    }
    let counts = [
        ("--documents", arguments.documents),
        ("--samples", arguments.samples),
        ("--limit", arguments.limit.unwrap_or(1)),
    ];
    if let Some((flag, _)) = counts
        .into_iter()
        .chain([("--max-new-tokens", arguments.max_new_tokens.unwrap_or(1))])
        .find(|c| c.1 == 0)
    {
        bail!("{flag} 0: expected at least 1");
    }
    if arguments.window < 2 {
        bail!("--window {}: expected at least 2 tokens", arguments.window);
    }
    if !(arguments.text_limit.is_finite() && arguments.text_limit >= 0.0) {
        bail!(
            "--text-limit {}: expected a share of at least 0, as in 0.05",
            arguments.text_limit
        );
    }
    Ok(())
}

/// The model without coefficients, and the same with those of the profile in its weights.
struct Models {
    baseline: Decoder,
    pear: Option<Decoder>,
}

impl Models {
    fn load(
        arguments: &Arguments,
        directory: &ModelDirectory,
        profile: Option<&Profile>,
    ) -> Result<Self> {
        let baseline = arguments.model.load(directory)?;
        let pear = profile
            .map(|profile| baseline.clone().with_profile(profile))
            .transpose()?
            .map(|model| model.fold());
        Ok(Self { baseline, pear })
    }

    fn each(&self) -> impl Iterator<Item = (&'static str, &Decoder)> {
        [
            ("baseline", Some(&self.baseline)),
            ("pear", self.pear.as_ref()),
        ]
        .into_iter()
        .filter_map(|(run, model)| Some((run, model?)))
    }
}

fn questions(
    arguments: &Arguments,
    format: Option<Format>,
    directory: &ModelDirectory,
) -> Result<(Vec<Question>, Runner)> {
    let path = arguments.data.as_deref().context("--data is missing")?;
    let limit = arguments.limit.unwrap_or(usize::MAX);
    let places = if format == Some(Format::Mdqa) {
        mdqa::PLACES
    } else {
        longbench::PLACES
    };
    let template = arguments
        .template
        .as_ref()
        .map(|path| Template::read(path, places))
        .transpose()?;
    let questions = if format == Some(Format::Mdqa) {
        let template = match template {
            Some(template) => template,
            None => Template::new(
                mdqa::PROMPT.trim_end(),
                mdqa::PLACES,
                "the built-in template",
            )?,
        };
        let options = mdqa::Options {
            documents: arguments.documents,
            gold_positions: arguments.gold_position.clone(),
            limit,
            seed: arguments.seed,
            max_new_tokens: arguments.max_new_tokens.unwrap_or(NEW_TOKENS),
        };
        let (questions, drawn) = mdqa::questions(path, &template, &options)?;
        if drawn > 0 {
            let count = questions.len() / arguments.gold_position.len().max(1);
            cli::warn(&format!(
                "{}: {drawn} of {count} questions have fewer than {} documents: the others are right documents of other questions",
                path.display(),
                arguments.documents
            ));
        }
        questions
    } else {
        longbench::questions(path, template.as_ref(), arguments.max_new_tokens, limit)?
    };
    let runner = Runner {
        prompts: Prompts::new(directory, arguments.max_prompt_tokens, arguments.chat)?,
        eos_tokens: directory.eos_tokens()?,
        stop_at_newline: arguments.stop_at_newline,
    };
    Ok((questions, runner))
}

fn answers(
    arguments: &Arguments,
    questions: Vec<Question>,
    runner: &Runner,
    models: &Models,
) -> Result<Map<String, Value>> {
    let mut outputs = arguments
        .outputs
        .as_ref()
        .map(|path| Outputs::create(path))
        .transpose()?;
    let (mut report, mut done) = (Report::default(), 0);
    let mut bar = Progress::new(
        "answering",
        (questions.len() * models.each().count()) as u64,
    );
    for question in &questions {
        for (run, model) in models.each() {
            let answered = runner
                .answer(run, model, question)
                .with_context(|| format!("question {}, {}", question.index + 1, question.group))?;
            done += 1;
            bar.set(done, question.group.clone());
            if let Some(outputs) = &mut outputs {
                outputs.add(&answered)?;
            }
            if run == "pear" {
                &mut report.pear
            } else {
                &mut report.baseline
            }
            .push(answered);
        }
    }
    drop(bar);
    cli::print(&format!("\n{}", report.table()))?;
    Ok(report.json())
}

/// Every answer, a line of JSON each.
struct Outputs {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Outputs {
    fn create(path: &Path) -> Result<Self> {
        let file = File::create(path)
            .with_context(|| format!("--outputs {}: cannot write", path.display()))?;
        Ok(Self {
            path: path.into(),
            file: BufWriter::new(file),
        })
    }

    fn add(&mut self, answered: &Answered) -> Result<()> {
        let line = serde_json::to_string(answered)? + "\n";
        let written = self
            .file
            .write_all(line.as_bytes())
            .and_then(|()| self.file.flush());
        written.with_context(|| format!("--outputs {}: cannot write", self.path.display()))
    }
}

fn proxy(
    arguments: &Arguments,
    directory: &ModelDirectory,
    models: &Models,
) -> Result<Map<String, Value>> {
    let draw = Draw {
        seed: arguments.seed,
        bos: arguments.bos,
        special: false,
    };
    let task = draw.task(directory)?;
    let mut text = format!(
        "\n{:>6}{:<10}{:>12}{:>16}\n",
        "n", "", "accuracy", "cross-entropy"
    );
    let mut results: Map<String, Value> = models
        .each()
        .map(|(run, _)| (run.to_owned(), json!({"by_length": []})))
        .collect();
    for &n in &arguments.lengths {
        draw.check_length("--lengths", n, directory)?;
        let batch = task.batch(n, NEVER_DRAWN..NEVER_DRAWN + arguments.samples)?;
        for (run, model) in models.each() {
            let metrics = pear_train::evaluate(model, &batch, None)?;
            let (n_shown, name) = if run == "pear" {
                (String::new(), "PEAR")
            } else {
                (n.to_string(), run)
            };
            let _ = writeln!(
                text,
                "{n_shown:>6}  {name:<10}{:>8.1} %{:>16.4}",
                100.0 * metrics.accuracy,
                metrics.cross_entropy
            );
            let row = json!({"n": n, "samples": batch.len(), "accuracy": metrics.accuracy, "cross_entropy": metrics.cross_entropy});
            if let Some(rows) = results[run]["by_length"].as_array_mut() {
                rows.push(row);
            }
        }
    }
    for result in results.values_mut() {
        for name in ["accuracy", "cross_entropy"] {
            let rows = result["by_length"].as_array().cloned().unwrap_or_default();
            let values: Vec<f64> = rows.iter().filter_map(|row| row[name].as_f64()).collect();
            result[name] = (values.iter().sum::<f64>() / values.len().max(1) as f64).into();
        }
    }
    cli::print(&text)?;
    Ok(results)
}

fn tiny_world(arguments: &Arguments, models: &Models) -> Result<Map<String, Value>> {
    let world = World::new(0);
    if models.baseline.vocab_size() != world.words().len() {
        bail!(
            "--format tiny-world: expected a model of its {} words, and the model has {}",
            world.words().len(),
            models.baseline.vocab_size()
        );
    }
    let exam = Exam::new(&world, arguments.samples, arguments.seed);
    let mut bar = Progress::new("answering", 100 * models.each().count() as u64);
    let mut marks: Vec<(&str, Marks)> = Vec::new();
    for (run, model) in models.each() {
        let at = 100 * marks.len() as u64;
        marks.push((
            run,
            exam.sit(model, |share| {
                bar.set(at + (100.0 * share) as u64, run.to_owned())
            })?,
        ));
    }
    drop(bar);

    let scores = |right: Vec<bool>| {
        right
            .into_iter()
            .map(|right| f64::from(u8::from(right)))
            .collect::<Vec<_>>()
    };
    let mut text = format!(
        "\n{:<40}{:>8}{:>24}{:>24}{:>24}\n",
        "", "number", "baseline", "PEAR", "change"
    );
    let mut groups: Vec<(String, Vec<Vec<f64>>)> = Vec::new();
    for kind in Kind::ALL {
        for place in [None].into_iter().chain(Place::ALL.map(Some)) {
            let name = place.map_or(kind.name().into(), |place: Place| {
                format!("{}, right document {}", kind.name(), place.name())
            });
            groups.push((
                name,
                marks
                    .iter()
                    .map(|(_, marks)| scores(marks.right(kind, place)))
                    .collect(),
            ));
        }
    }
    groups.push((
        "closed book".into(),
        marks
            .iter()
            .map(|(_, marks)| scores(marks.closed_book.clone()))
            .collect(),
    ));
    let mut results: Map<String, Value> = Map::new();
    let mut paired = Map::new();
    for (name, columns) in &groups {
        let _ = write!(text, "{name:<40}{:>8}", columns[0].len());
        for ((run, _), scores) in marks.iter().zip(columns) {
            let estimate = Estimate::of(scores);
            let Estimate {
                mean, low, high, ..
            } = estimate;
            let _ = write!(
                text,
                "{:>24}",
                format!(
                    "{:.1} % [{:.1}, {:.1}]",
                    100.0 * mean,
                    100.0 * low,
                    100.0 * high
                )
            );
            results.entry(*run).or_insert_with(|| json!({}))
                [name.replace(", right document ", " ").replace(' ', "_")] = json!(estimate);
        }
        if let [before, after] = &columns[..] {
            let change = Paired::of(before, after);
            let _ = write!(
                text,
                "{:>24}",
                format!(
                    "{:+.1}, p = {}",
                    100.0 * change.difference,
                    p_text(change.p_value)
                )
            );
            paired.insert(
                name.replace(", right document ", " ").replace(' ', "_"),
                json!(change),
            );
        }
        text.push('\n');
    }
    for (run, marks) in &marks {
        let _ = writeln!(
            text,
            "{run}: {:.1} % of the conflicting ones answered from memory, perplexity of plain text {:.3}",
            100.0 * marks.from_memory(Kind::Conflicting),
            marks.perplexity
        );
        results[*run]["perplexity"] = marks.perplexity.into();
        results[*run]["accuracy"] = share(
            &marks
                .answers
                .iter()
                .map(|answer| answer.right)
                .collect::<Vec<_>>(),
        )
        .into();
    }
    if !paired.is_empty() {
        results.insert("paired".into(), paired.into());
    }
    cli::print(&text)?;
    Ok(results)
}

/// Perplexity of a text before and after.
fn text_cost(arguments: &Arguments, text: &TextPerplexity, models: &Models) -> Result<Value> {
    let before = text.of(&models.baseline)?;
    let Some(pear) = &models.pear else {
        cli::print(&format!(
            "\ntext      perplexity {before:.4} over {} tokens\n",
            text.predicted()
        ))?;
        return Ok(json!({"before": before, "tokens": text.predicted()}));
    };
    let after = text.of(pear)?;
    let increase = after / before - 1.0;
    let within = increase <= arguments.text_limit;
    cli::print(&format!(
        "\ntext      perplexity {before:.4} before, {after:.4} with PEAR ({:+.2} %), over {} tokens\n",
        100.0 * increase,
        text.predicted()
    ))?;
    if !within {
        let limit = 100.0 * arguments.text_limit;
        cli::warn(&format!(
            "the perplexity of the text rises by {:.2} %: more than the {limit} % of --text-limit",
            100.0 * increase
        ));
    }
    Ok(
        json!({"before": before, "after": after, "increase": increase, "within_limit": within, "tokens": text.predicted()}),
    )
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
