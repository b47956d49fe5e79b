//! Finds the attention heads that suppress a model's context.
//!
//! ```sh
//! cargo run --release --example locate -- --model DIR --out scores.json --heatmap heads.svg
//! ```

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use burn::tensor::DType;
use clap::{Parser, ValueEnum};
use pear_core::files::{Provenance, SequenceRecord};
use pear_core::model::DecoderModel;
use pear_core::proxy::{ProxyBatch, ProxyTask};
use pear_core::{HeadId, LayerRange};
use pear_examples::cli::{self, ModelArgs, RowBudget, TopK, half_of, name_of};
use pear_examples::device::DeviceName;
use pear_examples::draw::{check_picture, heat_map};
use pear_examples::head_table::head_table;
use pear_examples::memory::{peak_memory, reset_peak_memory};
use pear_examples::partial::{PartialFile, Run};
use pear_examples::plan::{plan, streamed_seconds};
use pear_examples::progress::Progress as ProgressBar;
use pear_examples::proxy::Draw;
use pear_examples::tokens::TokenFile;
use pear_locate::{
    Budget, Event, LengthReport, LocateOptions, Locator, Overlap, Progress, Report, Rounding,
    Scores, Stability, proxy_batches, rank_correlation, remove_sweep_state, stability,
};
use pear_models::{Decoder, DecoderConfig, ModelDirectory};
use pear_train::TrainOptions;
use serde::de::DeserializeOwned;

/// The most tokens that are drawn, over all sequences.
const MAX_TOKENS: usize = 50_000_000;

/// Sequences of each of the default lengths.
const SAMPLES: [usize; 4] = [100, 80, 40, 20];

/// Within a budget, times as many to choose from.
const BUDGET_SAMPLES: usize = 4;

/// Shown below the flags.
const MERGING: &str = "A large model can be located in parts, on several machines or one after the other: run with --layers 0-15, \
    --layers 16-31 and so on, then join the parts:\n  locate --merge PART.json PART.json … --out FILE [--top-k K] [--heatmap FILE]";

/// Find the attention heads that suppress the context: on random tokens repeated twice, replace one head's output at a time and measure
/// how the logit of the correct token changes
#[derive(Parser, Debug)]
#[command(name = "locate", allow_negative_numbers = true, after_help = MERGING)]
struct Arguments {
    #[command(flatten)]
    model: ModelArgs,

    /// Numbers n of random tokens that are repeated; each sequence has 2n tokens
    #[arg(
        long,
        value_name = "N,…",
        value_delimiter = ',',
        default_value = "10,15,25,50"
    )]
    lengths: Vec<usize>,

    /// Number of sequences for each of the lengths; with --budget, at most [default: 100,80,40,20; with --budget, four times as many]
    #[arg(long, value_name = "COUNT,…", value_delimiter = ',')]
    samples: Option<Vec<usize>>,

    /// Seed of the random sequences
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// Read the sequences from a file instead: JSON lines, each an array of 2n token ids with two equal halves
    #[arg(long, value_name = "FILE", conflicts_with_all = ["lengths", "samples", "bos"])]
    proxy_tokens: Option<PathBuf>,

    /// Begin each sequence with the model's BOS
    #[arg(long)]
    bos: bool,

    /// What is recomputed downstream of the replaced head [default: activation]
    #[arg(long)]
    mode: Option<Mode>,

    /// What a head's output is replaced by [default: sequence-mean]
    #[arg(long)]
    ablation: Option<Ablation>,

    /// How the patched run is compared with the clean one [default: logit-ratio]
    #[arg(long)]
    metric: Option<Metric>,

    /// How scores are computed: exactly, by replacing each head; estimated from one gradient for all heads; or both, which reports how
    /// well the estimate ranks the heads (the scores are then the exact ones)
    #[arg(long, default_value = "exact")]
    method: Method,

    /// as-published: what the authors' code computes, that is --mode path --ablation batch-mean --metric centred-logit-diff unless given
    /// otherwise, and sequences that may contain special tokens
    #[arg(long, conflicts_with = "bos")]
    preset: Option<Preset>,

    /// What heads are ranked by: z, the score divided by its standard error; lower-bound, the score less 1.645 standard errors; or score.
    /// It changes no score [default: z; with --preset as-published: score]
    #[arg(long)]
    rank_by: Option<RankBy>,

    /// Row passes to spend on finding the --top-k heads: sequences go where the ranking is undecided, and it ends when it is settled. A row
    /// pass takes one position of one sequence through one layer. As per cent (50%): of those that the same command takes without --budget
    #[arg(long, value_name = "ROWS", conflicts_with_all = ["compare_modes", "compare_dtypes"])]
    budget: Option<RowBudget>,

    /// Score only the heads of these layers, counted from 0, to be joined with other parts (see below)
    #[arg(long, value_name = "FIRST-LAST")]
    layers: Option<LayerRange>,

    /// Divide the sequences between --device and these devices, each with its own copy of the model
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    also_device: Vec<DeviceName>,

    /// Resume an interrupted run of the same command: lengths, or with --budget rounds, that it finished are kept; with --stream, the layers that
    /// all lengths have been through
    #[arg(long, requires = "out")]
    resume: bool,

    /// Number of heads to list and to outline, and with --budget to find; auto: those whose score is above zero with a false discovery rate of
    /// 5 % (one-sided), at most 40 [default: 10]
    #[arg(long, value_name = "K|all|auto")]
    top_k: Option<TopK>,

    /// Locate a second time with the other --mode, and report how many of the top heads both find
    #[arg(long)]
    compare_modes: bool,

    /// Locate a second time with the weights in bf16 (in f32 where --dtype is bf16 or f16), and report what rounding changes
    #[arg(long)]
    compare_dtypes: bool,

    /// Draw the scores of all heads to a .svg or .png file
    #[arg(long, value_name = "FILE")]
    heatmap: Option<PathBuf>,

    /// Memory for the sweep beside the model, in MiB; with less it is slower, with the same result
    #[arg(long, value_name = "MIB", default_value_t = (LocateOptions::DEFAULT_MEMORY_BUDGET >> 20) as u32)]
    memory: u32,

    /// Say what locating, and training with its default settings, would take on this machine, and stop: memory, bytes read, work and time.
    /// Of --model, only config.json is needed
    #[arg(long)]
    plan: bool,

    /// File to write the scores to
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Method {
    Exact,
    Attribution,
    Both,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Preset {
    AsPublished,
}

/// The library's enums as values of flags.
macro_rules! choices {
    ($($name:ident { $($variant:ident),* })*) => {$(
        #[derive(Clone, Copy, Debug, ValueEnum)]
        enum $name { $($variant),* }

        impl From<$name> for pear_locate::$name {
            fn from(choice: $name) -> Self {
                match choice { $($name::$variant => Self::$variant),* }
            }
        }
    )*};
}

choices! {
    Mode { Activation, Path }
    Ablation { SequenceMean, BatchMean, Zero }
    Metric { LogitRatio, LogitDiff, CentredLogitDiff, LogProbDiff }
    RankBy { Z, LowerBound, Score }
}

/// Join scores of different layers of a model
#[derive(Parser, Debug)]
#[command(name = "locate --merge", allow_negative_numbers = true)]
struct MergeArguments {
    /// The scores of all parts
    #[arg(long, value_name = "PART", num_args = 1.., required = true)]
    merge: Vec<PathBuf>,

    /// Number of heads to list and to outline, as without --merge
    #[arg(long, value_name = "K|all|auto")]
    top_k: Option<TopK>,

    /// Draw the scores of all heads to a .svg or .png file
    #[arg(long, value_name = "FILE")]
    heatmap: Option<PathBuf>,

    /// File to write the scores to
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

fn main() -> ExitCode {
    let is_merge = |argument: OsString| {
        let argument = argument.to_string_lossy();
        argument == "--merge" || argument.starts_with("--merge=")
    };
    // Merging needs no model, which is otherwise required.
    if std::env::args_os().any(is_merge) {
        cli::main_with(merge)
    } else {
        cli::main_with(run)
    }
}

fn merge(arguments: MergeArguments) -> Result<()> {
    check_outputs(
        arguments.merge.iter().map(Some),
        &arguments.out,
        &arguments.heatmap,
    )?;
    let scores = Scores::merge(&arguments.merge)?;
    let heads = TopK::checked(arguments.top_k, 10, scores.heads().len())?.of(&scores)?;
    finish(&scores, &heads, &arguments.out, &arguments.heatmap)
}

fn check_outputs<'a>(
    inputs: impl IntoIterator<Item = Option<&'a PathBuf>>,
    out: &Option<PathBuf>,
    heatmap: &Option<PathBuf>,
) -> Result<()> {
    if let Some(heatmap) = heatmap {
        check_picture(heatmap)?;
    }
    let mut outputs = cli::Outputs::beside(inputs);
    outputs.add("--out", out.as_deref())?;
    outputs.add("--heatmap", heatmap.as_deref())
}

/// Writes, draws and prints the scores.
fn finish(
    scores: &Scores,
    heads: &[HeadId],
    out: &Option<PathBuf>,
    heatmap: &Option<PathBuf>,
) -> Result<()> {
    if let Some(out) = out {
        scores.write(out)?;
    }
    if let Some(heatmap) = heatmap {
        let title = format!(
            "{}: {} by head",
            scores.model.architecture, scores.settings.metric
        );
        heat_map(heatmap, &title, &scores.grid(), heads)?;
    }
    if heads.is_empty() {
        cli::warn(&format!("no head is significant: {}", TopK::RULE));
    }
    cli::print(&head_table(scores, heads))
}

fn run(arguments: Arguments) -> Result<()> {
    let inputs = [
        Some(&arguments.model.model),
        arguments.proxy_tokens.as_ref(),
    ];
    check_outputs(inputs, &arguments.out, &arguments.heatmap)?;
    let options = options(&arguments)?;
    if arguments.plan {
        return print_plan(&arguments, &options);
    }
    check_estimate(&arguments, arguments.model.layers.stream)?;
    let directory = arguments.model.open()?;
    let job = Job::prepare(&arguments, &directory, options)?;
    let since = Instant::now();
    let model = arguments.model.load(&directory)?;
    check_estimate(&arguments, model.layers_on_demand())?;
    let copies = arguments
        .also_device
        .iter()
        .map(|device| arguments.model.load_on(&directory, device))
        .collect::<Result<Vec<Decoder>>>()?;
    let model_memory = peak_memory();
    reset_peak_memory();
    cli::print(&format!(
        "model   {}\nscores  {}, {}, {}\n",
        model.shape(),
        job.options.mode,
        job.options.ablation,
        job.options.metric
    ))?;
    if let Some(statistics) = model.stream_statistics() {
        // One layer has been read, to see how long that takes.
        let reading = statistics.reading.as_secs_f64() * model.shape().num_layers as f64;
        let seconds = streamed_seconds(&model, &job.batches, &job.options, reading);
        cli::print(&format!("takes   about {}\n", cli::duration(seconds)))?;
    }
    let report = match &job.budget {
        Some(budget) => job.locate_within(budget, &model, &copies)?,
        None => job.locate(&model, &copies)?,
    };
    let streamed = cli::stream_summary(&model, since.elapsed().as_secs_f64());
    let heads = job.top_k.of(&report.scores)?;
    let mut stability = stability(&report, heads.len());
    let mut scores = report.scores;
    if arguments.method == Method::Both {
        job.compare_methods(&model, &scores, &heads, &mut stability)?;
    }
    if arguments.compare_modes {
        job.compare_modes(&model, &heads, &mut stability)?;
    }
    // Freed first: the comparison of dtypes loads the model again.
    drop((model, copies));
    if arguments.compare_dtypes {
        job.compare_dtypes(&scores, &mut stability)?;
    }
    if stability.gap.is_some_and(|gap| gap.is_noise()) {
        cli::warn(&format!(
            "head {} cannot be told from the next one: their scores differ by less than the standard error",
            heads.len()
        ));
    }
    scores.stability = Some(stability);
    if let Some((_, provenance)) = &job.partial {
        scores.provenance = provenance.clone();
    }
    finish(&scores, &heads, &arguments.out, &arguments.heatmap)?;
    if let Some((file, _)) = &job.partial {
        file.remove()?;
    }
    cli::print(&memory(model_memory, job.options.memory_budget))?;
    cli::print(&streamed)
}

/// Whether scores can be estimated, if they are to be.
fn check_estimate(arguments: &Arguments, streamed: bool) -> Result<()> {
    if streamed && arguments.method != Method::Exact {
        bail!("--method: an estimate keeps all layers in memory: expected exact, or --resident");
    }
    Ok(())
}

/// What a run would take, of the config alone.
fn print_plan(arguments: &Arguments, options: &LocateOptions) -> Result<()> {
    let model = &arguments.model.model;
    let config = if model.extension().is_some_and(|end| end == "gguf") {
        arguments.model.open()?.config().clone()
    } else if model.is_dir() {
        DecoderConfig::read(model.join("config.json"))?.0
    } else {
        DecoderConfig::read(model)?.0
    };
    let batches = match &arguments.proxy_tokens {
        Some(path) => batches_from_file(path, &config)?.0,
        // Which tokens are special makes no difference.
        None => {
            let task = ProxyTask::new(config.vocab_size, &[], arguments.seed)?;
            proxy_batches(&task, &pairs(arguments)?)?
        }
    };
    let training = TrainOptions::default();
    cli::print(&plan(
        &arguments.model,
        &config,
        &batches,
        options,
        &training,
    )?)
}

/// What is located, with its input read and checked.
struct Job<'a> {
    arguments: &'a Arguments,
    directory: &'a Arc<ModelDirectory>,
    options: LocateOptions,
    /// One for each length.
    batches: Vec<ProxyBatch>,
    top_k: TopK,
    /// With `--budget`.
    budget: Option<Budget>,
    /// With `--out`: the file of the lengths that are finished, and what the scores come from.
    partial: Option<(PartialFile, Provenance)>,
}

impl<'a> Job<'a> {
    fn prepare(
        arguments: &'a Arguments,
        directory: &'a Arc<ModelDirectory>,
        options: LocateOptions,
    ) -> Result<Self> {
        let shape = directory.shape();
        let num_layers = match options.layers {
            Some(layers) if layers.last >= shape.num_layers => {
                bail!("--layers {layers}: the model is {shape}, counted from 0")
            }
            Some(layers) => layers.iter().count(),
            None => shape.num_layers,
        };
        let top_k = TopK::checked(arguments.top_k, 10, num_layers * shape.num_heads)?;
        let (batches, sequences) = batches(arguments, directory)?;
        let budget = match arguments.budget {
            Some(budget) => {
                let uniform = uniform_share(arguments, &batches);
                Some(budget.of(top_k, &shape, &options, &uniform)?)
            }
            None => None,
        };
        let partial = match &arguments.out {
            Some(out) => {
                let provenance = arguments.model.provenance(directory, sequences)?;
                let run = Run::new(shape, &options, &batches, provenance.clone());
                let run = match &budget {
                    Some(budget) => run.within(budget),
                    None => run,
                };
                Some((PartialFile::beside(out, run), provenance))
            }
            None => None,
        };
        Ok(Self {
            arguments,
            directory,
            options,
            batches,
            top_k,
            budget,
            partial,
        })
    }

    /// With `--resume`: what an earlier run finished.
    fn finished_earlier<T: DeserializeOwned + Default>(&self) -> Result<T> {
        match &self.partial {
            Some((file, _)) if self.arguments.resume => file.read(),
            _ => Ok(T::default()),
        }
    }

    /// Scores all heads. Each finished length is kept on disk, except the last, which the scores follow at once; of a model whose layers are
    /// streamed, how far all lengths are.
    fn locate(&self, model: &Decoder, copies: &[Decoder]) -> Result<Report> {
        let mut locator = Locator::new(model, self.options.clone())
            .with_copies(copies)
            .with_finished(self.finished_earlier()?);
        if let Some((file, _)) = &self.partial
            && model.layers_on_demand()
        {
            if !self.arguments.resume {
                remove_sweep_state(&file.state())?;
                // What is resumed: no length is finished before all of them are.
                file.write(&Vec::<LengthReport>::new())?;
            }
            locator = locator.with_state(file.state());
        }
        run_with_progress("locating", &locator, &self.batches, |finished| {
            if let Some((file, _)) = &self.partial
                && !model.layers_on_demand()
                && finished.len() < self.batches.len()
            {
                file.write(finished)?;
            }
            Ok(())
        })
    }

    /// Finds the heads asked for within a budget. Each finished round is kept on disk.
    fn locate_within(
        &self,
        budget: &Budget,
        model: &Decoder,
        copies: &[Decoder],
    ) -> Result<Report> {
        let locator = Locator::new(model, self.options.clone())
            .with_copies(copies)
            .within(*budget)
            .with_finished(self.finished_earlier()?);
        let mut bar = Bar::new("locating");
        let outcome = locator.run_with(&self.batches, |event| -> Result<ControlFlow<()>> {
            match event {
                Event::Layer(progress) => bar.set(progress),
                Event::RoundFinished(rounds) => {
                    if let Some((file, _)) = &self.partial {
                        file.write(rounds)?;
                    }
                }
                _ => {}
            }
            Ok(ControlFlow::Continue(()))
        })?;
        outcome.finished().context("locating was cancelled")
    }

    /// Scores all heads again with other options.
    fn locate_again(
        &self,
        what: &'static str,
        model: &Decoder,
        options: LocateOptions,
    ) -> Result<Scores> {
        let locator = Locator::new(model, options);
        let report = run_with_progress(what, &locator, &self.batches, |_| Ok(()))?;
        Ok(report.scores)
    }

    /// How well the estimate from gradients agrees with the exact scores.
    fn compare_methods(
        &self,
        model: &Decoder,
        scores: &Scores,
        heads: &[HeadId],
        stability: &mut Stability,
    ) -> Result<()> {
        let options = LocateOptions {
            method: pear_locate::Method::Attribution,
            ..self.options.clone()
        };
        let estimated = self.locate_again("estimating", model, options)?;
        stability.attribution_rank_correlation = rank_correlation(scores, &estimated);
        add_overlap(stability, ["exact", "attribution"], heads, &estimated);
        Ok(())
    }

    /// How well the other mode agrees.
    fn compare_modes(
        &self,
        model: &Decoder,
        heads: &[HeadId],
        stability: &mut Stability,
    ) -> Result<()> {
        let other = match self.options.mode {
            pear_locate::Mode::Activation => pear_locate::Mode::Path,
            pear_locate::Mode::Path => pear_locate::Mode::Activation,
        };
        let options = LocateOptions {
            mode: other,
            ..self.options.clone()
        };
        let again = self.locate_again("other mode", model, options)?;
        let names = [self.options.mode, other].map(|mode| mode.to_string());
        add_overlap(stability, names, heads, &again);
        Ok(())
    }

    /// How much rounding changes: the model is run in bf16, or in f32 where it ran in half precision.
    fn compare_dtypes(&self, scores: &Scores, stability: &mut Stability) -> Result<()> {
        let flags = &self.arguments.model;
        let device = flags.device.open()?;
        let dtype = flags.dtype(Some(self.directory))?;
        let other = if dtype == DType::F32 {
            half_of(&device)
        } else {
            Some(DType::F32)
        };
        let other = other.with_context(|| {
            format!(
                "--compare-dtypes: --device {} computes in f32 alone",
                flags.device
            )
        })?;
        let model = flags.load_in(self.directory, &flags.device, other)?;
        let again = self.locate_again("other dtype", &model, self.options.clone())?;
        let names = [dtype, other].map(name_of);
        stability.rounding = Rounding::between(names[1].clone(), scores, &again);
        let heads = scores.top(stability.top_k);
        add_overlap(stability, names, &heads, &again);
        Ok(())
    }
}

/// Adds the share of `heads` that are also the top heads of other scores.
fn add_overlap(
    stability: &mut Stability,
    names: [impl Into<String>; 2],
    heads: &[HeadId],
    others: &Scores,
) {
    let overlap = Overlap::of(names, heads, &others.top(heads.len()));
    stability.overlaps.push(overlap);
}

/// The progress of a locator.
struct Bar {
    name: &'static str,
    bar: Option<ProgressBar>,
}

impl Bar {
    fn new(name: &'static str) -> Self {
        Self { name, bar: None }
    }

    fn set(&mut self, progress: Progress) {
        let new = || ProgressBar::new(self.name, progress.total);
        let bar = self.bar.get_or_insert_with(new);
        bar.set(progress.done, format!("n = {}", progress.n));
    }
}

/// Runs a locator with a progress bar. `keep` gets all finished lengths whenever there is one more.
fn run_with_progress(
    what: &'static str,
    locator: &Locator<&Decoder>,
    batches: &[ProxyBatch],
    mut keep: impl FnMut(&[LengthReport]) -> Result<()>,
) -> Result<Report> {
    let mut bar = Bar::new(what);
    let outcome = locator.run_with(batches, |event| -> Result<ControlFlow<()>> {
        match event {
            Event::Layer(progress) => bar.set(progress),
            Event::LengthFinished(finished) => keep(finished)?,
            _ => {}
        }
        Ok(ControlFlow::Continue(()))
    })?;
    outcome.finished().context("locating was cancelled")
}

/// The memory used and what it was meant to be; nothing where the system does not report it.
fn memory(model: u64, budget: usize) -> String {
    let peak = peak_memory();
    if peak == 0 {
        return String::new();
    }
    format!(
        "\npeak memory {} MiB: {} for the model as loaded, at most {} for the sweep\n",
        peak >> 20,
        model >> 20,
        budget >> 20
    )
}

fn options(arguments: &Arguments) -> Result<LocateOptions> {
    let preset = match arguments.preset {
        Some(Preset::AsPublished) => LocateOptions::as_published(),
        None => LocateOptions::default(),
    };
    if arguments.budget.is_some() && arguments.method != Method::Exact {
        bail!("--budget: --method must be exact, for which sequences are what costs");
    }
    if arguments.memory == 0 {
        bail!("--memory 0: expected at least 1 MiB");
    }
    Ok(LocateOptions {
        mode: arguments.mode.map_or(preset.mode, Into::into),
        ablation: arguments.ablation.map_or(preset.ablation, Into::into),
        metric: arguments.metric.map_or(preset.metric, Into::into),
        rank_by: arguments.rank_by.map_or(preset.rank_by, Into::into),
        method: match arguments.method {
            Method::Attribution => pear_locate::Method::Attribution,
            Method::Exact | Method::Both => pear_locate::Method::Exact,
        },
        layers: arguments.layers,
        memory_budget: (arguments.memory as usize) << 20,
    })
}

/// The number of sequences of each length.
fn samples(arguments: &Arguments) -> Vec<usize> {
    let times = if arguments.budget.is_some() {
        BUDGET_SAMPLES
    } else {
        1
    };
    let default = || SAMPLES.map(|count| count * times).to_vec();
    arguments.samples.clone().unwrap_or_else(default)
}

/// The sequences that the sweep without a budget would run.
fn uniform_share(arguments: &Arguments, batches: &[ProxyBatch]) -> Vec<ProxyBatch> {
    if arguments.samples.is_some() || arguments.proxy_tokens.is_some() {
        return batches.to_vec();
    }
    let share = |batch: &ProxyBatch| batch.slice(0..batch.len() / BUDGET_SAMPLES);
    batches.iter().map(share).collect()
}

/// The sequences, one batch for each length, and where they come from.
fn batches(
    arguments: &Arguments,
    directory: &ModelDirectory,
) -> Result<(Vec<ProxyBatch>, SequenceRecord)> {
    match &arguments.proxy_tokens {
        Some(path) => batches_from_file(path, directory.config()),
        None => drawn_batches(arguments, directory),
    }
}

fn batches_from_file(
    path: &Path,
    config: &DecoderConfig,
) -> Result<(Vec<ProxyBatch>, SequenceRecord)> {
    let tokens = TokenFile::read_proxy(path, config.vocab_size)?;
    tokens.check_lengths(config.max_positions())?;
    let record = tokens.record();
    let mut by_length = BTreeMap::<usize, Vec<Vec<u32>>>::new();
    for row in tokens.rows {
        by_length.entry(row.len()).or_default().push(row);
    }
    let batches = by_length
        .into_values()
        .map(|rows| Ok(ProxyBatch::from_sequences(rows, config.vocab_size)?))
        .collect::<Result<_>>()?;
    Ok((batches, record))
}

/// The lengths, and how many sequences of each.
fn pairs(arguments: &Arguments) -> Result<Vec<(usize, usize)>> {
    let (lengths, samples) = (&arguments.lengths, samples(arguments));
    if lengths.len() != samples.len() {
        bail!(
            "--samples: {} counts for the {} values of --lengths: expected one for each",
            samples.len(),
            lengths.len()
        );
    }
    for (index, &n) in lengths.iter().enumerate() {
        if lengths[..index].contains(&n) {
            bail!("--lengths: {n} is listed twice");
        }
    }
    if samples.contains(&0) {
        bail!("--samples 0: expected at least 1 sequence of each length");
    }
    let pairs = lengths.iter().copied().zip(samples.iter().copied());
    let pairs: Vec<(usize, usize)> = pairs.collect();
    let tokens = pairs
        .iter()
        .map(|&(n, samples)| samples.saturating_mul(2 * n))
        .fold(0, usize::saturating_add);
    if tokens > MAX_TOKENS {
        bail!("--samples: sequences of {tokens} tokens altogether, expected at most {MAX_TOKENS}");
    }
    Ok(pairs)
}

fn drawn_batches(
    arguments: &Arguments,
    directory: &ModelDirectory,
) -> Result<(Vec<ProxyBatch>, SequenceRecord)> {
    let draw = Draw {
        seed: arguments.seed,
        bos: arguments.bos,
        special: arguments.preset.is_some(),
    };
    for &n in &arguments.lengths {
        draw.check_length("--lengths", n, directory)?;
    }
    let batches = proxy_batches(&draw.task(directory)?, &pairs(arguments)?)?;
    Ok((batches, draw.record(directory)))
}
