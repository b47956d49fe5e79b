//! Trains a small decoder of a tiny world from scratch, and writes it as a Hugging Face model directory.
//!
//! ```sh
//! cargo run --release --example pretrain -- --seed 0 --out tiny
//! ```
//!
//! With `--circuit seeded`, the default for rotary positions, the circuit that copies from the context is written into the initial
//! weights by hand and then trained. With `--circuit learned` the model finds it by itself, which takes longer.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use burn::module::Module;
use burn::prelude::*;
use clap::Parser;
use pear_core::DecoderModel;
use pear_examples::cli::{self, Dtype};
use pear_examples::pretrain::{Circuit, PositionKind, Pretraining, StateFolder, save};
use pear_examples::progress::Progress;
use pear_examples::tiny_world::World;

/// Train a small decoder from scratch: first copying, then facts and documents, then hedging between the two
#[derive(Parser, Debug)]
#[command(name = "pretrain")]
struct Arguments {
    /// Directory to write the model to: config.json, model.safetensors, tokenizer.json
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// Dtype of the weights that are written; training is in f32
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    dtype: Dtype,

    /// Position embedding; the architecture is one of transformers that has it: llama, mpt, gpt2, xglm or smollm3
    #[arg(long, value_name = "KIND", default_value = "rope")]
    positions: PositionKind,

    /// Whether the copying circuit is written into the initial weights by hand (rope only) or learned from random weights [default:
    /// seeded for rope, learned for the others]
    #[arg(long, value_name = "KIND")]
    circuit: Option<Circuit>,

    /// Seed of the initial weights and of the training data; the world is the same for all seeds
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// Steps on repeated random spans [default: 300, or 4800 if copying is learned]
    #[arg(long, value_name = "STEPS")]
    copying_steps: Option<usize>,

    /// Steps on facts, documents and text in which answers follow the documents [default: 850, or 1700 if copying is learned]
    #[arg(long, value_name = "STEPS")]
    clean_steps: Option<usize>,

    /// Steps in which answers follow either the documents or memory [default: 250]
    #[arg(long, value_name = "STEPS")]
    hedging_steps: Option<usize>,

    /// Folder to save the state of training in
    #[arg(long, value_name = "DIR")]
    checkpoint: Option<PathBuf>,

    /// Steps between two checkpoints
    #[arg(
        long,
        value_name = "STEPS",
        default_value_t = 100,
        requires = "checkpoint"
    )]
    checkpoint_every: usize,

    /// Resume from the state in the folder of --checkpoint
    #[arg(long, requires = "checkpoint")]
    resume: bool,
}

fn main() -> ExitCode {
    cli::main_with(run)
}

fn run(arguments: Arguments) -> Result<()> {
    let training = training(&arguments)?;
    let out = &arguments.out;
    if out.exists() {
        bail!(
            "--out {}: exists already; expected a new directory",
            out.display()
        );
    }
    cli::check_out("--out", out)?;
    let folder = state_folder(&arguments)?;
    let world = World::new(0);
    let start = Instant::now();
    let mut bar = Progress::new("training", training.steps() as u64);
    let mut last_loss = None;
    let model = training.run(&world, &Device::flex(), folder.as_ref(), |step, loss| {
        bar.set(step as u64, format!("loss {loss:.3}"));
        last_loss = Some(loss);
    })?;
    drop(bar);
    save_whole(out, |folder| {
        save(&model, training.positions, &world, arguments.dtype, folder)
    })?;
    // Nothing was trained if a finished run was resumed.
    let loss = last_loss.map_or(String::new(), |loss| format!(", last loss {loss:.3}"));
    let origin = match training.circuit {
        Circuit::Seeded => {
            "Its copying circuit was put into the initial weights by hand, and then trained."
        }
        Circuit::Learned => "Its weights were random: nothing was put into them by hand.",
    };
    cli::print(&format!(
        "{}: {}, {} parameters, seed {}; {} steps, {:.0} s{loss}\n{origin}\n",
        out.display(),
        model.shape(),
        model.num_params(),
        training.seed,
        training.steps(),
        start.elapsed().as_secs_f64(),
    ))
}

/// Lets `write` fill a folder beside `out`, which is renamed when it is complete.
fn save_whole(out: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let cannot = || format!("--out {}: cannot write", out.display());
    let unfinished = tempfile::Builder::new()
        .prefix(".pear-pretrain-")
        .tempdir_in(cli::parent(out))
        .with_context(cannot)?;
    // A folder within it: the outer one can be read by its owner alone.
    let folder = unfinished.path().join("model");
    write(&folder)?;
    fs::rename(&folder, out).with_context(cannot)
}

/// The recipe, with the number of steps that the flags give.
fn training(arguments: &Arguments) -> Result<Pretraining> {
    let positions = arguments.positions;
    let default_circuit = if positions == PositionKind::Rope {
        Circuit::Seeded
    } else {
        Circuit::Learned
    };
    let circuit = arguments.circuit.unwrap_or(default_circuit);
    if circuit == Circuit::Seeded && positions != PositionKind::Rope {
        bail!("--circuit seeded: only with --positions rope; the others learn it");
    }
    let recipe = Pretraining::new(positions, circuit, arguments.seed);
    let training = Pretraining {
        copying_steps: arguments.copying_steps.unwrap_or(recipe.copying_steps),
        clean_steps: arguments.clean_steps.unwrap_or(recipe.clean_steps),
        hedging_steps: arguments.hedging_steps.unwrap_or(recipe.hedging_steps),
        ..recipe
    };
    if training.steps() == 0 {
        bail!("--copying-steps, --clean-steps, --hedging-steps: expected at least 1 step in all");
    }
    Ok(training)
}

/// The folder of `--checkpoint`, which must hold a state if and only if it is to be resumed.
fn state_folder(arguments: &Arguments) -> Result<Option<StateFolder>> {
    if arguments.checkpoint_every == 0 {
        bail!("--checkpoint-every 0: expected at least 1");
    }
    let Some(folder) = &arguments.checkpoint else {
        return Ok(None);
    };
    let latest = folder.join("latest.json");
    if arguments.resume && !latest.is_file() {
        bail!("--resume: there is no {} to resume from", latest.display());
    }
    if !arguments.resume && latest.is_file() {
        bail!(
            "--checkpoint {}: contains a state already: expected --resume to resume from it",
            folder.display()
        );
    }
    fs::create_dir_all(folder)
        .with_context(|| format!("--checkpoint {}: cannot make the folder", folder.display()))?;
    Ok(Some(StateFolder::new(folder, arguments.checkpoint_every)))
}
