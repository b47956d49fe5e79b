//! Finds the attention heads that suppress a model's context.
//!
//! ```sh
//! cargo run --release --example locate -- --model DIR --out scores.json --heatmap heads.svg
//! ```

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Parser, ValueEnum};
use pear_core::files::SequenceRecord;
use pear_core::model::DecoderModel;
use pear_core::proxy::ProxyBatch;
use pear_examples::cli::{self, ModelArgs};
use pear_examples::draw::{check_picture, heat_map, terminal_heat_map};
use pear_examples::progress::Progress;
use pear_examples::proxy::Draw;
use pear_examples::tokens::TokenFile;
use pear_locate::{LocateOptions, Scores, locate, proxy_batches};
use pear_models::ModelDirectory;

/// No more tokens are drawn than this, over all sequences.
const MOST_TOKENS: usize = 50_000_000;

/// Find the attention heads that suppress the context: replace one head's output at a time on random tokens repeated twice, and watch
/// the logit of the right token
#[derive(Parser, Debug)]
#[command(name = "locate", allow_negative_numbers = true)]
struct Arguments {
    #[command(flatten)]
    model: ModelArgs,

    /// Tokens that are repeated, for each group of sequences
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "10,15,25,50")]
    lengths: Vec<usize>,

    /// Sequences of each of the lengths
    #[arg(long, value_name = "COUNT,…", value_delimiter = ',', default_value = "100,80,40,20")]
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

    /// as-published: what the authors' code does; --mode path --ablation batch-mean --metric centred-logit-diff where not given
    /// otherwise, and sequences of any tokens, the special ones too
    #[arg(long, conflicts_with = "bos")]
    preset: Option<Preset>,

    /// Heads to list and to outline [default: 10]
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,

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

fn main() -> ExitCode {
    cli::main_with(run)
}

fn run(arguments: Arguments) -> Result<()> {
    if let Some(out) = &arguments.out {
        cli::check_out("--out", out)?;
    }
    if let Some(heatmap) = &arguments.heatmap {
        check_picture(heatmap)?;
        cli::check_out("--heatmap", heatmap)?;
    }
    let options = options(&arguments)?;
    let directory = arguments.model.open()?;
    let shape = directory.shape();
    let top_k = cli::top_k(arguments.top_k, 10, shape.num_layers * shape.num_heads)?;
    let (batches, sequences) = batches(&arguments, &directory)?;

    let model = arguments.model.load(&directory)?;
    cli::print(&format!("model   {}\nscores  {}, {}, {}\n", model.shape(), options.mode, options.ablation, options.metric))?;
    let mut bar = None;
    let report = locate(&model, &batches, &options, |step| {
        let bar = bar.get_or_insert_with(|| Progress::new("locating", step.total));
        bar.set(step.done, format!("n = {}", step.n));
    })?;
    drop(bar);

    let mut scores = report.scores;
    if let Some(out) = &arguments.out {
        scores.provenance = arguments.model.provenance(&directory, sequences)?;
        scores.write(out)?;
    }
    if let Some(heatmap) = &arguments.heatmap {
        let title = format!("{}: {} by head", shape.architecture, options.metric);
        heat_map(heatmap, &title, &scores.grid(), &scores.top(top_k))?;
    }
    cli::print(&table(&scores, top_k))
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
        seed: arguments.seed,
        memory_budget: (arguments.memory as usize) << 20,
    })
}

/// The sequences, one batch for each length, and what the scores say about them.
fn batches(arguments: &Arguments, directory: &ModelDirectory) -> Result<(Vec<ProxyBatch>, SequenceRecord)> {
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
        return Ok((by_length.into_values().map(batch).collect::<Result<_>>()?, record));
    }
    let (lengths, samples) = (&arguments.lengths, &arguments.samples);
    if lengths.len() != samples.len() {
        let (lengths, samples) = (lengths.len(), samples.len());
        bail!("--samples: {samples} counts for the {lengths} values of --lengths: expected one for each");
    }
    let draw = Draw { seed: arguments.seed, bos: arguments.bos, special: arguments.preset.is_some() };
    for (index, &n) in lengths.iter().enumerate() {
        draw.check_length("--lengths", n, directory)?;
        if lengths[..index].contains(&n) {
            bail!("--lengths: {n} is listed twice");
        }
    }
    if samples.contains(&0) {
        bail!("--samples 0: expected at least 1 sequence of each length");
    }
    let tokens = lengths.iter().zip(samples).map(|(n, &samples)| samples.saturating_mul(2 * n));
    let tokens = tokens.fold(0, usize::saturating_add);
    if tokens > MOST_TOKENS {
        bail!("--samples: sequences of {tokens} tokens altogether, expected at most {MOST_TOKENS}");
    }
    let pairs: Vec<(usize, usize)> = lengths.iter().copied().zip(samples.iter().copied()).collect();
    Ok((proxy_batches(&draw.task(directory)?, &pairs)?, draw.record(directory)))
}

fn table(scores: &Scores, top_k: usize) -> String {
    let mut text = String::from("\n     n  samples  accuracy  base logit\n");
    for length in &scores.by_length {
        let (n, samples, accuracy) = (length.n, length.samples, 100.0 * length.accuracy);
        let _ = writeln!(text, "{n:>6}  {samples:>7}  {accuracy:>6.1} %  {:>10.4}", length.base_logit);
    }
    text += "\nrank  head     score\n";
    for (rank, scored) in (1..).zip(&scores.heads()[..top_k]) {
        let _ = writeln!(text, "{rank:>4}  {:<6} {:>+9.5}", scored.head.to_string(), scored.score);
    }
    text.push('\n');
    text += &terminal_heat_map(&scores.grid(), &scores.top(top_k));
    text
}
