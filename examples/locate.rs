//! Finds the attention heads that suppress a model's context.
//!
//! ```sh
//! cargo run --release --example locate -- --model DIR --out scores.json --heatmap heads.svg
//! ```

use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use burn::tensor::DType;
use clap::{Parser, ValueEnum};
use pear_core::files::SequenceRecord;
use pear_core::model::DecoderModel;
use pear_core::proxy::ProxyBatch;
use pear_core::{HeadId, LayerRange};
use pear_examples::cli::{self, ModelArgs, TopK, half_of, name_of};
use pear_examples::device::DeviceName;
use pear_examples::draw::{check_picture, heat_map, terminal_heat_map};
use pear_examples::memory::{peak_memory, reset_peak_memory};
use pear_examples::partial::{PartialFile, Run};
use pear_examples::progress::Progress as ProgressBar;
use pear_examples::proxy::Draw;
use pear_examples::tokens::TokenFile;
use pear_locate::{
    Event, LengthReport, LocateOptions, Locator, Overlap, Report, Rounding, Scores, Stability,
    proxy_batches, rank_correlation, stability,
};
use pear_models::{Decoder, ModelDirectory};

/// No more tokens are drawn than this, over all sequences.
const MOST_TOKENS: usize = 50_000_000;

/// What the help says below the flags.
const MERGING: &str = "Large models can be located in parts, on several machines or one after the other: run with --layers 0-15, with \
    --layers 16-31 and so on, then join the parts with\n  locate --merge PART.json PART.json … --out FILE [--top-k K] [--heatmap FILE]";

/// Find the attention heads that suppress the context: replace one head's output at a time on random tokens repeated twice, and watch
/// the logit of the right token
#[derive(Parser, Debug)]
#[command(name = "locate", allow_negative_numbers = true, after_help = MERGING)]
struct Arguments {
    #[command(flatten)]
    model: ModelArgs,

    /// Tokens that are repeated, for each group of sequences
    #[arg(
        long,
        value_name = "N,…",
        value_delimiter = ',',
        default_value = "10,15,25,50"
    )]
    lengths: Vec<usize>,

    /// Sequences of each of the lengths
    #[arg(
        long,
        value_name = "COUNT,…",
        value_delimiter = ',',
        default_value = "100,80,40,20"
    )]
    samples: Vec<usize>,

    /// Seed of the sequences
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// Take the sequences from a file instead: JSON lines, each an array of 2n token ids, both halves the same
    #[arg(long, value_name = "FILE", conflicts_with_all = ["lengths", "samples", "bos"])]
    proxy_tokens: Option<PathBuf>,

    /// Put the model's BOS before each sequence
    #[arg(long)]
    bos: bool,

    /// What reacts to the replacement [default: activation]
    #[arg(long)]
    mode: Option<Mode>,

    /// What a head is replaced by [default: sequence-mean]
    #[arg(long)]
    ablation: Option<Ablation>,

    /// How the runs are compared [default: logit-ratio]
    #[arg(long)]
    metric: Option<Metric>,

    /// How effects are found: by replacing each head, estimated from one gradient for all of them, or both, which tells how well the
    /// estimate ranks heads; the scores are then exact
    #[arg(long, default_value = "exact")]
    method: Method,

    /// as-published: what the authors' code does; --mode path --ablation batch-mean --metric centred-logit-diff where not given
    /// otherwise, and sequences of any tokens, the special ones too
    #[arg(long, conflicts_with = "bos")]
    preset: Option<Preset>,

    /// Score only the heads of these layers, counted from 0; the scores say so, and are to be joined with others (see below)
    #[arg(long, value_name = "FIRST-LAST")]
    layers: Option<LayerRange>,

    /// Share the sequences with these devices as well, each with its own copy of the model
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    also_device: Vec<DeviceName>,

    /// Go on from where an earlier run of the same command was interrupted, but for the sequences of the length it was at
    #[arg(long, requires = "out")]
    resume: bool,

    /// Heads to list and to outline; auto: those whose score is above zero at 5 %, one-sided and corrected for the number of heads,
    /// at most 40 [default: 10]
    #[arg(long, value_name = "K|all|auto")]
    top_k: Option<TopK>,

    /// Locate a second time with the other --mode, to see how many of the heads both find
    #[arg(long)]
    compare_modes: bool,

    /// Locate a second time with the weights in bf16 (in f32 where --dtype is bf16 or f16), to see what rounding changes
    #[arg(long)]
    compare_dtypes: bool,

    /// Draw the scores of all heads; .svg or .png
    #[arg(long, value_name = "FILE")]
    heatmap: Option<PathBuf>,

    /// Memory besides the model, in MiB: less is slower, never different
    #[arg(long, value_name = "MIB", default_value_t = (LocateOptions::DEFAULT_MEMORY_BUDGET >> 20) as u32)]
    memory: u32,

    /// Where the scores go
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

/// The choices of the library, as values of flags.
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
}

/// Join scores of different layers of a model
#[derive(Parser, Debug)]
#[command(name = "locate --merge", allow_negative_numbers = true)]
struct MergeArguments {
    /// The scores of all parts
    #[arg(long, value_name = "PART", num_args = 1.., required = true)]
    merge: Vec<PathBuf>,

    /// Heads to list and to outline, as without --merge
    #[arg(long, value_name = "K|all|auto")]
    top_k: Option<TopK>,

    /// Draw the scores of all heads; .svg or .png
    #[arg(long, value_name = "FILE")]
    heatmap: Option<PathBuf>,

    /// Where the scores go
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

fn main() -> ExitCode {
    // A merge has no model.
    match std::env::args().any(|argument| argument == "--merge" || argument.starts_with("--merge="))
    {
        true => cli::main_with(merge),
        false => cli::main_with(run),
    }
}

fn merge(arguments: MergeArguments) -> Result<()> {
    check_outputs(&arguments.out, &arguments.heatmap)?;
    let scores = Scores::merge(&arguments.merge)?;
    let heads = TopK::checked(arguments.top_k, 10, scores.heads().len())?.of(&scores)?;
    finish(&scores, &heads, &arguments.out, &arguments.heatmap)
}

fn check_outputs(out: &Option<PathBuf>, heatmap: &Option<PathBuf>) -> Result<()> {
    if let Some(out) = out {
        cli::check_out("--out", out)?;
    }
    if let Some(heatmap) = heatmap {
        check_picture(heatmap)?;
        cli::check_out("--heatmap", heatmap)?;
    }
    Ok(())
}

/// Writes, draws and prints.
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
        cli::warn(&format!("no head stands out of the noise: {}", TopK::RULE));
    }
    cli::print(&table(scores, heads))
}

fn run(arguments: Arguments) -> Result<()> {
    check_outputs(&arguments.out, &arguments.heatmap)?;
    let options = options(&arguments)?;
    let directory = arguments.model.open()?;
    let shape = directory.shape();
    if let Some(layers) = options
        .layers
        .filter(|layers| layers.last >= shape.num_layers)
    {
        bail!("--layers {layers}: the model is {shape}, counted from 0");
    }
    let layers = options
        .layers
        .map_or(shape.num_layers, |layers| layers.iter().count());
    let top_k = TopK::checked(arguments.top_k, 10, layers * shape.num_heads)?;
    let (batches, sequences) = batches(&arguments, &directory)?;

    let partial = match &arguments.out {
        Some(out) => {
            let provenance = arguments.model.provenance(&directory, sequences)?;
            Some((
                PartialFile::beside(
                    out,
                    Run::new(shape.clone(), &options, &batches, provenance.clone()),
                ),
                provenance,
            ))
        }
        None => None,
    };
    let finished = match &partial {
        Some((file, _)) if arguments.resume => file.read()?,
        _ => Vec::new(),
    };

    let model = arguments.model.load(&directory)?;
    let load = |name: &DeviceName| arguments.model.load_on(&directory, name);
    let copies = arguments
        .also_device
        .iter()
        .map(load)
        .collect::<Result<Vec<Decoder>>>()?;
    let weights = peak_memory();
    reset_peak_memory();
    cli::print(&format!(
        "model   {}\nscores  {}, {}, {}\n",
        model.shape(),
        options.mode,
        options.ablation,
        options.metric
    ))?;
    let keep = |finished: &[LengthReport]| match &partial {
        Some((file, _)) if finished.len() < batches.len() => Ok(file.write(finished)?),
        _ => Ok(()),
    };
    let report = observed(
        "locating",
        &Locator::new(&model, options.clone())
            .with_copies(&copies)
            .with_finished(finished),
        &batches,
        keep,
    )?;
    let heads = top_k.of(&report.scores)?;
    let mut stability = stability(&report, heads.len());
    if arguments.method == Method::Both {
        let options = LocateOptions {
            method: pear_locate::Method::Attribution,
            ..options.clone()
        };
        let estimated = observed(
            "estimating",
            &Locator::new(&model, options.clone()),
            &batches,
            |_| Ok(()),
        )?
        .scores;
        stability.attribution_rank_correlation = rank_correlation(&report.scores, &estimated);
        stability.overlaps.push(Overlap::of(
            ["exact", "attribution"],
            &heads,
            &estimated.top(heads.len()),
        ));
    }
    if arguments.compare_modes {
        let options = LocateOptions {
            mode: other(options.mode),
            ..options.clone()
        };
        let again = observed(
            "other mode",
            &Locator::new(&model, options.clone()),
            &batches,
            |_| Ok(()),
        )?;
        let modes = [report.scores.settings.mode, options.mode].map(|mode| mode.to_string());
        stability
            .overlaps
            .push(Overlap::of(modes, &heads, &again.scores.top(heads.len())));
    }
    // No more memory is taken than before.
    drop((model, copies));
    if arguments.compare_dtypes {
        compare_dtypes(
            &arguments,
            &directory,
            &batches,
            &options,
            &report.scores,
            &mut stability,
        )?;
    }
    if stability.gap.is_some_and(|gap| gap.is_noise()) {
        cli::warn(&format!(
            "whether head {} or the next one down is better cannot be told: their scores differ by less than the standard error",
            heads.len()
        ));
    }

    let mut scores = report.scores;
    scores.stability = Some(stability);
    let Some((partial, provenance)) = partial else {
        finish(&scores, &heads, &None, &arguments.heatmap)?;
        return cli::print(&memory(weights, options.memory_budget));
    };
    scores.provenance = provenance;
    finish(&scores, &heads, &arguments.out, &arguments.heatmap)?;
    partial.remove()?;
    cli::print(&memory(weights, options.memory_budget))
}

/// What was taken beside what was to be expected; nothing where the system does not tell.
fn memory(weights: u64, budget: usize) -> String {
    match peak_memory() {
        0 => String::new(),
        peak => format!(
            "\npeak memory {} MiB: {} for the model as loaded, at most {} for the sweep\n",
            peak >> 20,
            weights >> 20,
            budget >> 20
        ),
    }
}

/// Runs a locator with a progress bar; `keep` is handed the lengths finished so far whenever there is one more.
fn observed(
    what: &'static str,
    locator: &Locator<&Decoder>,
    batches: &[ProxyBatch],
    mut keep: impl FnMut(&[LengthReport]) -> Result<()>,
) -> Result<Report> {
    let mut bar = None;
    let outcome = locator.run_with(batches, |event| -> Result<ControlFlow<()>> {
        match event {
            Event::Layer(progress) => bar
                .get_or_insert_with(|| ProgressBar::new(what, progress.total))
                .set(progress.done, format!("n = {}", progress.n)),
            Event::LengthFinished(finished) => keep(finished)?,
            _ => {}
        }
        Ok(ControlFlow::Continue(()))
    })?;
    outcome.finished().context("locating was cancelled")
}

fn other(mode: pear_locate::Mode) -> pear_locate::Mode {
    match mode {
        pear_locate::Mode::Activation => pear_locate::Mode::Path,
        pear_locate::Mode::Path => pear_locate::Mode::Activation,
    }
}

/// The same with the model run in bf16, or in f32 where it ran in half precision.
fn compare_dtypes(
    arguments: &Arguments,
    directory: &ModelDirectory,
    batches: &[ProxyBatch],
    options: &LocateOptions,
    scores: &Scores,
    stability: &mut Stability,
) -> Result<()> {
    let (device, dtype) = (arguments.model.device.open()?, arguments.model.dtype()?);
    let other = if dtype == DType::F32 {
        half_of(&device)
    } else {
        Some(DType::F32)
    };
    let other = other.with_context(|| {
        format!(
            "--compare-dtypes: --device {} computes in f32 alone",
            arguments.model.device
        )
    })?;
    let model = directory.load(&device, other)?;
    let again = observed(
        "other dtype",
        &Locator::new(&model, options.clone()),
        batches,
        |_| Ok(()),
    )?
    .scores;
    let [here, there] = [dtype, other].map(name_of);
    let k = stability.top_k;
    stability
        .overlaps
        .push(Overlap::of([&here, &there], &scores.top(k), &again.top(k)));
    stability.rounding = Rounding::between(there, scores, &again);
    Ok(())
}

fn options(arguments: &Arguments) -> Result<LocateOptions> {
    let preset = match arguments.preset {
        Some(Preset::AsPublished) => LocateOptions::as_published(),
        None => LocateOptions::default(),
    };
    if arguments.memory == 0 {
        bail!("--memory 0: expected at least 1 MiB");
    }
    Ok(LocateOptions {
        mode: arguments.mode.map_or(preset.mode, Into::into),
        ablation: arguments.ablation.map_or(preset.ablation, Into::into),
        metric: arguments.metric.map_or(preset.metric, Into::into),
        method: match arguments.method {
            Method::Attribution => pear_locate::Method::Attribution,
            Method::Exact | Method::Both => pear_locate::Method::Exact,
        },
        layers: arguments.layers,
        memory_budget: (arguments.memory as usize) << 20,
    })
}

/// The sequences, one batch for each length, and what the scores say about them.
fn batches(
    arguments: &Arguments,
    directory: &ModelDirectory,
) -> Result<(Vec<ProxyBatch>, SequenceRecord)> {
    let config = directory.config();
    if let Some(path) = &arguments.proxy_tokens {
        let tokens = TokenFile::read_proxy(path, config.vocab_size)?;
        tokens.check_lengths(config.attention.position_embedding.max_positions())?;
        let record = tokens.record();
        let mut by_length = BTreeMap::<usize, Vec<Vec<u32>>>::new();
        for row in tokens.rows {
            by_length.entry(row.len()).or_default().push(row);
        }
        let batch = |rows| Ok(ProxyBatch::from_sequences(rows, config.vocab_size)?);
        return Ok((
            by_length.into_values().map(batch).collect::<Result<_>>()?,
            record,
        ));
    }
    let (lengths, samples) = (&arguments.lengths, &arguments.samples);
    if lengths.len() != samples.len() {
        let (lengths, samples) = (lengths.len(), samples.len());
        bail!(
            "--samples: {samples} counts for the {lengths} values of --lengths: expected one for each"
        );
    }
    let draw = Draw {
        seed: arguments.seed,
        bos: arguments.bos,
        special: arguments.preset.is_some(),
    };
    for (index, &n) in lengths.iter().enumerate() {
        draw.check_length("--lengths", n, directory)?;
        if lengths[..index].contains(&n) {
            bail!("--lengths: {n} is listed twice");
        }
    }
    if samples.contains(&0) {
        bail!("--samples 0: expected at least 1 sequence of each length");
    }
    let tokens = lengths
        .iter()
        .zip(samples)
        .map(|(n, &samples)| samples.saturating_mul(2 * n));
    let tokens = tokens.fold(0, usize::saturating_add);
    if tokens > MOST_TOKENS {
        bail!("--samples: sequences of {tokens} tokens altogether, expected at most {MOST_TOKENS}");
    }
    let pairs: Vec<(usize, usize)> = lengths
        .iter()
        .copied()
        .zip(samples.iter().copied())
        .collect();
    Ok((
        proxy_batches(&draw.task(directory)?, &pairs)?,
        draw.record(directory),
    ))
}

fn table(scores: &Scores, heads: &[HeadId]) -> String {
    let mut text = String::from("\n     n  samples  accuracy  base logit\n");
    for length in &scores.by_length {
        let (n, samples, accuracy) = (length.n, length.samples, 100.0 * length.accuracy);
        let _ = writeln!(
            text,
            "{n:>6}  {samples:>7}  {accuracy:>6.1} %  {:>10.4}",
            length.base_logit
        );
    }
    text += "\nrank  head     score  std. error\n";
    for (rank, scored) in (1..).zip(&scores.heads()[..heads.len()]) {
        let error = scored
            .standard_error
            .map_or(String::new(), |error| format!("{error:>11.5}"));
        let _ = writeln!(
            text,
            "{}",
            format!(
                "{rank:>4}  {:<6} {:>+9.5} {error}",
                scored.head.to_string(),
                scored.score
            )
            .trim_end()
        );
    }
    if let Some(stability) = &scores.stability {
        text += &trust(stability);
    }
    text.push('\n');
    text += &terminal_heat_map(&scores.grid(), heads);
    text
}

/// How far the scores can be trusted.
fn trust(stability: &Stability) -> String {
    let k = stability.top_k;
    let mut text = format!("\nof the best {k} heads, found alike by\n");
    for Overlap {
        between: [a, b],
        share,
    } in &stability.overlaps
    {
        let _ = writeln!(text, "{:>6.0} %  {a}, {b}", 100.0 * share);
    }
    if let Some(gap) = stability.gap {
        let _ = writeln!(
            text,
            "head {k} is {:.5} ahead of the next, standard error {:.5}",
            gap.difference, gap.standard_error
        );
    }
    if let Some(correlation) = stability.attribution_rank_correlation {
        let _ = writeln!(
            text,
            "attribution patching ranks all heads with a correlation of {correlation:.3} (Spearman)"
        );
    }
    if let Some(rounding) = &stability.rounding {
        let Rounding {
            dtype,
            largest,
            typical,
        } = rounding;
        let _ = writeln!(
            text,
            "in {dtype} scores differ by {typical:.5} (median), {largest:.5} at most"
        );
    }
    text
}
