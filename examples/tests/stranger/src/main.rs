//! A program of someone who has read the README and nothing else: an error type, a worker thread, a model and a training loop of its own.
//!
//! `stranger FOLDER` works in that folder, and fails where a step does not do what the documentation says.

mod own_model;
mod worker;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pear_core::burn::prelude::*;
use pear_core::burn::tensor::DType;
use pear_core::{DecoderModel, HeadCoefficients, ProxyTask};
use pear_models::tiny::Tiny;
use pear_models::{Decoder, GenerateOptions, ModelDirectory, Tokenizer, generate, log_probs};

use crate::worker::{Failure, Worker};

fn main() -> Result<(), Failure> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from);
    let folder = folder.ok_or("usage: stranger FOLDER")?;
    checkpoint_to_checkpoint(&folder)?;
    own_model::locate_and_train()?;
    println!("all steps passed");
    Ok(())
}

/// Loads a model, lets a worker thread locate and train, folds the coefficients into a new checkpoint and generates with it.
fn checkpoint_to_checkpoint(folder: &Path) -> Result<(), Failure> {
    Tiny::Rope.write(&folder.join("tiny"))?;
    let directory = ModelDirectory::open(&folder.join("tiny"))?;
    let device = Device::default();
    let model = Arc::new(directory.load(&device, DType::F32)?);
    let task = ProxyTask::new(model.vocab_size(), &directory.special_tokens()?, 0)?;

    let worker = Worker::new(model.clone(), task);
    let thread = std::thread::spawn(move || worker.run());
    let trainer = thread.join().map_err(|_| "the worker panicked")??;

    let profile_path = folder.join("profile.json");
    trainer.profile()?.write(&profile_path)?;
    let profile = pear_core::Profile::read(&profile_path)?;
    let coefficients = profile.for_model(&model.shape(), &device)?;
    println!("learned {:?}", coefficients.values());

    directory.export(&profile, &folder.join("folded"))?;
    let exported = ModelDirectory::open(&folder.join("folded"))?.load(&device, DType::F32)?;
    compare(&model, &exported, &coefficients, &folder.join("folded"))
}

/// Re-weighting, folding in memory and the exported checkpoint are the same model.
fn compare(
    model: &Decoder,
    exported: &Decoder,
    coefficients: &HeadCoefficients,
    directory: &Path,
) -> Result<(), Failure> {
    let reweighted = model.clone().with_coefficients(coefficients)?;
    let folded = reweighted.clone().fold();
    let tokenizer = Tokenizer::open(directory)?;
    let prompt =
        tokenizer.encode("doc the colour of Alice is red . question the colour of Alice ?")?;

    let options = GenerateOptions {
        max_new_tokens: 8,
        ..GenerateOptions::default()
    };
    let continue_with = |model: &Decoder| generate(model, &prompt, &options);
    let tokens = continue_with(&reweighted)?;
    println!("generated: {}", tokenizer.decode(&tokens)?);
    if tokens != continue_with(&folded)? {
        return Err("folding changed what is generated".into());
    }

    let difference = |a: &Decoder, b: &Decoder| -> Result<f64, Failure> {
        let (a, b) = (log_probs(a, &prompt)?, log_probs(b, &prompt)?);
        Ok(a.iter()
            .zip(&b)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f64::max))
    };
    // The exported weights are rounded to the checkpoint's bf16.
    if difference(&reweighted, exported)? > 0.1 {
        return Err("the exported checkpoint is another model".into());
    }
    if difference(model, exported)? == 0.0 {
        return Err("the coefficients are not in the exported checkpoint".into());
    }
    Ok(())
}
