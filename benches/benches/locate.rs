//! Locating every head: our sweep, one whole run a head, and the authors' way over PyTorch, side by side in one run.
//!
//! ```sh
//! cargo bench --bench locate                                  # ours
//! PEAR_PYTHON=path/to/python cargo bench --bench locate       # and theirs: needs torch and transformers
//! ```
//!
//! A random Llama of GPT-2-small's shape on the default proxy set, f32, and in bf16. What would take hours is run on a stated part and scaled up. Then
//! what a sweep costs as the model and the sequences grow, and a model of 24 layers, 16 heads and 1024 channels on the default set.

use std::time::Instant;

use burn::prelude::*;
use burn::tensor::DType;
use pear_benches::{
    Flops, SMALL, dense, gigabytes, in_dtype, matmul_rate, matmul_rate_in, median, number_in,
    python,
};
use pear_core::proxy::ProxyBatch;
use pear_core::{DecoderModel, ProxyTask};
use pear_examples::memory::{peak_memory, reset_peak_memory};
use pear_locate::{LocateOptions, Mode, PAPER_LENGTHS, naive, patched_logits, proxy_batches};
use pear_models::{Decoder, DecoderConfig, DecoderSizes};

/// Sequences of each length that the naive sweep is run on.
const NAIVE_SAMPLES: usize = 1;

fn main() {
    pear_examples::allocator::keep_pages();
    let device = Device::flex();
    let config = DecoderConfig::llama(SMALL);
    let model = config.init(&device).expect("a valid config");
    let task = ProxyTask::new(model.vocab_size(), &[], 0).expect("a vocabulary");
    let batches = proxy_batches(&task, &PAPER_LENGTHS).expect("sequences");
    let flops = Flops::of(&config);
    let rate = matmul_rate(
        &device,
        config.hidden_size,
        dense(&config.layers[0]).intermediate_size,
    );
    println!(
        "matmul rate of this machine, {} threads: {:.0} GFLOP/s\n",
        rayon_threads(),
        rate / 1e9
    );
    println!(
        "{:<34} {:>10} {:>9} {:>9} {:>12} {:>9}",
        "", "seconds", "TFLOP", "GFLOP/s", "of the floor", "GB so far"
    );

    reset_peak_memory();
    let before = peak_memory();
    let mut ours = Vec::new();
    for mode in [Mode::Activation, Mode::Path] {
        let (seconds, work) = (
            seconds(&model, &batches, mode, 3),
            flops.sweep(&options(mode), &batches),
        );
        let floor = work / rate;
        println!(
            "{:<34} {seconds:>10.1} {:>9.2} {:>9.0} {:>11.0}% {:>9.2}",
            format!("ours, {mode}"),
            work / 1e12,
            work / seconds / 1e9,
            100.0 * floor / seconds,
            gigabytes(peak_memory() - before)
        );
        ours.push((mode, seconds));
    }

    in_bf16(&model, &batches, &ours);
    growth(&device);
    larger(&device, rate);

    let part: Vec<_> = batches
        .iter()
        .map(|batch| batch.slice(0..NAIVE_SAMPLES))
        .collect();
    let start = Instant::now();
    for batch in &part {
        naive::patched_logits(&model, batch, &LocateOptions::default()).expect("a sweep");
    }
    let (run, all) = (
        part.iter().map(|b| b.len() * b.n()).sum::<usize>(),
        batches.iter().map(|b| b.len() * b.n()).sum::<usize>(),
    );
    let naive = start.elapsed().as_secs_f64() * all as f64 / run as f64;
    println!(
        "{:<34} {naive:>10.0}   scaled up from {NAIVE_SAMPLES} sequence of each length",
        "one whole run a head (ours)"
    );

    let Some(output) = python("locate.py", &[]) else {
        println!("\nPEAR_PYTHON is not set: the authors' way was not run");
        return;
    };
    let theirs = number_in(&output, "seconds_all_heads");
    println!(
        "{:<34} {theirs:>10.0}   scaled up from 1 of 144 heads",
        "the authors' way (PyTorch)"
    );
    for (mode, seconds) in ours {
        println!(
            "\nours, {mode}: {:.0} times as fast as the authors' way, {:.0} times as one run a head",
            theirs / seconds,
            naive / seconds
        );
    }
}

fn options(mode: Mode) -> LocateOptions {
    LocateOptions {
        mode,
        ..LocateOptions::default()
    }
}

/// The median of some sweeps.
fn seconds(model: &impl DecoderModel, batches: &[ProxyBatch], mode: Mode, times: usize) -> f64 {
    let options = options(mode);
    let once = || {
        let start = Instant::now();
        for batch in batches {
            patched_logits(model, batch, &options).expect("a sweep");
        }
        start.elapsed().as_secs_f64()
    };
    median((0..times).map(|_| once()).collect())
}

/// The same in bf16, beside f32 in the same run.
fn in_bf16(model: &Decoder, batches: &[ProxyBatch], ours: &[(Mode, f64)]) {
    let (config, device) = (model.config(), model.device());
    let inner = dense(&config.layers[0]).intermediate_size;
    let rate = matmul_rate_in(DType::BF16, &device, config.hidden_size, inner);
    let half = in_dtype(model.clone(), DType::BF16);
    for &(mode, in_f32) in ours {
        let seconds = seconds(&half, batches, mode, 3);
        let work = Flops::of(config).sweep(&options(mode), batches);
        println!(
            "{:<34} {seconds:>10.1} {:>9.2} {:>9.0} {:>11.0}% {:>9}   {:.2} times as fast as f32",
            format!("ours, {mode}, bf16"),
            work / 1e12,
            work / seconds / 1e9,
            100.0 * work / rate / seconds,
            "",
            in_f32 / seconds
        );
    }
}

/// What one more of everything costs.
fn growth(device: &Device) {
    let measure = |vocab_size, layers, heads, n| {
        let config = DecoderConfig::llama(DecoderSizes {
            vocab_size,
            num_hidden_layers: layers,
            num_attention_heads: heads,
            ..SMALL
        });
        let model = config.init(device).expect("a valid config");
        let task = ProxyTask::new(vocab_size, &[], 0).expect("a vocabulary");
        let batches = proxy_batches(&task, &[(n, 8)]).expect("sequences");
        (
            seconds(&model, &batches, Mode::Activation, 3),
            Flops::of(&config).sweep(&options(Mode::Activation), &batches),
        )
    };
    let (base, work) = measure(32000, 6, 12, 25);
    println!(
        "\n{:<34} {:>10} {:>9} {:>9}",
        "growth, activation", "seconds", "expected", "measured"
    );
    println!("{:<34} {base:>10.2}", "6 layers, 12 heads, n = 25, 8 seq.");
    for (name, vocab_size, layers, heads, n) in [
        ("24 heads", 32000, 6, 24, 25),
        ("12 layers", 32000, 12, 12, 25),
        ("n = 50", 32000, 6, 12, 50),
        ("a vocabulary of 160000", 160_000, 6, 12, 25),
    ] {
        let (seconds, more) = measure(vocab_size, layers, heads, n);
        println!(
            "{name:<34} {seconds:>10.2} {:>8.2}x {:>8.2}x",
            more / work,
            seconds / base
        );
    }
}

/// A model of about 300 million parameters on the default proxy set.
fn larger(device: &Device, rate: f64) {
    let config = DecoderConfig::llama(DecoderSizes {
        hidden_size: 1024,
        intermediate_size: 2816,
        num_hidden_layers: 24,
        num_attention_heads: 16,
        ..SMALL
    });
    let model = config.init(device).expect("a valid config");
    let task = ProxyTask::new(model.vocab_size(), &[], 0).expect("a vocabulary");
    let batches = proxy_batches(&task, &PAPER_LENGTHS).expect("sequences");
    reset_peak_memory();
    let before = peak_memory();
    let seconds = seconds(&model, &batches, Mode::Activation, 1);
    let work = Flops::of(&config).sweep(&options(Mode::Activation), &batches);
    println!(
        "\n{:<34} {seconds:>10.1} {:>9.2} {:>9.0} {:>11.0}% {:>9.2}\n",
        "24 layers × 16 heads × 1024",
        work / 1e12,
        work / seconds / 1e9,
        100.0 * work / rate / seconds,
        gigabytes(peak_memory() - before)
    );
}

fn rayon_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
