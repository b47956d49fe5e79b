//! One training step: ours and PyTorch's, side by side in one run.
//!
//! ```sh
//! cargo bench --bench train                                   # ours
//! PEAR_PYTHON=path/to/python cargo bench --bench train        # and theirs: needs torch and transformers
//! ```
//!
//! A random Llama of GPT-2-small's shape, f32, n = 50, 20 sequences a step, 10 heads re-weighted in all layers or in the upper half.

use std::time::Instant;

use burn::prelude::*;
use pear_benches::{Flops, gigabytes, matmul_rate, median, number_in, peak_memory, python, reset_peak_memory};
use pear_core::{DecoderModel, HeadId, ProxyTask};
use pear_models::DecoderConfig;
use pear_train::{TrainOptions, Trainer};

const HEADS: usize = 10;
const STEPS: usize = 5;

fn main() {
    pear_examples::allocator::keep_pages();
    let device = Device::flex();
    let config = DecoderConfig::llama(32000, 768, 2048, 12, 12);
    let model = config.init(&device).expect("a valid config");
    let task = ProxyTask::new(model.vocab_size(), &[], 0).expect("a vocabulary");
    let options = TrainOptions { steps: STEPS + 1, ..TrainOptions::default() };
    let rate = matmul_rate(&device, config.hidden_size(), config.intermediate_size);
    println!("matmul rate of this machine: {:.0} GFLOP/s\n", rate / 1e9);
    println!("{:<44} {:>9} {:>8} {:>8} {:>13} {:>8}", "", "s a step", "TFLOP", "GFLOP/s", "of the floor", "peak GB");
    for (name, first) in [("all layers", 0), ("the upper half", 6)] {
        let heads: Vec<HeadId> = (0..HEADS).map(|i| HeadId::new(first + i % (12 - first), 5 * i % 12)).collect();
        let mut trainer = Trainer::new(&model, &heads, options.clone()).expect("valid options");
        let mut step = |index: usize| {
            let batch =
                task.batch(options.length, index * options.batch_size..(index + 1) * options.batch_size).expect("a batch");
            let start = Instant::now();
            trainer.step(&batch).expect("a step");
            start.elapsed().as_secs_f64()
        };
        step(0);
        reset_peak_memory();
        let seconds = median((1..=STEPS).map(&mut step).collect());
        let peak = peak_memory();
        let work = Flops::of(&config).training_step(first, options.batch_size, options.length);
        println!(
            "{:<44} {seconds:>9.2} {:>8.2} {:>8.0} {:>12.0}% {:>8.2}",
            format!("ours, heads in {name}"),
            work / 1e12,
            work / seconds / 1e9,
            100.0 * work / rate / seconds,
            gigabytes(peak)
        );
        for style in ["authors", "careful"] {
            let upper: &[&str] = if first > 0 { &["--upper"] } else { &[] };
            let Some(output) = python("train.py", &[&["--style", style], upper].concat()) else { continue };
            let (theirs, bytes) = (number_in(&output, "seconds_per_step"), number_in(&output, "peak_bytes"));
            println!(
                "{:<44} {theirs:>9.2} {:>8} {:>8} {:>13} {:>8.2}   we are {:.2} times as fast, in {:.0}% of the memory",
                format!("PyTorch, {style}"),
                "",
                "",
                "",
                bytes / 1e9,
                theirs / seconds,
                100.0 * peak as f64 / bytes
            );
        }
    }
    if std::env::var_os("PEAR_PYTHON").is_none() {
        println!("\nPEAR_PYTHON is not set: PyTorch was not run");
    }
}
