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
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use pear_core::files::SequenceRecord;
use pear_core::proxy::ProxyBatch;
use pear_core::{DecoderModel, HeadCoefficients, HeadId, Profile};
use pear_examples::cli::{self, ModelArgs, TopK};
use pear_examples::device::DeviceName;
use pear_examples::draw::{Curve, check_picture, curves};
use pear_examples::progress::Progress;
use pear_examples::proxy::Draw;
use pear_examples::text_gate::{StoppingGate, TextGate};
use pear_examples::tokens::TokenFile;
use pear_examples::training::gradient_ranking::rank_by_gradient;
use pear_examples::training::heads::{self, HeadChoice};
use pear_examples::training::log::TrainingLog;
use pear_examples::training::text::{TextPriceArgs, TrainingText};
use pear_locate::Scores;
use pear_models::evaluation::{TextDivergence, TextWindows};
use pear_models::{Decoder, ModelDirectory};
use pear_train::{
    Error, ProxyMetrics, Schedule, Sequences, StepReport, TrainOptions, Trainer, evaluate,
};

/// Number of held-out sequences.
const HELD_OUT: usize = 64;
/// Index of the first of them: beyond the longest run, so that all runs are measured on the same sequences.
const NEVER_DRAWN: usize = 1 << 40;
/// Number of sequences for `--heads gradient`, the ones after those.
const FOR_GRADIENT: usize = 64;
/// Default for `--held-out-every` with `--patience`.
const HELD_OUT_EVERY: usize = 10;
/// Tokens that are run together: larger batches are divided.
const TOKENS_AT_ONCE: usize = 1 << 15;
/// Bounds against typing errors.
const MAX_STEPS: usize = 1_000_000;
const MAX_TOKENS: usize = 1 << 20;

/// Learn one coefficient for each suppression head on random tokens repeated twice, with the model frozen
#[derive(Parser, Debug)]
#[command(name = "train", allow_negative_numbers = true)]
struct Arguments {
    #[command(flatten)]
    model: ModelArgs,

    /// The heads: a scores file from `locate`, a list such as 26.28,11.6 (layer.head, both from 0), all, or gradient: those whose scaling
    /// down would lower the loss most at first
    #[arg(long, value_name = "SCORES|LIST|all|gradient")]
    heads: String,

    /// File to write the scores of --heads gradient to, as `locate` writes its own
    #[arg(long, value_name = "FILE")]
    gradient_scores: Option<PathBuf>,

    /// Number of heads to take from a scores file, in the order that its `rank_by` gives, or of --heads gradient; auto: those whose score is
    /// above zero with a false discovery rate of 5 % (one-sided), at most 40 [default: 10]
    #[arg(long, value_name = "K|all|auto")]
    top_k: Option<TopK>,

    /// Number n of random tokens that are repeated; each sequence has 2n tokens [default: 50]
    #[arg(long, value_name = "N")]
    length: Option<usize>,

    /// Sequences in each step
    #[arg(long, default_value_t = 20)]
    batch_size: usize,

    /// Number of steps [default: 250; with --proxy-tokens, the number of whole batches in the file]
    #[arg(long)]
    steps: Option<usize>,

    /// The highest learning rate
    #[arg(long, value_name = "RATE", default_value_t = 0.005)]
    learning_rate: f64,

    /// Steps of linear warm-up to the highest learning rate
    #[arg(long, value_name = "STEPS", default_value_t = 2)]
    warmup_steps: usize,

    /// Pulls coefficients towards 1
    #[arg(long, default_value_t = 0.0)]
    weight_decay: f64,

    /// Largest norm of the gradient; larger ones are scaled down
    #[arg(long, value_name = "NORM")]
    clip_norm: Option<f64>,

    /// Sequences that are run together; fewer need less memory [default: as many as have 32768 tokens]
    #[arg(long, value_name = "COUNT")]
    micro_batch_size: Option<usize>,

    /// Run each layer once more in the backward pass instead of keeping what it computed: half the memory, half as much time again
    #[arg(long)]
    recompute: bool,

    /// Seed of the random sequences
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// Read the sequences from a file instead, in its order: JSON lines, each an array of 2n token ids with two equal halves
    #[arg(long, value_name = "FILE", conflicts_with = "bos")]
    proxy_tokens: Option<PathBuf>,

    /// Begin each sequence with the model's BOS
    #[arg(long)]
    bos: bool,

    /// How the learning rate decays after the warm-up
    #[arg(long, value_enum, default_value_t = ScheduleName::Linear)]
    schedule: ScheduleName,

    /// Bounds that coefficients are clamped to
    #[arg(long, value_name = "LOW,HIGH", value_delimiter = ',', num_args = 1)]
    clamp: Option<Vec<f64>>,

    /// Folder to save the state of training in
    #[arg(long, value_name = "DIR")]
    checkpoint: Option<PathBuf>,

    /// Steps between two checkpoints
    #[arg(
        long,
        value_name = "STEPS",
        default_value_t = 10,
        requires = "checkpoint"
    )]
    checkpoint_every: usize,

    /// File to log every step to: a line of CSV with loss, learning rate, gradient norm and coefficients
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,

    /// Steps between two measurements on held-out sequences [default: only before and after, or 10 with --patience]
    #[arg(long, value_name = "STEPS")]
    held_out_every: Option<usize>,

    /// End early when so many of these measurements in a row have not improved on the lowest loss, and keep the coefficients of the
    /// lowest
    #[arg(long, value_name = "COUNT")]
    patience: Option<usize>,

    /// Divide the sequences of each step between --device and these devices, each with its own copy of the model
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    also_device: Vec<DeviceName>,

    /// Resume from the state in the folder of --checkpoint
    #[arg(long, requires = "checkpoint")]
    resume: bool,

    #[command(flatten)]
    prices: TextPriceArgs,

    /// A plain text whose perplexity is to be preserved
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,

    /// Share by which the perplexity of the text may rise
    #[arg(long, value_name = "SHARE", default_value_t = 0.05, requires = "text")]
    text_limit: f64,

    /// What to do if it rises more: warn at the end, or stop and keep the last coefficients measured within the limit
    #[arg(long, value_enum, default_value_t = TextAction::Warn, requires = "text")]
    text_gate: TextAction,

    /// Steps between two measurements of the perplexity with --text-gate stop
    #[arg(long, value_name = "STEPS", default_value_t = 10, requires = "text")]
    text_every: usize,

    /// Tokens of the text that are read at once
    #[arg(long, value_name = "TOKENS", default_value_t = 512, requires = "text")]
    window: usize,

    /// Draw the loss and the coefficients over the steps to a .svg or .png file
    #[arg(long, value_name = "FILE")]
    curve: Option<PathBuf>,

    /// File to write the profile to
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ScheduleName {
    Linear,
    Cosine,
    Constant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum TextAction {
    Warn,
    Stop,
}

fn main() -> ExitCode {
    cli::main_with(run)
}

fn run(arguments: Arguments) -> Result<()> {
    check(&arguments)?;
    let checkpoint = checkpoint_file(&arguments)?;
    let input = Input::read(&arguments)?;

    let since = Instant::now();
    let model = arguments.model.load(&input.directory)?;
    let text_price = text_price(&arguments, &input, &model, checkpoint.as_deref())?;
    let (heads, scores) = chosen_heads(&arguments, &input, &model)?;
    let text = match input.measured_text(text_price.as_ref()) {
        Some(text) => Some(TextGate::new(text, &model, arguments.text_limit)?),
        None => None,
    };
    let copies = arguments
        .also_device
        .iter()
        .map(|device| arguments.model.load_on(&input.directory, device))
        .collect::<Result<Vec<Decoder>>>()?;
    let before = evaluate(&model, &input.held_out, None)?;
    let setup = Setup {
        heads,
        text: text_price.as_ref(),
        checkpoint: checkpoint.as_deref(),
    };
    let mut trainer = trainer(&arguments, &input, &model, &copies, &setup)?;
    let mut observer = Observer {
        gate: text_gate(&arguments, text.as_ref(), &trainer, checkpoint.as_deref())?,
        checkpoint,
        ..Observer::new(&arguments, &input, &trainer)?
    };
    trainer.run_with(&input.sequences, |trainer, step| {
        observer.observe(trainer, step)
    })?;
    let (mut profile, history) = observer.finish(&trainer)?;

    let coefficients = profile.for_model(&model.shape(), &model.device())?;
    let after = evaluate(&model, &input.held_out, Some(&coefficients))?;
    let mut summary = summary(&trainer, &coefficients, &input.options, before, after);
    if let Some(training) = &mut profile.training {
        training.held_out_loss = Some((before.loss, after.loss));
    }
    if let Some(text) = &text {
        let perplexities = text.measure(&coefficients)?;
        summary += &table_row("perplexity of the text", perplexities);
        if let Some(training) = &mut profile.training {
            training.text_perplexity = Some(perplexities);
        }
    }
    if let Some(text) = &text_price {
        let divergence = text.divergence(&model, &coefficients)?;
        summary += &divergence_rows(&divergence);
    }
    if let Some(out) = &arguments.out {
        if let Some(scores) = &scores {
            let of_heads = scores.heads().iter();
            profile = profile.with_scores(of_heads.map(|scored| (scored.head, scored.score)));
        }
        profile.write(out)?;
    }
    if let Some(curve) = &arguments.curve {
        draw_curves(curve, &trainer, history)?;
    }
    summary += &cli::stream_summary(&model, since.elapsed().as_secs_f64());
    cli::print(&summary)
}

/// Checks flags that need nothing but themselves.
fn check(arguments: &Arguments) -> Result<()> {
    if let Some(curve) = &arguments.curve {
        check_picture(curve)?;
    }
    let scores = PathBuf::from(&arguments.heads);
    let inputs = [
        Some(&arguments.model.model),
        Some(&scores),
        arguments.proxy_tokens.as_ref(),
        arguments.text.as_ref(),
    ];
    let mut outputs = cli::Outputs::beside(inputs);
    outputs.add("--out", arguments.out.as_deref())?;
    outputs.add("--curve", arguments.curve.as_deref())?;
    outputs.add("--log", arguments.log.as_deref())?;
    outputs.add("--gradient-scores", arguments.gradient_scores.as_deref())?;
    for (flag, value) in [
        ("--checkpoint-every", arguments.checkpoint_every),
        ("--text-every", arguments.text_every),
    ] {
        if value == 0 {
            bail!("{flag} 0: expected at least 1");
        }
    }
    cli::check_text_limit(arguments.text_limit)
}

/// The file in the folder of `--checkpoint`. The folder is made if there is none; with `--resume` the file must be there.
fn checkpoint_file(arguments: &Arguments) -> Result<Option<PathBuf>> {
    let Some(folder) = &arguments.checkpoint else {
        return Ok(None);
    };
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
    if arguments.resume && !file.is_file() {
        bail!("--resume: there is no {} to resume from", file.display());
    }
    Ok(Some(file))
}

/// Everything that is read and checked before any weights are loaded.
struct Input {
    directory: Arc<ModelDirectory>,
    options: TrainOptions,
    heads: HeadChoice,
    sequences: Sequences,
    /// Where the sequences come from.
    record: SequenceRecord,
    held_out: ProxyBatch,
    /// Sequences for `--heads gradient`, if they are needed.
    for_gradient: Option<ProxyBatch>,
    text: Option<TextWindows>,
    /// The text of the objective, where it comes from a file.
    text_price: Option<TrainingText>,
}

impl Input {
    fn read(arguments: &Arguments) -> Result<Self> {
        let mut options = options(arguments)?;
        let directory = arguments.model.open()?;
        let heads = HeadChoice::read(&arguments.heads, arguments.top_k, &directory)?;
        let draw = Draw {
            seed: arguments.seed,
            bos: arguments.bos,
            special: false,
        };
        let task = draw.task(&directory)?;
        let given = match &arguments.proxy_tokens {
            Some(path) => Some(sequences_of(path, arguments, &mut options, &directory)?),
            None => {
                draw.check_length("--length", options.length, &directory)?;
                None
            }
        };
        let text_length = arguments.prices.length(&directory)?;
        bound(&mut options, text_length)?;
        let others = NEVER_DRAWN + HELD_OUT;
        let held_out = task.batch(options.length, NEVER_DRAWN..others)?;
        let for_gradient = match heads {
            HeadChoice::ByGradient(_) => {
                Some(task.batch(options.length, others..others + FOR_GRADIENT)?)
            }
            _ => None,
        };
        let (sequences, record) = match given {
            Some((batch, record)) => (Sequences::Given(batch), record),
            None => (Sequences::Drawn(task), draw.record(&directory)),
        };
        let (mut text, mut text_price) = (None, None);
        if let Some(path) = &arguments.text {
            let window = arguments.window;
            if window < 2 {
                bail!("--window {window}: expected at least 2 tokens");
            }
            if arguments.prices.has_price() {
                let seed = arguments.seed;
                let read = TrainingText::read(path, &directory, seed, text_length, window)?;
                text_price = Some(read);
            } else {
                text = Some(TextWindows::read(path, &directory, window)?);
            }
        }
        Ok(Self {
            directory,
            options,
            heads,
            sequences,
            record,
            held_out,
            for_gradient,
            text,
            text_price,
        })
    }

    /// The text of `--text` whose perplexity is measured: what is not learned from.
    fn measured_text<'a>(&'a self, price: Option<&'a TrainingText>) -> Option<&'a TextWindows> {
        let of_file = price.filter(|_| self.text_price.is_some());
        self.text.as_ref().or(of_file.map(|text| &text.measured))
    }
}

/// The text of the objective, if it has one: that of `--text`, or written by the model.
fn text_price(
    arguments: &Arguments,
    input: &Input,
    model: &Decoder,
    checkpoint: Option<&Path>,
) -> Result<Option<TrainingText>> {
    let prices = &arguments.prices;
    if !prices.has_price() || input.text_price.is_some() {
        return Ok(input.text_price.clone());
    }
    let file = checkpoint.map(|path| path.with_file_name("text.jsonl"));
    let text = TrainingText::sampled(
        model,
        &input.directory,
        arguments.seed,
        prices.length(&input.directory)?,
        prices.text_samples,
        file.as_deref().map(|path| (path, arguments.resume)),
    )?;
    Ok(Some(text))
}

/// The heads, and the scores that they were chosen by, if they were.
fn chosen_heads(
    arguments: &Arguments,
    input: &Input,
    model: &Decoder,
) -> Result<(Vec<HeadId>, Option<Scores>)> {
    let top_k = match &input.heads {
        HeadChoice::Listed(heads) => return Ok((heads.clone(), None)),
        HeadChoice::Scored(heads, scores) => return Ok((heads.clone(), Some((**scores).clone()))),
        HeadChoice::ByGradient(top_k) => *top_k,
    };
    let batch = input.for_gradient.as_ref().unwrap_or(&input.held_out);
    let at_once = input.options.micro_batch_size.unwrap_or(batch.len());
    let mut scores = rank_by_gradient(model, batch, at_once)?;
    if let Some(path) = &arguments.gradient_scores {
        let record = input.record.clone();
        scores.provenance = arguments.model.provenance(&input.directory, record)?;
        scores.write(path)?;
    }
    let heads = heads::top(&scores, top_k, "--heads gradient")?;
    Ok((heads, Some(scores)))
}

/// What a trainer is made of, beside what was read.
struct Setup<'a> {
    heads: Vec<HeadId>,
    text: Option<&'a TrainingText>,
    checkpoint: Option<&'a Path>,
}

/// The trainer, in the state of the checkpoint with `--resume`.
fn trainer<'a>(
    arguments: &Arguments,
    input: &Input,
    model: &'a Decoder,
    copies: &'a [Decoder],
    setup: &Setup<'_>,
) -> Result<Trainer<&'a Decoder>> {
    let checkpoint = setup.checkpoint;
    let mut trainer = Trainer::new(model, &setup.heads, input.options.clone())?
        .with_copies(copies)
        .with_recompute(arguments.recompute)
        .with_held_out(input.held_out.clone());
    if let Some(text) = setup.text {
        trainer = trainer.with_text(text.learned.clone())?;
    }
    // Fingerprints take a while: only where they are written or compared.
    if checkpoint.is_some() || arguments.out.is_some() {
        let record = input.record.clone();
        let provenance = arguments.model.provenance(&input.directory, record)?;
        trainer = trainer.with_provenance(provenance);
    }
    if let Some(file) = checkpoint.filter(|_| arguments.resume) {
        trainer.restore(file)?;
        let other = || format!("{}: the checkpoint of another run", file.display());
        trainer
            .check_sequences(&input.sequences)
            .with_context(other)?;
    }
    Ok(trainer)
}

/// What is done after each step: it is logged, saved, and ends training where the text gets too bad.
struct Observer<'a> {
    arguments: &'a Arguments,
    steps: usize,
    checkpoint: Option<PathBuf>,
    log: Option<TrainingLog>,
    /// For each head, its coefficient before the first step and after each; NaN where that is not known.
    history: Vec<Vec<f64>>,
    gate: Option<StoppingGate<'a>>,
    bar: Progress,
}

/// The gate, with `--text-gate stop`.
fn text_gate<'a>(
    arguments: &Arguments,
    text: Option<&'a TextGate<'a>>,
    trainer: &Trainer<&Decoder>,
    checkpoint: Option<&Path>,
) -> Result<Option<StoppingGate<'a>>> {
    let stops = arguments.text_gate == TextAction::Stop;
    let Some(text) = text.filter(|_| stops) else {
        return Ok(None);
    };
    Ok(Some(match checkpoint {
        Some(file) if arguments.resume => StoppingGate::resumed(text, file)?,
        _ => StoppingGate::new(text, trainer.profile()?, checkpoint),
    }))
}

impl<'a> Observer<'a> {
    /// Without a checkpoint file and a gate.
    fn new(arguments: &'a Arguments, input: &Input, trainer: &Trainer<&Decoder>) -> Result<Self> {
        let done = trainer.steps_done();
        let heads = trainer.coefficients().heads();
        let log = match &arguments.log {
            Some(path) => {
                let options = &input.options;
                let has_prices = options.kl_weight > 0.0 || options.sparsity > 0.0;
                Some(TrainingLog::open(path, &heads, done, has_prices)?)
            }
            None => None,
        };
        let steps = input.options.steps;
        let mut observer = Self {
            arguments,
            steps,
            checkpoint: None,
            log,
            history: vec![vec![f64::NAN; done]; heads.len()],
            gate: None,
            bar: Progress::new("training", steps as u64),
        };
        observer.remember(&trainer.coefficients().values());
        // Steps before a checkpoint are known from the log alone.
        if let Some(log) = observer.log.as_ref().filter(|_| done > 0) {
            for (line, logged) in observer.history.iter_mut().zip(log.coefficients()?) {
                *line = [1.0].into_iter().chain(logged).collect();
            }
        }
        Ok(observer)
    }

    fn remember(&mut self, coefficients: &[f32]) {
        for (line, &value) in self.history.iter_mut().zip(coefficients) {
            line.push(f64::from(value));
        }
    }

    fn observe(
        &mut self,
        trainer: &Trainer<&Decoder>,
        step: &StepReport,
    ) -> Result<ControlFlow<()>> {
        let done = step.step + 1;
        let kl = step
            .kl
            .map_or_else(String::new, |kl| format!(", KL {kl:.4}"));
        self.bar
            .set(done as u64, format!("loss {:.4}{kl}", step.loss));
        self.remember(&step.coefficients);
        if let Some(log) = &mut self.log {
            log.add(step)?;
        }
        if let Some(gate) = &mut self.gate
            && done.is_multiple_of(self.arguments.text_every)
            && !gate.passes(trainer.coefficients(), || Ok(trainer.profile()?))?
        {
            return Ok(ControlFlow::Break(()));
        }
        // Saved after the log is written, which thus holds every step of a checkpoint.
        let is_last = done == self.steps || trainer.is_stalled();
        if let Some(file) = &self.checkpoint
            && (is_last || done.is_multiple_of(self.arguments.checkpoint_every))
        {
            if let Some(gate) = &self.gate {
                gate.save()?;
            }
            trainer.save(file)?;
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The coefficients to keep, and the history.
    fn finish(self, trainer: &Trainer<&Decoder>) -> Result<(Profile, Vec<Vec<f64>>)> {
        drop(self.bar);
        // The last steps have not been measured.
        let last_within = self.gate.map(|gate| gate.finish(trainer.coefficients()));
        let profile = match last_within.transpose()?.flatten() {
            Some(profile) => profile,
            None => trainer.profile()?,
        };
        Ok((profile, self.history))
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
            ScheduleName::Linear => Schedule::Linear,
            ScheduleName::Cosine => Schedule::Cosine,
            ScheduleName::Constant => Schedule::Constant,
        },
        micro_batch_size: arguments.micro_batch_size,
        held_out_every: arguments
            .held_out_every
            .or(arguments.patience.map(|_| HELD_OUT_EVERY)),
        patience: arguments.patience,
        kl_weight: arguments.prices.kl_weight,
        text_batch_size: arguments.prices.text_batch_size,
        sparsity: arguments.prices.sparsity,
    };
    match options.validate() {
        Ok(()) => Ok(options),
        Err(Error::Option {
            option,
            value,
            expected,
        }) => Err(cli::option_error(option, &value, expected)),
        Err(other) => Err(other.into()),
    }
}

/// Bounds steps and batches, and divides large batches into parts that are run one after the other.
fn bound(options: &mut TrainOptions, text_length: usize) -> Result<()> {
    if options.steps > MAX_STEPS {
        bail!("--steps {}: expected {MAX_STEPS} or less", options.steps);
    }
    let most = MAX_TOKENS / (2 * options.length);
    if options.batch_size > most {
        bail!(
            "--batch-size {}: expected {most} or less for sequences of {} tokens",
            options.batch_size,
            2 * options.length
        );
    }
    let pieces = MAX_TOKENS / text_length;
    if options.text_batch_size > pieces {
        bail!(
            "--text-batch-size {}: expected {pieces} or less for pieces of {text_length} tokens",
            options.text_batch_size
        );
    }
    let mut longest = 2 * options.length;
    if options.kl_weight > 0.0 {
        longest = longest.max(text_length);
    }
    let at_once = (TOKENS_AT_ONCE / longest).max(1);
    options.micro_batch_size.get_or_insert(at_once);
    Ok(())
}

/// The sequences of a file, all of one length. Without `--steps`, their number determines the number of steps.
fn sequences_of(
    path: &Path,
    arguments: &Arguments,
    options: &mut TrainOptions,
    directory: &ModelDirectory,
) -> Result<(ProxyBatch, SequenceRecord)> {
    let config = directory.config();
    let tokens = TokenFile::read_proxy(path, config.vocab_size)?;
    tokens.check_lengths(config.max_positions())?;
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
    let count = tokens.rows.len();
    let batch_size = options.batch_size;
    let whole_batches = count / batch_size;
    let steps = arguments.steps.unwrap_or(whole_batches).max(1);
    if whole_batches < steps {
        bail!(
            "{}: {count} sequences: expected {} for {steps} steps of --batch-size {batch_size}",
            path.display(),
            batch_size.saturating_mul(steps)
        );
    }
    let unused = count - steps * batch_size;
    if unused > 0 {
        cli::warn(&format!(
            "{}: the last {unused} sequences are not used",
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

/// Draws the losses, and the coefficients of each head after each step.
fn draw_curves(path: &Path, trainer: &Trainer<&Decoder>, history: Vec<Vec<f64>>) -> Result<()> {
    let heads = trainer.coefficients().heads();
    let coefficients = heads
        .iter()
        .zip(history)
        .map(|(head, values)| Curve::new(head.to_string(), values))
        .collect();
    let mut loss = vec![Curve::new("loss", trainer.losses().to_vec())];
    if !trainer.held_out_losses().is_empty() {
        let mut held_out = vec![f64::NAN; trainer.steps_done() + 1];
        for &(steps, loss) in trainer.held_out_losses() {
            held_out[steps] = loss;
        }
        loss.push(Curve::new("held out", held_out));
    }
    curves(path, &[("loss", loss), ("coefficients", coefficients)])
}

/// The coefficients, and the held-out metrics before and after.
fn summary(
    trainer: &Trainer<&Decoder>,
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
    if options.sparsity > 0.0 {
        let all = trainer.coefficients().heads().len();
        let at_one = all - coefficients.heads().len();
        let _ = writeln!(
            text,
            "{at_one} of {all} coefficients are exactly 1 and not listed"
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
    text += &table_row("loss", (before.loss, after.loss));
    let _ = writeln!(
        text,
        "{:<22} {:>9.1} % {:>9.1} %",
        "accuracy",
        100.0 * before.accuracy,
        100.0 * after.accuracy
    );
    text
}

/// How far predictions on plain text are from those of the unmodified model.
fn divergence_rows(divergence: &TextDivergence) -> String {
    format!(
        "{:<22} {:>11} {:>11.6}\n{:<22} {:>9.1} % {:>9.1} %\n",
        "KL on other plain text",
        0,
        divergence.kl,
        "same likeliest token",
        100.0,
        100.0 * divergence.same_top_token
    )
}

fn table_row(name: &str, (before, after): (f64, f64)) -> String {
    format!("{name:<22} {before:>11.4} {after:>11.4}\n")
}
