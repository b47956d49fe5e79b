//! Learns one coefficient for each suppression head.
//!
//! ```sh
//! cargo run --release --example train -- --model DIR --heads scores.json --top-k 10 --out profile.json
//! ```

use std::fmt::Write;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use pear_core::files::SequenceRecord;
use pear_core::proxy::ProxyBatch;
use pear_core::{DecoderModel, HeadCoefficients, HeadId};
use pear_examples::cli::{self, ModelArgs, TopK};
use pear_examples::device::DeviceName;
use pear_examples::draw::{Curve, check_picture, curves};
use pear_examples::progress::Progress;
use pear_examples::proxy::Draw;
use pear_examples::tokens::TokenFile;
use pear_examples::training_log::TrainingLog;
use pear_locate::Scores;
use pear_models::evaluation::TextWindows;
use pear_models::{Decoder, ModelDirectory};
use pear_train::{Error, ProxyMetrics, Schedule, Sequences, TrainOptions, Trainer, evaluate};

/// Sequences that nothing is learned from.
const HELD_OUT: usize = 64;
/// Their first number: beyond those of the longest run, so that every run is judged on the same.
const NEVER_DRAWN: usize = 1 << 40;
/// Steps between two measurements on them, where training waits for these.
const HELD_OUT_EVERY: usize = 10;
/// Tokens that run together: larger batches are worked off in parts.
const TOKENS_AT_ONCE: usize = 1 << 15;
/// Larger numbers are slips of the keyboard.
const MOST_STEPS: usize = 1_000_000;
const MOST_TOKENS: usize = 1 << 20;

/// Learn one coefficient for each suppression head, the model frozen, on random tokens repeated twice
#[derive(Parser, Debug)]
#[command(name = "train", allow_negative_numbers = true)]
struct Arguments {
    #[command(flatten)]
    model: ModelArgs,

    /// The heads: a scores file of `locate`, or a list such as 26.28,11.6 (layer.head, both from 0)
    #[arg(long, value_name = "SCORES|LIST")]
    heads: String,

    /// How many heads to take from a scores file, from the highest score down; auto: those whose score is above zero at 5 %,
    /// one-sided and corrected for the number of heads, at most 40 [default: 10]
    #[arg(long, value_name = "K|all|auto")]
    top_k: Option<TopK>,

    /// Tokens that are repeated in each sequence [default: 50]
    #[arg(long, value_name = "N")]
    length: Option<usize>,

    /// Sequences a step
    #[arg(long, default_value_t = 20)]
    batch_size: usize,

    /// Steps [default: 250; with --proxy-tokens, as many whole batches as the file has]
    #[arg(long)]
    steps: Option<usize>,

    /// The highest learning rate
    #[arg(long, value_name = "RATE", default_value_t = 0.005)]
    learning_rate: f64,

    /// Steps in which the learning rate rises to it, before it falls linearly to zero
    #[arg(long, value_name = "STEPS", default_value_t = 2)]
    warmup_steps: usize,

    /// Pulls coefficients towards 1
    #[arg(long, default_value_t = 0.0)]
    weight_decay: f64,

    /// Gradients are scaled down to this norm
    #[arg(long, value_name = "NORM")]
    clip_norm: Option<f64>,

    /// Sequences that run together: fewer need less memory [default: as many as have 32768 tokens]
    #[arg(long, value_name = "COUNT")]
    micro_batch_size: Option<usize>,

    /// Seed of the sequences
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// Take the sequences from a file instead, in its order: JSON lines, each an array of 2n token ids, both halves the same
    #[arg(long, value_name = "FILE", conflicts_with = "bos")]
    proxy_tokens: Option<PathBuf>,

    /// Put the model's BOS before each sequence
    #[arg(long)]
    bos: bool,

    /// How the learning rate falls
    #[arg(long, value_enum, default_value_t = Fall::Linear)]
    schedule: Fall,

    /// Coefficients are kept between these two
    #[arg(long, value_name = "LOW,HIGH", value_delimiter = ',', num_args = 1)]
    clamp: Option<Vec<f64>>,

    /// Folder that the state of the training is saved in now and then
    #[arg(long, value_name = "DIR")]
    checkpoint: Option<PathBuf>,

    /// Steps between two savings
    #[arg(
        long,
        value_name = "STEPS",
        default_value_t = 10,
        requires = "checkpoint"
    )]
    checkpoint_every: usize,

    /// Write every step down: a line of CSV with loss, learning rate, gradient norm and coefficients
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,

    /// Steps between two measurements on sequences that nothing is learned from [default: none on the way, 10 with --patience]
    #[arg(long, value_name = "STEPS")]
    held_out_every: Option<usize>,

    /// End when so many of these measurements in a row were not below the lowest, and keep the coefficients of the lowest
    #[arg(long, value_name = "COUNT")]
    patience: Option<usize>,

    /// Share the sequences of each step with these devices as well, each with its own copy of the model
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    also_device: Vec<DeviceName>,

    /// Go on from the state in the folder of --checkpoint
    #[arg(long, requires = "checkpoint")]
    resume: bool,

    /// A plain text whose perplexity is to stay
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,

    /// Share by which its perplexity may rise
    #[arg(long, value_name = "SHARE", default_value_t = 0.05, requires = "text")]
    text_limit: f64,

    /// What to do if it rises more: warn in the end, or stop with the last coefficients that were measured within the limit
    #[arg(long, value_enum, default_value_t = Gate::Warn, requires = "text")]
    text_gate: Gate,

    /// Steps between two measurements of it, where training may stop
    #[arg(long, value_name = "STEPS", default_value_t = 10, requires = "text")]
    text_every: usize,

    /// Tokens of it that are read at once
    #[arg(long, value_name = "TOKENS", default_value_t = 512, requires = "text")]
    window: usize,

    /// Draw the loss and the coefficients over the steps; .svg or .png
    #[arg(long, value_name = "FILE")]
    curve: Option<PathBuf>,

    /// Where the profile goes
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Fall {
    Linear,
    Cosine,
    Constant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Gate {
    Warn,
    Stop,
}

fn main() -> ExitCode {
    cli::main_with(run)
}

fn run(arguments: Arguments) -> Result<()> {
    if let Some(out) = &arguments.out {
        cli::check_out("--out", out)?;
    }
    if let Some(curve) = &arguments.curve {
        check_picture(curve)?;
        cli::check_out("--curve", curve)?;
    }
    if let Some(log) = &arguments.log {
        cli::check_out("--log", log)?;
    }
    for (flag, value) in [
        ("--checkpoint-every", arguments.checkpoint_every),
        ("--text-every", arguments.text_every),
    ] {
        if value == 0 {
            bail!("{flag} 0: expected at least 1");
        }
    }
    if !(arguments.text_limit.is_finite() && arguments.text_limit >= 0.0) {
        bail!(
            "--text-limit {}: expected a share of at least 0, as in 0.05",
            arguments.text_limit
        );
    }
    let checkpoint = arguments
        .checkpoint
        .as_deref()
        .map(checkpoint_file)
        .transpose()?;
    if let Some(file) = checkpoint
        .as_ref()
        .filter(|file| arguments.resume && !file.is_file())
    {
        bail!("--resume: there is no {} to go on from", file.display());
    }
    let mut options = options(&arguments)?;
    let directory = arguments.model.open()?;
    let (heads, scores) = heads(&arguments, &directory)?;
    let draw = Draw {
        seed: arguments.seed,
        bos: arguments.bos,
        special: false,
    };
    let task = draw.task(&directory)?;
    let given = arguments
        .proxy_tokens
        .as_ref()
        .map(|path| given(path, &arguments, &mut options, &directory))
        .transpose()?;
    let record = given
        .as_ref()
        .map_or_else(|| draw.record(&directory), |(_, record)| record.clone());
    if given.is_none() {
        draw.check_length("--length", options.length, &directory)?;
    }
    bound(&mut options)?;
    let held_out = task.batch(options.length, NEVER_DRAWN..NEVER_DRAWN + HELD_OUT)?;
    let sequences = given.map_or(Sequences::Drawn(task), |(batch, _)| Sequences::Given(batch));

    let text = arguments
        .text
        .as_ref()
        .map(|path| TextWindows::read(path, &directory, arguments.window))
        .transpose()?;

    let model = arguments.model.load(&directory)?;
    let text = text
        .map(|text| TextGate::new(text, &model, arguments.text_limit))
        .transpose()?;
    let load = |name: &DeviceName| arguments.model.load_on(&directory, name);
    let copies = arguments
        .also_device
        .iter()
        .map(load)
        .collect::<Result<Vec<Decoder>>>()?;
    let before = evaluate(&model, &held_out, None)?;
    let mut trainer = Trainer::new(&model, &heads, options.clone())?
        .with_copies(&copies)
        .with_held_out(held_out.clone());
    if checkpoint.is_some() || arguments.out.is_some() {
        trainer = trainer.with_provenance(arguments.model.provenance(&directory, record)?);
    }
    if let Some(file) = checkpoint.as_ref().filter(|_| arguments.resume) {
        trainer.restore(file)?;
    }
    let done = trainer.steps_done();
    let open = |path: &PathBuf| TrainingLog::open(path, &trainer.coefficients().heads(), done);
    let mut log = arguments.log.as_ref().map(open).transpose()?;
    // One line for each head; steps before a checkpoint are known from the log alone.
    let mut history = vec![vec![f64::NAN; trainer.steps_done()]; heads.len()];
    let remember = |history: &mut Vec<Vec<f64>>, values: &[f32]| {
        history
            .iter_mut()
            .zip(values)
            .for_each(|(line, &value)| line.push(f64::from(value)));
    };
    remember(&mut history, &trainer.coefficients().values());
    if let Some(log) = log.as_ref().filter(|_| done > 0) {
        for (line, earlier) in history.iter_mut().zip(log.coefficients()?) {
            *line = [1.0].into_iter().chain(earlier).collect();
        }
    }
    let mut unlogged = Ok(());
    // The last profile within the limit of the text, and whether training stopped because of it.
    let (mut within, mut stopped) = (trainer.profile()?, false);
    let mut bar = Progress::new("training", options.steps as u64);
    trainer.run_with(&sequences, |trainer, step| -> pear_train::Result<_> {
        let done = step.step + 1;
        bar.set(done as u64, format!("loss {:.4}", step.loss));
        remember(&mut history, &step.coefficients);
        if let Some(log) = &mut log {
            unlogged = log.add(step);
            if unlogged.is_err() {
                return Ok(ControlFlow::Break(()));
            }
        }
        // After the log, which thus holds every step of a checkpoint.
        let due = done.is_multiple_of(arguments.checkpoint_every)
            || done == options.steps
            || trainer.is_stalled();
        if let Some(file) = checkpoint.as_ref().filter(|_| due) {
            trainer.save(file)?;
        }
        let may_stop =
            arguments.text_gate == Gate::Stop && done.is_multiple_of(arguments.text_every);
        if let Some(text) = text.as_ref().filter(|_| may_stop) {
            stopped = text.increase(trainer.coefficients())? > arguments.text_limit;
            if stopped {
                return Ok(ControlFlow::Break(()));
            }
            within = trainer.profile()?;
        }
        Ok(ControlFlow::Continue(()))
    })?;
    drop(bar);
    unlogged?;
    let mut profile = trainer.profile()?;
    if let Some(text) = text.as_ref().filter(|_| arguments.text_gate == Gate::Stop) {
        let ends_outside =
            !stopped && text.increase(trainer.coefficients())? > arguments.text_limit;
        if stopped || ends_outside {
            cli::warn(&format!(
                "{}: the coefficients are those after step {}",
                text.limit_text(),
                within
                    .training
                    .as_ref()
                    .map_or(0, |training| training.steps)
            ));
            profile = within;
        }
    }
    let coefficients = profile.for_model(&model.shape(), &model.device())?;
    let after = evaluate(&model, &held_out, Some(&coefficients))?;
    let mut said = report(&trainer, &coefficients, &options, before, after);
    if let Some(text) = &text {
        let increase = text.increase(&coefficients)?;
        let _ = writeln!(
            said,
            "{:<22} {:>11.4} {:>11.4}",
            "perplexity of the text",
            text.before,
            text.before * (1.0 + increase)
        );
        if increase > arguments.text_limit {
            cli::warn(&format!(
                "{}: it rises by {:.2} %",
                text.limit_text(),
                100.0 * increase
            ));
        }
        if let Some(training) = &mut profile.training {
            training.text_perplexity = Some((text.before, text.before * (1.0 + increase)));
        }
    }

    if let Some(out) = &arguments.out {
        if let Some(scores) = &scores {
            profile = profile.with_scores(
                scores
                    .heads()
                    .iter()
                    .map(|scored| (scored.head, scored.score)),
            );
        }
        if let Some(training) = &mut profile.training {
            training.held_out_loss = Some((before.loss, after.loss));
        }
        profile.write(out)?;
    }
    if let Some(curve) = &arguments.curve {
        draw_curves(curve, &trainer, history)?;
    }
    cli::print(&said)
}

/// A plain text, and what the frozen model makes of it.
struct TextGate<'a> {
    text: TextWindows,
    model: &'a Decoder,
    before: f64,
    limit: f64,
}

impl<'a> TextGate<'a> {
    fn new(text: TextWindows, model: &'a Decoder, limit: f64) -> Result<Self> {
        let before = text.perplexity(model)?;
        Ok(Self {
            text,
            model,
            before,
            limit,
        })
    }

    /// The share by which its perplexity rises with these coefficients.
    fn increase(&self, coefficients: &HeadCoefficients) -> pear_train::Result<f64> {
        let model = self.model.clone().with_coefficients(coefficients)?;
        // The tokens are those that the model has read before.
        Ok(self
            .text
            .perplexity(&model)
            .map_or(f64::INFINITY, |after| after / self.before - 1.0))
    }

    fn limit_text(&self) -> String {
        format!(
            "the perplexity of --text may rise by {} % (--text-limit)",
            100.0 * self.limit
        )
    }
}

fn options(arguments: &Arguments) -> Result<TrainOptions> {
    let defaults = TrainOptions::default();
    let options = TrainOptions {
        steps: arguments.steps.unwrap_or(defaults.steps),
        batch_size: arguments.batch_size,
        length: arguments.length.unwrap_or(defaults.length),
        learning_rate: arguments.learning_rate,
        warmup_steps: arguments.warmup_steps,
        weight_decay: arguments.weight_decay,
        clip_norm: arguments.clip_norm,
        clamp: match arguments.clamp.as_deref() {
            None => None,
            Some(&[low, high]) => Some((low, high)),
            Some(_) => bail!("--clamp: expected two numbers, as in 0,2"),
        },
        schedule: match arguments.schedule {
            Fall::Linear => Schedule::Linear,
            Fall::Cosine => Schedule::Cosine,
            Fall::Constant => Schedule::Constant,
        },
        micro_batch_size: arguments.micro_batch_size,
        held_out_every: arguments
            .held_out_every
            .or(arguments.patience.map(|_| HELD_OUT_EVERY)),
        patience: arguments.patience,
    };
    match options.validate() {
        // As the flag is called.
        Err(Error::Option {
            option,
            value,
            expected,
        }) => bail!(
            "--{} {value}: expected {expected}",
            option.replace('_', "-")
        ),
        other => other?,
    }
    Ok(options)
}

/// Refuses what cannot be meant, and keeps large batches from being run in one piece.
fn bound(options: &mut TrainOptions) -> Result<()> {
    if options.steps > MOST_STEPS {
        bail!("--steps {}: expected {MOST_STEPS} or less", options.steps);
    }
    let most = MOST_TOKENS / (2 * options.length);
    if options.batch_size > most {
        bail!(
            "--batch-size {}: expected {most} or less for sequences of {} tokens",
            options.batch_size,
            2 * options.length
        );
    }
    let at_once = (TOKENS_AT_ONCE / (2 * options.length)).max(1);
    options.micro_batch_size.get_or_insert(at_once);
    Ok(())
}

/// The heads of a list, or the first of a scores file with its scores.
fn heads(
    arguments: &Arguments,
    directory: &ModelDirectory,
) -> Result<(Vec<HeadId>, Option<Scores>)> {
    let shape = directory.shape();
    let text = &arguments.heads;
    let path = Path::new(text);
    let list: Result<Vec<HeadId>, _> = text.split(',').map(str::parse).collect();
    if let (Ok(list), false) = (&list, path.is_file()) {
        shape.check_heads(list.iter().copied()).context("--heads")?;
        if arguments.top_k.is_some() {
            cli::warn("--top-k has no effect on a list of heads");
        }
        return Ok((list.clone(), None));
    }
    if !path.exists() {
        bail!("--heads {text}: neither a file that exists nor a list of heads such as 26.28,11.6");
    }
    let scores = Scores::read(path)?;
    shape
        .check_same(&scores.model)
        .with_context(|| path.display().to_string())?;
    if scores.is_partial() {
        let (path, layers) = (path.display(), scores.layers());
        bail!(
            "--heads {path}: scores of layers {layers} alone: join them with the others by `locate --merge`"
        );
    }
    cli::warn_of_mismatches(path, &scores.provenance, directory)?;
    let heads = TopK::checked(arguments.top_k, 10, scores.heads().len())?
        .of(&scores)
        .with_context(|| path.display().to_string())?;
    if heads.is_empty() {
        bail!(
            "--top-k auto: no score in {} stands out of the noise ({})",
            path.display(),
            TopK::RULE
        );
    }
    Ok((heads, Some(scores)))
}

/// The sequences of a file, all of one length; their number decides on the steps unless `--steps` does.
fn given(
    path: &Path,
    arguments: &Arguments,
    options: &mut TrainOptions,
    directory: &ModelDirectory,
) -> Result<(ProxyBatch, SequenceRecord)> {
    let config = directory.config();
    let tokens = TokenFile::read_proxy(path, config.vocab_size)?;
    tokens.check_lengths(config.attention.position_embedding.max_positions())?;
    let length = arguments
        .length
        .map_or(tokens.rows[0].len(), |n| n.saturating_mul(2));
    if let Some(row) = tokens.rows.iter().position(|row| row.len() != length) {
        let why = if arguments.length.is_some() {
            "by --length"
        } else {
            "as in the first line"
        };
        return Err(tokens.problem(
            row,
            &format!(
                "{} tokens: expected {length}, {why}",
                tokens.rows[row].len()
            ),
        ));
    }
    options.length = length / 2;
    let (count, batch_size) = (tokens.rows.len(), options.batch_size);
    let whole = count / batch_size;
    let steps = arguments.steps.unwrap_or(whole);
    if whole < steps || whole == 0 {
        let needed = batch_size.saturating_mul(steps.max(1));
        let steps = steps.max(1);
        bail!(
            "{}: {count} sequences: expected {needed} for {steps} steps of --batch-size {batch_size}",
            path.display()
        );
    }
    let left = count - steps * batch_size;
    if left > 0 {
        cli::warn(&format!(
            "{}: the last {left} sequences are not used",
            path.display()
        ));
    }
    options.steps = steps;
    let record = tokens.record();
    Ok((
        ProxyBatch::from_sequences(tokens.rows, config.vocab_size)?,
        record,
    ))
}

/// The file in the folder of `--checkpoint`, which is made if need be.
fn checkpoint_file(folder: &Path) -> Result<PathBuf> {
    if !folder.exists() {
        cli::check_out("--checkpoint", folder)?;
        fs::create_dir(folder).with_context(|| {
            format!("--checkpoint {}: cannot make the folder", folder.display())
        })?;
    }
    if !folder.is_dir() {
        bail!("--checkpoint {}: expected a folder", folder.display());
    }
    let file = folder.join("checkpoint.json");
    cli::check_out("--checkpoint", &file)?;
    Ok(file)
}

fn draw_curves<M: DecoderModel>(
    path: &Path,
    trainer: &Trainer<M>,
    history: Vec<Vec<f64>>,
) -> Result<()> {
    let heads = trainer.coefficients().heads();
    let coefficients = heads
        .iter()
        .zip(history)
        .map(|(head, values)| Curve::new(head.to_string(), values))
        .collect();
    let mut loss = vec![Curve::new("loss", trainer.losses().to_vec())];
    if !trainer.held_out_losses().is_empty() {
        let mut held_out = vec![f64::NAN; trainer.steps_done() + 1];
        trainer
            .held_out_losses()
            .iter()
            .for_each(|&(steps, loss)| held_out[steps] = loss);
        loss.push(Curve::new("held out", held_out));
    }
    curves(path, &[("loss", loss), ("coefficients", coefficients)])
}

fn report<M: DecoderModel>(
    trainer: &Trainer<M>,
    coefficients: &HeadCoefficients,
    options: &TrainOptions,
    before: ProxyMetrics,
    after: ProxyMetrics,
) -> String {
    let mut text = format!(
        "{} steps of {} sequences, n = {}\n",
        trainer.steps_done(),
        options.batch_size,
        options.length
    );
    if let Some(step) = trainer.best_step() {
        let _ = writeln!(
            text,
            "the coefficients are those after step {step}, when the held-out loss was lowest"
        );
    }
    text += "\nhead   coefficient\n";
    for (head, value) in coefficients.heads().iter().zip(coefficients.values()) {
        let _ = writeln!(text, "{:<6} {value:>11.5}", head.to_string());
    }
    let _ = writeln!(
        text,
        "\non {HELD_OUT} other sequences     before       after"
    );
    let _ = writeln!(
        text,
        "{:<22} {:>11.4} {:>11.4}",
        "loss", before.loss, after.loss
    );
    let _ = writeln!(
        text,
        "{:<22} {:>9.1} % {:>9.1} %",
        "accuracy",
        100.0 * before.accuracy,
        100.0 * after.accuracy
    );
    text
}
