//! All steps of PEAR in less than a minute, on a small model that is built in: nothing to download, no flags needed.
//!
//! ```sh
//! cargo run --release --example quickstart
//! ```
//!
//! Every number that it prints is computed in that run. Files are written to `target/quickstart/`.

use std::fmt::Write;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use burn::module::Module;
use burn::prelude::*;
use burn::tensor::DType;
use clap::{Parser, ValueEnum};
use pear_core::{DecoderModel, HeadCoefficients, HeadId, NoEdit, Profile, ProxyTask, forward};
use pear_examples::cli;
use pear_examples::draw::{Curve, curves, heat_map, terminal_heat_map};
use pear_examples::progress::Progress;
use pear_examples::random::Random;
use pear_examples::tiny_world::{Exam, Kind, Marks, Place, World, share};
use pear_locate::{LocateOptions, Scores, locate, proxy_batches};
use pear_models::tiny::Tiny;
use pear_models::{Decoder, ModelDirectory, log_probs};
use pear_train::{Sequences, TrainOptions, Trainer, evaluate};

/// Folder for all files.
const FOLDER: &str = "target/quickstart";
/// Lengths n of the sequences that heads are located on, each with the number of sequences.
const LENGTHS: [(usize, usize); 5] = [(10, 100), (20, 100), (30, 100), (40, 100), (50, 100)];
/// Lengths n at which the proxy task is measured.
const MEASURED: [usize; 3] = [10, 25, 50];
/// Number of held-out sequences of each length.
const HELD_OUT: usize = 100;
/// Index of the first of them.
const NEVER_DRAWN: usize = 1 << 40;
/// Number of questions for each kind, number of documents and position: 9 times as many of each kind.
const QUESTIONS: usize = 70;
/// Number of draws of random heads in the control.
const RANDOM_DRAWS: usize = 3;

/// Locate the suppression heads of a small model, learn their coefficients, measure the effect, and fold them into the weights
#[derive(Parser, Debug)]
#[command(name = "quickstart")]
struct Arguments {
    /// Number of heads that get a coefficient
    #[arg(long, value_name = "K", default_value_t = 3)]
    top_k: usize,

    /// Which of the built-in models to use
    #[arg(long, value_enum, default_value_t = Positions::Rope)]
    positions: Positions,

    /// Directory of another model of the tiny world, as `pretrain` writes it
    #[arg(long, value_name = "DIR", conflicts_with = "positions")]
    model: Option<PathBuf>,

    /// Seed of all sequences and questions
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// The position embedding of a built-in model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Positions {
    Rope,
    Alibi,
}

impl From<Positions> for Tiny {
    fn from(positions: Positions) -> Self {
        match positions {
            Positions::Rope => Self::Rope,
            Positions::Alibi => Self::Alibi,
        }
    }
}

fn main() -> ExitCode {
    cli::main_with(run)
}

fn run(arguments: Arguments) -> Result<()> {
    let start = Instant::now();
    let folder = Path::new(FOLDER);
    fs::create_dir_all(folder).with_context(|| format!("{FOLDER}: cannot write"))?;
    say(
        "PEAR: find the heads that suppress the context, learn one number for each, fold the numbers into the weights.\n",
    )?;
    let demonstration = Demonstration::new(&arguments, folder)?;
    let scores = demonstration.locate()?;
    let profile = demonstration.learn(&scores.top(arguments.top_k))?;
    let coefficients =
        profile.for_model(&demonstration.model.shape(), &demonstration.model.device())?;
    demonstration.compare(&coefficients, &scores)?;
    demonstration.fold(&coefficients)?;
    list_files(folder)?;
    say(&format!(
        "\nDone in {:.0} s.\n",
        start.elapsed().as_secs_f64()
    ))
}

struct Demonstration<'a> {
    folder: &'a Path,
    directory: ModelDirectory,
    model: Decoder,
    world: World,
    exam: Exam,
    task: ProxyTask,
    top_k: usize,
    seed: u64,
}

impl<'a> Demonstration<'a> {
    /// 1. The model.
    fn new(arguments: &Arguments, folder: &'a Path) -> Result<Self> {
        let built_in = folder.join("model");
        let path = match &arguments.model {
            Some(path) => path,
            None => {
                Tiny::from(arguments.positions).write(&built_in)?;
                &built_in
            }
        };
        let directory = ModelDirectory::open(path)?;
        let model = directory.load(&Device::flex(), DType::F32)?;
        let world = World::new(0);
        let seed = arguments.seed;
        let top_k = arguments.top_k;
        if model.vocab_size() != world.words().len() {
            bail!(
                "--model {}: {} words, but the tiny world has {}",
                path.display(),
                model.vocab_size(),
                world.words().len()
            );
        }
        let heads = model.shape().heads().count();
        if !(1..=heads / 2).contains(&top_k) {
            bail!(
                "--top-k {top_k}: expected 1 to {}, half of the heads there are",
                heads / 2
            );
        }
        let task = ProxyTask::new(model.vocab_size(), &directory.special_tokens()?, seed)?;
        let circuit = match (&arguments.model, arguments.positions) {
            (Some(_), _) => "",
            (None, Positions::Rope) => {
                " Its copying circuit\n   was put into its initial weights by hand, and then trained."
            }
            (None, _) => {
                " It learned to copy\n   by itself. RESULTS.md says why the heads that are located matter less here."
            }
        };
        say(&format!(
            "\n1  The model: {}, {} parameters, trained from scratch by `pretrain` in a tiny world of\n   \
             720 facts that it knows by heart, and of documents that confirm or contradict them.{circuit}\n",
            model.shape(),
            model.num_params(),
        ))?;
        let exam = Exam::new(&world, QUESTIONS, seed);
        Ok(Self {
            folder,
            directory,
            model,
            world,
            exam,
            task,
            top_k,
            seed,
        })
    }

    /// 2. Scores: each head is replaced once by the mean of its own output.
    fn locate(&self) -> Result<Scores> {
        let since = Instant::now();
        let scores = locate(
            &self.model,
            &proxy_batches(&self.task, &LENGTHS)?,
            &LocateOptions::default(),
        )?
        .scores;
        let seconds = since.elapsed().as_secs_f64();
        let top = scores.top(self.top_k);
        scores.write(self.folder.join("scores.json"))?;
        heat_map(
            &self.folder.join("heads.svg"),
            "How much better without each head",
            &scores.grid(),
            &top,
        )?;
        let best = scores
            .ranked()
            .into_iter()
            .take(5.max(self.top_k))
            .map(|h| format!("{} {:+.2} %", h.head, 100.0 * h.score));
        say(&format!(
            "\n2  Locating, {seconds:.1} s: n random tokens, then the same again (n = {}); one head at a time replaced by its mean.\n   \
             Score: how much the logit of the right token rises. Highest, as layer.head: {}\n\n{}",
            join(LENGTHS.map(|(n, _)| n.to_string()), ", "),
            join(best, ", "),
            terminal_heat_map(&scores.grid(), &top),
        ))?;
        Ok(scores)
    }

    /// 3. Coefficients of the chosen heads, learned from random tokens alone.
    fn learn(&self, heads: &[HeadId]) -> Result<Profile> {
        let since = Instant::now();
        let (profile, history) = self.train(heads, "learning coefficients")?;
        let seconds = since.elapsed().as_secs_f64();
        profile.write(self.folder.join("profile.json"))?;
        let losses = profile
            .training
            .as_ref()
            .map(|t| t.loss.clone())
            .unwrap_or_default();
        let lines = profile.coefficients.iter().enumerate().map(|(i, c)| {
            let values = history.iter().map(|step| f64::from(step[i])).collect();
            Curve::new(c.head.to_string(), values)
        });
        let panels = [
            ("loss", vec![Curve::new("loss", losses.clone())]),
            ("coefficients", lines.collect()),
        ];
        curves(&self.folder.join("training.svg"), &panels)?;
        let options = train_options();
        let learned = profile
            .coefficients
            .iter()
            .map(|c| format!("{} × {:.2}", c.head, c.value));
        say(&format!(
            "\n3  Learning, {seconds:.0} s: all weights frozen, one coefficient a head from 1; {} steps of {} random sequences, n = {}\n   \
             loss {:.2} {} {:.2}    {}\n",
            options.steps,
            options.batch_size,
            options.length,
            losses[0],
            sparkline(&losses, 40),
            losses[losses.len() - 1],
            join(learned, ", "),
        ))?;
        Ok(profile)
    }

    /// Trains coefficients; returns them, and their values after each step.
    fn train(&self, heads: &[HeadId], name: &str) -> Result<(Profile, Vec<Vec<f32>>)> {
        let options = train_options();
        let mut bar = Progress::new(name, options.steps as u64);
        let mut history = Vec::new();
        let mut trainer = Trainer::new(&self.model, heads, options)?;
        trainer.run_with(
            &Sequences::Drawn(self.task.clone()),
            |_, step| -> Result<_> {
                bar.set(step.step as u64 + 1, format!("loss {:.3}", step.loss));
                history.push(step.coefficients.clone());
                Ok(ControlFlow::Continue(()))
            },
        )?;
        Ok((trainer.profile()?, history))
    }

    /// 4. The model before and after, and a control: as many random heads, trained in the same way.
    fn compare(&self, coefficients: &HeadCoefficients, scores: &Scores) -> Result<()> {
        let mut models = vec![self.model.clone(), self.with(coefficients)?];
        models.extend(self.controls(scores)?);
        let marks = self.exam_marks(&models)?;
        let mut text = format!(
            "\n4  Before and after. Control: {} random heads instead, learned the same way, mean of {RANDOM_DRAWS} draws.\n\n{:46}before    PEAR  control\n",
            self.top_k, ""
        );
        text += &self.proxy_rows(&models)?;
        text += &exam_rows(&marks);
        let _ = write!(
            text,
            "\n   {} questions of each kind, 5, 8 or 10 documents. {}\n   \
             A demonstration that the steps work together, on a toy; no evidence about large models.\n",
            9 * QUESTIONS,
            gains(&marks[0], &marks[1])
        );
        if let Some((question, before, after)) = self.exam.turned(&marks[0], &marks[1]) {
            let _ = write!(
                text,
                "   Example: {}\n   before: {}; with PEAR: {}\n",
                self.world.text(&question.prompt[1..]),
                self.world.text(&[before]),
                self.world.text(&[after])
            );
        }
        say(&text)
    }

    /// Models with random heads re-weighted.
    fn controls(&self, scores: &Scores) -> Result<Vec<Decoder>> {
        let mut random = Random::new(self.seed, 0);
        let mut controls = Vec::new();
        for draw in 1..=RANDOM_DRAWS {
            let others = scores.ranked().into_iter().skip(self.top_k);
            let heads = random.sample(others.map(|scored| scored.head), self.top_k);
            let (profile, _) = self.train(&heads, &format!("control {draw} of {RANDOM_DRAWS}"))?;
            let coefficients = profile.for_model(&self.model.shape(), &self.model.device())?;
            controls.push(self.with(&coefficients)?);
        }
        Ok(controls)
    }

    fn exam_marks(&self, models: &[Decoder]) -> Result<Vec<Marks>> {
        let mut bar = Progress::new("asking", 100 * models.len() as u64);
        let mut marks = Vec::new();
        for (index, model) in models.iter().enumerate() {
            let done = 100 * index as u64;
            marks.push(self.exam.sit(model, |share| {
                bar.set(done + (100.0 * share) as u64, String::new());
            })?);
        }
        Ok(marks)
    }

    /// Accuracy on the proxy task by length, and cross-entropy at the last.
    fn proxy_rows(&self, models: &[Decoder]) -> Result<String> {
        let mut text = String::new();
        for n in MEASURED {
            let batch = self.task.batch(n, NEVER_DRAWN..NEVER_DRAWN + HELD_OUT)?;
            let metrics = models
                .iter()
                .map(|model| evaluate(model, &batch, None))
                .collect::<Result<Vec<_>, _>>()?;
            text += &row(
                &format!("random tokens, n = {n}: right"),
                metrics.iter().map(|metrics| metrics.accuracy),
                percent,
            );
            if n == MEASURED[MEASURED.len() - 1] {
                text += &row(
                    "                        cross-entropy",
                    metrics.iter().map(|metrics| metrics.cross_entropy),
                    two_decimals,
                );
            }
        }
        Ok(text)
    }

    /// The model with coefficients folded into its weights.
    fn with(&self, coefficients: &HeadCoefficients) -> Result<Decoder> {
        Ok(self.model.clone().with_coefficients(coefficients)?.fold())
    }

    /// 5. Coefficients folded into the weights: the same output from the same operations.
    fn fold(&self, coefficients: &HeadCoefficients) -> Result<()> {
        let (model, out) = (&self.model, &self.folder.join("folded"));
        if out.exists() {
            // From an earlier run.
            fs::remove_dir_all(out).with_context(|| format!("{}: cannot remove", out.display()))?;
        }
        self.directory
            .export(&Profile::new(coefficients, None)?, out)?;
        let folded = ModelDirectory::open(out)?.load(&model.device(), DType::F32)?;
        let reweighted = model.clone().with_coefficients(coefficients)?;

        let batch = self.task.batch(50, NEVER_DRAWN..NEVER_DRAWN + 10)?;
        let largest_difference = |other: &Decoder| -> Result<f64> {
            let mut largest: f64 = 0.0;
            for sequence in batch.sequences() {
                let expected = log_probs(&reweighted, sequence)?;
                for (a, b) in expected.iter().zip(log_probs(other, sequence)?) {
                    largest = largest.max((a - b).abs());
                }
            }
            Ok(largest)
        };
        let in_f32 = largest_difference(&self.with(coefficients)?)?;
        let written = largest_difference(&folded)?;
        let [plain_ms, folded_ms] =
            forward_milliseconds([model, &folded], &batch.tokens(&model.device()))?;
        say(&format!(
            "\n5  Folding: the coefficients multiplied into the output projections\n   \
             log-probabilities of 1,000 tokens, re-weighted against folded: largest difference {in_f32:.0e};\n   \
             as written, folded weights rounded to the checkpoint's bf16: {written:.0e}\n   \
             forward pass of 10 × 100 tokens, medians of {PASSES}: before {plain_ms:.2} ms, folded {folded_ms:.2} ms, ratio {:.3}\n",
            folded_ms / plain_ms
        ))
    }
}

/// A row of the comparison: the model before, with PEAR, and the mean of the controls.
fn row(name: &str, values: impl Iterator<Item = f64>, cell: fn(f64) -> String) -> String {
    let values: Vec<f64> = values.collect();
    let controls = &values[2..];
    let control = controls.iter().sum::<f64>() / controls.len() as f64;
    format!(
        "   {name:<41}{:>8}{:>8}{:>9}\n",
        cell(values[0]),
        cell(values[1]),
        cell(control)
    )
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

fn two_decimals(value: f64) -> String {
    format!("{value:.2}")
}

/// Right answers by kind of question and position of the right document, and the perplexity of plain text.
fn exam_rows(marks: &[Marks]) -> String {
    let mut text = String::new();
    for (kind, name) in [
        (Kind::Conflicting, "documents contradict memory"),
        (Kind::Unseen, "documents about someone never seen"),
        (Kind::Agreeing, "documents agree with memory"),
    ] {
        let right = |place| {
            marks
                .iter()
                .map(move |marks| share(&marks.right(kind, place)))
        };
        text += &row(name, right(None), percent);
        for place in Place::ALL {
            let name = format!("   right document {}", place.name());
            text += &row(&name, right(Some(place)), percent);
        }
    }
    let from_memory = marks.iter().map(|marks| share(&marks.closed_book));
    text += &row("no documents, from memory", from_memory, percent);
    let perplexity = marks.iter().map(|marks| marks.perplexity);
    text += &row("plain text: perplexity", perplexity, two_decimals);
    text
}

/// The paper's settings, but for a higher learning rate and fewer steps.
fn train_options() -> TrainOptions {
    TrainOptions {
        steps: 40,
        learning_rate: 0.02,
        ..TrainOptions::default()
    }
}

/// How many answers to questions with contradicting documents became right, and how many wrong.
fn gains(before: &Marks, after: &Marks) -> String {
    let before = before.right(Kind::Conflicting, None);
    let after = after.right(Kind::Conflicting, None);
    let count = |change: (bool, bool)| {
        let pairs = before.iter().copied().zip(after.iter().copied());
        pairs.filter(|pair| *pair == change).count()
    };
    format!(
        "Where documents contradict memory, {} answers became right, {} wrong.",
        count((false, true)),
        count((true, false))
    )
}

/// Number of forward passes of each model.
const PASSES: usize = 25;

/// The median time of a forward pass of each model. They take turns, so that other load on the machine affects both.
fn forward_milliseconds(models: [&Decoder; 2], tokens: &Tensor<2, Int>) -> Result<[f64; 2]> {
    let mut times = [const { Vec::new() }; 2];
    for _ in 0..PASSES {
        for (model, times) in models.iter().zip(&mut times) {
            let since = Instant::now();
            // Reading the numbers waits for the device.
            let _ = forward::logits(*model, tokens.clone(), &mut NoEdit)?.into_data();
            times.push(1000.0 * since.elapsed().as_secs_f64());
        }
    }
    Ok(times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[PASSES / 2]
    }))
}

/// 6. The files.
fn list_files(folder: &Path) -> Result<()> {
    let files = [
        ("model/", "the model, a Hugging Face directory"),
        ("scores.json", "the score of every head"),
        ("heads.svg", "the same as a picture"),
        ("profile.json", "the coefficients"),
        ("training.svg", "loss and coefficients, step by step"),
        (
            "folded/",
            "the model with the coefficients in its weights, for any engine that loads the first",
        ),
    ];
    let mut text = String::from("\n6  Files\n");
    for (name, what) in files {
        let _ = writeln!(text, "   {:<32} {what}", folder.join(name).display());
    }
    say(&text)
}

/// A curve in one line of at most `width` characters.
fn sparkline(values: &[f64], width: usize) -> String {
    let (low, high) = values
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), &v| {
            (l.min(v), h.max(v))
        });
    let bar = |value: f64| {
        ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█']
            [(7.99 * (value - low) / (high - low).max(f64::MIN_POSITIVE)) as usize]
    };
    let each = values.len().div_ceil(width).max(1);
    values
        .chunks(each)
        .map(|part| bar(part.iter().sum::<f64>() / part.len() as f64))
        .collect()
}

fn join(parts: impl IntoIterator<Item = String>, between: &str) -> String {
    parts.into_iter().collect::<Vec<_>>().join(between)
}

fn say(text: &str) -> Result<()> {
    cli::print(text)
}
