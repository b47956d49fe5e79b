//! The whole of PEAR in about a minute, on a model that is trained on the spot: nothing to download, no flags needed.
//!
//! ```sh
//! cargo run --release --example quickstart
//! ```
//!
//! Each number that it prints was computed in that run. The files go to `target/quickstart/`.

use std::fmt::Write;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use burn::module::Module;
use burn::prelude::*;
use burn::tensor::DType;
use clap::Parser;
use pear_core::{DecoderModel, HeadCoefficients, HeadId, NoEdit, Profile, ProxyTask, Scores, forward};
use pear_examples::cli;
use pear_examples::draw::{Curve, curves, heat_map, terminal_heat_map};
use pear_examples::pretrain::{Pretraining, save, tiny_llama};
use pear_examples::progress::Progress;
use pear_locate::{LocateOptions, locate, proxy_batches};
use pear_models::{Decoder, ModelDirectory, log_probs};
use pear_train::{ProxyMetrics, Sequences, TrainOptions, Trainer, evaluate};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Where all files go.
const FOLDER: &str = "target/quickstart";
/// Lengths n of the sequences that heads are located on, and how many there are of each.
const LENGTHS: [(usize, usize); 3] = [(10, 100), (15, 80), (25, 40)];
/// Lengths that are measured; the last is beyond what the model was trained on.
const MEASURED: [usize; 3] = [10, 25, 50];
/// Held-out sequences of each.
const HELD_OUT: usize = 100;
/// Where the model copies: layer 0 only tells each token what stood before it.
const COPYING_LAYER: usize = 1;
/// What the outputs of the two heads that are turned are multiplied by.
const TURNED: f32 = -0.3;
/// Draws of random heads that PEAR's are compared with.
const RANDOM_DRAWS: usize = 3;

/// Train a tiny model, locate its suppression heads, learn their coefficients, measure, and fold them into the weights
#[derive(Parser, Debug)]
#[command(name = "quickstart")]
struct Arguments {
    /// Heads that get a coefficient
    #[arg(long, value_name = "K", default_value_t = 3)]
    top_k: usize,

    /// Steps that the model itself is trained for
    #[arg(long, value_name = "STEPS", default_value_t = Pretraining::default().steps)]
    pretraining_steps: usize,

    /// Seed of the model and of all sequences
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

fn main() -> ExitCode {
    cli::main_with(run)
}

fn run(arguments: Arguments) -> Result<()> {
    let Arguments { top_k, pretraining_steps, seed } = arguments;
    let start = Instant::now();
    let device = Device::flex();
    let folder = Path::new(FOLDER);
    fs::create_dir_all(folder).with_context(|| format!("{FOLDER}: cannot write"))?;
    let heads = tiny_llama().shape().heads().count();
    if pretraining_steps == 0 {
        bail!("--pretraining-steps 0: expected at least 1");
    }
    if !(1..=heads / 2).contains(&top_k) {
        bail!("--top-k {top_k}: expected 1 to {}, half of the heads there are", heads / 2);
    }

    say("PEAR: find the heads that suppress the context, learn one number for each, fold the numbers into the weights.\n")?;
    let recipe = Pretraining { steps: pretraining_steps, seed, ..Pretraining::default() };
    let subject = make_model(&recipe, &device, &folder.join("model"))?;
    let directory = ModelDirectory::open(&folder.join("model"))?;
    let model = directory.load(&device, DType::F32)?;
    // Sequences to locate on, to learn from and to measure on come from seeds of their own.
    let special = directory.special_tokens()?;
    let task = |stage: u64| ProxyTask::new(model.vocab_size(), &special, 3 * seed + stage);

    let scores = locate_heads(&model, &subject.turned, &task(0)?, top_k, folder)?;
    let chosen = scores.top(top_k);
    let profile = learn(&model, &chosen, &task(1)?, folder)?;
    let coefficients = profile.for_model(&model.shape(), &device)?;
    compare(&model, &subject.as_trained, &coefficients, &random_heads(&scores, top_k, seed), &task(1)?, &task(2)?)?;
    fold(&directory, &model, &coefficients, &task(2)?, &folder.join("folded"))?;
    list_files(folder)?;
    say(&format!("\nDone in {:.0} s.\n", start.elapsed().as_secs_f64()))
}

/// 1. A model small enough to be trained here and now, with something to find: two of its heads are turned against copying.
struct Subject {
    as_trained: Decoder,
    turned: Vec<HeadId>,
}

/// Trains it and writes it as a Hugging Face model directory.
fn make_model(recipe: &Pretraining, device: &Device, directory: &Path) -> Result<Subject> {
    let (since, mut losses) = (Instant::now(), Vec::new());
    let mut bar = Progress::new("training the model", recipe.steps as u64);
    let as_trained = recipe.run(&tiny_llama(), device, |step, loss| {
        bar.set(step as u64, format!("loss {loss:.2}"));
        losses.push(loss);
    })?;
    drop(bar);
    let seconds = since.elapsed().as_secs_f64();

    let (shape, config) = (as_trained.shape(), as_trained.config());
    let task = ProxyTask::new(config.vocab_size, &config.special_tokens, recipe.seed)?;
    let scores = locate(&as_trained, &proxy_batches(&task, &LENGTHS)?, &LocateOptions::default(), |_| {})?.scores;
    // Lowest scores: the heads that the right token owes most to.
    let copying = scores.heads().iter().rev().map(|scored| scored.head).filter(|head| head.layer == COPYING_LAYER);
    let turned: Vec<HeadId> = copying.take(2).collect();
    let factors: Vec<_> = turned.iter().map(|&head| (head, TURNED)).collect();
    let model = as_trained.clone().with_coefficients(&HeadCoefficients::new(&factors, shape.num_heads, device)?)?.fold();
    save(&model, directory)?;

    let (first, last) = (losses[0], losses[losses.len() - 1]);
    say(&format!(
        "\n1  A model: {shape}, {} parameters, trained just now on random tokens in a loop: {} steps, {seconds:.0} s\n   \
         Loss {first:.2} → {last:.2}. Its copying circuit is seeded by hand at initialisation and then trained.\n   \
         So that there is something to find, two of the heads it copies with are then turned against copying by hand:\n   \
         the output of {} now counts {TURNED} times. PEAR is not told.\n",
        model.num_params(),
        recipe.steps,
        join(turned.iter().map(HeadId::to_string), " and "),
    ))?;
    Ok(Subject { as_trained, turned })
}

/// 2. Each head replaced once by the mean of its own output.
fn locate_heads(model: &Decoder, turned: &[HeadId], task: &ProxyTask, top_k: usize, folder: &Path) -> Result<Scores> {
    let since = Instant::now();
    let report = locate(model, &proxy_batches(task, &LENGTHS)?, &LocateOptions::default(), |_| {})?;
    let (scores, seconds) = (report.scores, since.elapsed().as_secs_f64());
    let top = scores.top(top_k);
    scores.write(&folder.join("scores.json"))?;
    heat_map(&folder.join("heads.svg"), "How much better without each head", &scores.grid(), &top)?;
    let best = scores.heads().iter().take(5.max(top_k)).map(|h| format!("{} {:+.1} %", h.head, 100.0 * h.score));
    let rank = |head: &HeadId| scores.heads().iter().take_while(|scored| scored.head != *head).count() + 1;
    say(&format!(
        "\n2  Locating: n random tokens, then the same again (n = {}); one head at a time replaced by its mean; {seconds:.1} s\n   \
         Score: how much the logit of the right token rises. Highest, as layer.head: {}\n   \
         The turned heads {} have ranks {} of {}.\n\n{}",
        join(LENGTHS.map(|(n, _)| n.to_string()), ", "),
        join(best, ", "),
        join(turned.iter().map(HeadId::to_string), " and "),
        join(turned.iter().map(|head| rank(head).to_string()), " and "),
        scores.heads().len(),
        terminal_heat_map(&scores.grid(), &top),
    ))?;
    Ok(scores)
}

/// 3. One coefficient for each chosen head, from random tokens alone.
fn learn(model: &Decoder, heads: &[HeadId], task: &ProxyTask, folder: &Path) -> Result<Profile> {
    let since = Instant::now();
    let (profile, history) = train(model, heads, task, "learning coefficients")?;
    let seconds = since.elapsed().as_secs_f64();
    profile.write(&folder.join("profile.json"))?;
    let losses = profile.training.as_ref().map(|t| t.loss.clone()).unwrap_or_default();
    let lines = profile.coefficients.iter().enumerate().map(|(i, c)| {
        let values = history.iter().map(|step| f64::from(step[i])).collect();
        Curve::new(c.head.to_string(), values)
    });
    let panels = [("loss", vec![Curve::new("loss", losses.clone())]), ("coefficients", lines.collect())];
    curves(&folder.join("training.svg"), &panels)?;
    let options = train_options();
    let learned = profile.coefficients.iter().map(|c| format!("{} × {:.2}", c.head, c.value));
    say(&format!(
        "\n3  Learning: all weights frozen, one coefficient a head from 1; {} steps of {} sequences, n = {}; {seconds:.0} s\n   \
         loss {:.3} {} {:.3}\n   {}\n",
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

/// The paper's settings, with shorter sequences and a higher learning rate for fewer steps.
fn train_options() -> TrainOptions {
    TrainOptions { steps: 60, length: 25, learning_rate: 0.02, ..TrainOptions::default() }
}

/// The coefficients, and what they were after each step.
fn train(model: &Decoder, heads: &[HeadId], task: &ProxyTask, name: &str) -> Result<(Profile, Vec<Vec<f32>>)> {
    let options = train_options();
    let (mut bar, mut history) = (Progress::new(name, options.steps as u64), Vec::new());
    let mut trainer = Trainer::new(model, heads, options)?;
    trainer.run(&Sequences::Drawn(task.clone()), |_, step| {
        bar.set(step.step as u64 + 1, format!("loss {:.3}", step.loss));
        history.push(step.coefficients.clone());
        Ok(ControlFlow::Continue(()))
    })?;
    Ok((trainer.profile()?, history))
}

/// Sets of `k` heads, none of them among the `k` with the highest scores.
fn random_heads(scores: &Scores, k: usize, seed: u64) -> Vec<Vec<HeadId>> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut draw = || {
        let mut others: Vec<HeadId> = scores.heads().iter().skip(k).map(|scored| scored.head).collect();
        (0..k).map(|_| others.swap_remove((random.next_u64() % others.len() as u64) as usize)).collect()
    };
    (0..RANDOM_DRAWS).map(|_| draw()).collect()
}

/// 4. Sequences that were not learned from, before and after; and what as many random heads give, trained the same.
fn compare(
    model: &Decoder, as_trained: &Decoder, coefficients: &HeadCoefficients, random: &[Vec<HeadId>], train_task: &ProxyTask,
    held_out: &ProxyTask,
) -> Result<()> {
    let mut controls = Vec::new();
    for (index, heads) in random.iter().enumerate() {
        let name = format!("control {} of {}", index + 1, random.len());
        let (profile, _) = train(model, heads, train_task, &name)?;
        controls.push(profile.for_model(&model.shape(), &model.device())?);
    }
    let mut text = format!(
        "\n4  Before and after, on {HELD_OUT} held-out sequences of each length: next tokens that are right, and cross-entropy\n   \
         Control: {} random heads instead, their coefficients learned the same way, mean of {} draws.\n\n      \
         n   as trained        before            with PEAR         control\n",
        coefficients.heads().len(),
        controls.len()
    );
    for n in MEASURED {
        let batch = held_out.batch(n, 0..HELD_OUT)?;
        let cell = |m: &[ProxyMetrics]| {
            let mean = |f: fn(&ProxyMetrics) -> f64| m.iter().map(f).sum::<f64>() / m.len() as f64;
            format!("{:>5.1} %  {:<9.3}", 100.0 * mean(|m| m.accuracy), mean(|m| m.cross_entropy))
        };
        let trained = evaluate(as_trained, &batch, None)?;
        let before = evaluate(model, &batch, None)?;
        let after = evaluate(model, &batch, Some(coefficients))?;
        let random: Vec<_> = controls.iter().map(|c| evaluate(model, &batch, Some(c))).collect::<Result<_, _>>()?;
        let _ =
            writeln!(text, "   {n:>4}  {} {} {} {}", cell(&[trained]), cell(&[before]), cell(&[after]), cell(&random).trim_end());
    }
    text += "\n   This shows the steps of the method and that they work together, on a toy with a planted fault; it is no evidence\n   \
             about large models.\n";
    say(&text)
}

/// 5. The coefficients multiplied into the weights: same numbers, same operations.
fn fold(
    directory: &ModelDirectory, model: &Decoder, coefficients: &HeadCoefficients, task: &ProxyTask, out: &Path,
) -> Result<()> {
    if out.exists() {
        // What an earlier run left.
        fs::remove_dir_all(out).with_context(|| format!("{}: cannot remove", out.display()))?;
    }
    directory.export(coefficients, out)?;
    let folded = ModelDirectory::open(out)?.load(&model.device(), DType::F32)?;
    let reweighted = model.clone().with_coefficients(coefficients)?;

    let batch = task.batch(50, 0..10)?;
    let mut largest: f64 = 0.0;
    for sequence in batch.sequences() {
        let (a, b) = (log_probs(&reweighted, sequence)?, log_probs(&folded, sequence)?);
        largest = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(largest, f64::max);
    }
    let [plain_ms, folded_ms] = forward_milliseconds([model, &folded], &batch.tokens(&model.device()));
    say(&format!(
        "\n5  Folding: the coefficients multiplied into the output projections\n   \
         log-probabilities, re-weighted against folded: largest difference {largest:.1e}\n   \
         forward pass of 10 × 100 tokens, medians of {PASSES}: before {plain_ms:.2} ms, folded {folded_ms:.2} ms, ratio {:.3}\n",
        folded_ms / plain_ms
    ))
}

/// Forward passes of each model.
const PASSES: usize = 25;

/// The median time of a forward pass; the models take turns, so that whatever else the machine does meets both.
fn forward_milliseconds(models: [&Decoder; 2], tokens: &Tensor<2, Int>) -> [f64; 2] {
    let mut times = [const { Vec::new() }; 2];
    for _ in 0..PASSES {
        for (model, times) in models.iter().zip(&mut times) {
            let since = Instant::now();
            // Taking the numbers out waits for the device.
            let _ = forward::logits(*model, tokens.clone(), &mut NoEdit).into_data();
            times.push(1000.0 * since.elapsed().as_secs_f64());
        }
    }
    times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[PASSES / 2]
    })
}

/// 6. What was written.
fn list_files(folder: &Path) -> Result<()> {
    let files = [
        ("model/", "the model, a Hugging Face directory"),
        ("scores.json", "the score of every head"),
        ("heads.svg", "the same as a picture"),
        ("profile.json", "the coefficients"),
        ("training.svg", "loss and coefficients, step by step"),
        ("folded/", "the model with the coefficients in its weights, for any engine that loads the first"),
    ];
    let mut text = String::from("\n6  Files\n");
    for (name, what) in files {
        let _ = writeln!(text, "   {:<32} {what}", folder.join(name).display());
    }
    say(&text)
}

/// A curve in one line of at most `width` letters.
fn sparkline(values: &[f64], width: usize) -> String {
    let (low, high) = values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), &v| (l.min(v), h.max(v)));
    let bar = |value: f64| {
        ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'][(7.99 * (value - low) / (high - low).max(f64::MIN_POSITIVE)) as usize]
    };
    let each = values.len().div_ceil(width).max(1);
    values.chunks(each).map(|part| bar(part.iter().sum::<f64>() / part.len() as f64)).collect()
}

fn join(parts: impl IntoIterator<Item = String>, between: &str) -> String {
    parts.into_iter().collect::<Vec<_>>().join(between)
}

fn say(text: &str) -> Result<()> {
    cli::print(text)
}
