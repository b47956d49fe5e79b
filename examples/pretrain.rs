//! Trains a small decoder in a tiny world from scratch, and writes it as a Hugging Face model directory.
//!
//! ```sh
//! cargo run --release --example pretrain -- --seed 1 --out tiny
//! ```
//!
//! The circuit that copies what stood before is put into the initial weights by hand and then trained: a model of this size does
//! not find it by itself in a few minutes.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};
use burn::module::Module;
use burn::prelude::*;
use clap::Parser;
use pear_core::DecoderModel;
use pear_examples::cli;
use pear_examples::pretrain::{TinyWorldTraining, save, save_tokenizer};
use pear_examples::progress::Progress;
use pear_examples::tiny_world::World;

/// Train a small decoder from scratch: copying, then facts and documents, then hedging between the two
///
/// Its copying circuit is put into the initial weights by hand and then trained.
#[derive(Parser, Debug)]
#[command(name = "pretrain")]
struct Arguments {
    /// Directory to write: config.json, model.safetensors (f32), tokenizer.json
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// Seed of the initial weights and of the training data; the world is the same for all seeds
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// Steps on random spans in a loop
    #[arg(long, value_name = "STEPS", default_value_t = TinyWorldTraining::default().copying_steps)]
    copying_steps: usize,

    /// Steps on facts, documents and text, where answers follow the documents
    #[arg(long, value_name = "STEPS", default_value_t = TinyWorldTraining::default().clean_steps)]
    clean_steps: usize,

    /// Steps where answers follow either the documents or memory
    #[arg(long, value_name = "STEPS", default_value_t = TinyWorldTraining::default().hedging_steps)]
    hedging_steps: usize,
}

fn main() -> ExitCode {
    cli::main_with(run)
}

fn run(arguments: Arguments) -> Result<()> {
    let Arguments { out, seed, copying_steps, clean_steps, hedging_steps } = arguments;
    let training = TinyWorldTraining { copying_steps, clean_steps, hedging_steps, seed };
    if training.steps() == 0 {
        bail!("--copying-steps, --clean-steps, --hedging-steps: expected at least 1 step in all");
    }
    if out.exists() {
        bail!("--out {}: exists already; expected a new directory", out.display());
    }
    let (world, since) = (World::new(0), Instant::now());
    let (mut bar, mut last) = (Progress::new("training", training.steps() as u64), f64::NAN);
    let model = training.run(&world, &Device::flex(), |step, loss| {
        bar.set(step as u64, format!("loss {loss:.3}"));
        last = loss;
    })?;
    drop(bar);
    save(&model, &out)?;
    save_tokenizer(&world, &out)?;
    cli::print(&format!(
        "{}: {}, {} parameters, seed {seed}; {} steps, {:.0} s, last loss {last:.3}\n\
         Its copying circuit was put into the initial weights by hand.\n",
        out.display(),
        model.shape(),
        model.num_params(),
        training.steps(),
        since.elapsed().as_secs_f64()
    ))
}
