//! Trains a small decoder in a tiny world from scratch, and writes it as a Hugging Face model directory.
//!
//! ```sh
//! cargo run --release --example pretrain -- --seed 0 --out tiny
//! ```
//!
//! With `--circuit seeded`, the default where positions are rotary, the circuit that copies what stood before is put into the initial
//! weights by hand and then trained; with `--circuit learned` the model finds it by itself, which takes longer.

use std::path::PathBuf;
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

/// Train a small decoder from scratch: copying, then facts and documents, then hedging between the two
#[derive(Parser, Debug)]
#[command(name = "pretrain")]
struct Arguments {
    /// Directory to write: config.json, model.safetensors, tokenizer.json
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// Type of the weights that are written; training is in f32
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    dtype: Dtype,

    /// What tells the model where a token stands; the architecture is one that transformers has it in: llama, mpt, gpt2, xglm, smollm3
    #[arg(long, value_name = "KIND", default_value = "rope")]
    positions: PositionKind,

    /// Whether the circuit that copies is put into the initial weights by hand, for rotary positions, or learned from random weights
    /// [default: seeded for rope, learned for the others]
    #[arg(long, value_name = "KIND")]
    circuit: Option<Circuit>,

    /// Seed of the initial weights and of the training data; the world is the same for all seeds
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// Steps on random spans in a loop [default: 300, or 4800 where copying is learned]
    #[arg(long, value_name = "STEPS")]
    copying_steps: Option<usize>,

    /// Steps on facts, documents and text, where answers follow the documents [default: 850, or 1700 where copying is learned]
    #[arg(long, value_name = "STEPS")]
    clean_steps: Option<usize>,

    /// Steps where answers follow either the documents or memory [default: 250]
    #[arg(long, value_name = "STEPS")]
    hedging_steps: Option<usize>,

    /// Folder that the state of the training is saved in now and then
    #[arg(long, value_name = "DIR")]
    checkpoint: Option<PathBuf>,

    /// Steps between two savings
    #[arg(
        long,
        value_name = "STEPS",
        default_value_t = 100,
        requires = "checkpoint"
    )]
    checkpoint_every: usize,

    /// Go on from the state in the folder of --checkpoint
    #[arg(long, requires = "checkpoint")]
    resume: bool,
}

fn main() -> ExitCode {
    cli::main_with(run)
}

fn run(arguments: Arguments) -> Result<()> {
    let Arguments {
        out,
        dtype,
        positions,
        seed,
        checkpoint,
        checkpoint_every,
        resume,
        ..
    } = arguments;
    let circuit = arguments
        .circuit
        .unwrap_or(if positions == PositionKind::Rope {
            Circuit::Seeded
        } else {
            Circuit::Learned
        });
    if circuit == Circuit::Seeded && positions != PositionKind::Rope {
        bail!("--circuit seeded: only with --positions rope; the others learn it");
    }
    let recipe = Pretraining::new(positions, circuit, seed);
    let training = Pretraining {
        copying_steps: arguments.copying_steps.unwrap_or(recipe.copying_steps),
        clean_steps: arguments.clean_steps.unwrap_or(recipe.clean_steps),
        hedging_steps: arguments.hedging_steps.unwrap_or(recipe.hedging_steps),
        ..recipe
    };
    if training.steps() == 0 {
        bail!("--copying-steps, --clean-steps, --hedging-steps: expected at least 1 step in all");
    }
    if out.exists() {
        bail!(
            "--out {}: exists already; expected a new directory",
            out.display()
        );
    }
    if checkpoint_every == 0 {
        bail!("--checkpoint-every 0: expected at least 1");
    }
    if let Some(folder) = &checkpoint {
        let begun = folder.join("latest.json").is_file();
        match resume {
            true if !begun => bail!(
                "--resume: there is no {} to go on from",
                folder.join("latest.json").display()
            ),
            false if begun => bail!(
                "--checkpoint {}: holds a state already; --resume goes on from it",
                folder.display()
            ),
            _ => std::fs::create_dir_all(folder)
                .with_context(|| format!("--checkpoint {}: cannot make it", folder.display()))?,
        }
    }
    let folder = checkpoint.map(|folder| StateFolder::new(&folder, checkpoint_every));
    let (world, since) = (World::new(0), Instant::now());
    let (mut bar, mut last) = (Progress::new("training", training.steps() as u64), f64::NAN);
    let model = training.run(&world, &Device::flex(), folder.as_ref(), |step, loss| {
        bar.set(step as u64, format!("loss {loss:.3}"));
        last = loss;
    })?;
    drop(bar);
    save(&model, positions, &world, dtype, &out)?;
    cli::print(&format!(
        "{}: {}, {} parameters, seed {seed}; {} steps, {:.0} s{}\n{}\n",
        out.display(),
        model.shape(),
        model.num_params(),
        training.steps(),
        since.elapsed().as_secs_f64(),
        // There is none where a finished training was gone on with.
        if last.is_finite() {
            format!(", last loss {last:.3}")
        } else {
            String::new()
        },
        match circuit {
            Circuit::Seeded =>
                "Its copying circuit was put into the initial weights by hand, and then trained.",
            Circuit::Learned => "Its weights were random: nothing was put into them by hand.",
        },
    ))
}
