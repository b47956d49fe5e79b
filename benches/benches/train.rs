//! One training step: ours and PyTorch's, side by side in one run.
//!
//! ```sh
//! cargo bench --bench train                                   # ours
//! PEAR_PYTHON=path/to/python cargo bench --bench train        # and theirs: needs torch and transformers
//! ```
//!
//! A random Llama of GPT-2-small's shape, f32, n = 50, 20 sequences a step, 10 heads re-weighted in all layers or in the upper half, also
//! with each layer recomputed in the backward pass, and in bf16; then what a step costs as heads, sequences, their length and the vocabulary grow. Every
//! row is a process of its own, so that peaks of memory compare.

use std::env;
use std::process::Command;
use std::time::Instant;

use burn::prelude::*;
use burn::tensor::DType;
use pear_benches::{Flops, SMALL, dense, in_dtype, matmul_rate_in, median, number_in, python};
use pear_core::{DecoderModel, HeadId, ProxyTask};
use pear_examples::memory::{peak_memory, reset_peak_memory};
use pear_models::{DecoderConfig, DecoderSizes};
use pear_train::{TrainOptions, Trainer};

const LAYERS: usize = 12;
const STEPS: usize = 5;

/// One row: what is trained on what.
#[derive(Clone, Copy)]
struct Case {
    heads: usize,
    first: usize,
    n: usize,
    batch_size: usize,
    vocab_size: usize,
    /// Whether layers run once more in the backward pass.
    recompute: bool,
    /// bf16, or f32.
    half: bool,
}

const USUAL: Case = Case {
    heads: 10,
    first: 0,
    n: 50,
    batch_size: 20,
    vocab_size: 32000,
    recompute: false,
    half: false,
};

fn main() {
    pear_examples::allocator::keep_pages();
    if let Ok(case) = env::var("PEAR_BENCH_CASE") {
        return measure(Case::parse(&case));
    }
    let config = DecoderConfig::llama(DecoderSizes {
        num_hidden_layers: LAYERS,
        ..SMALL
    });
    let rate = |dtype| {
        let inner = dense(&config.layers[0]).intermediate_size;
        matmul_rate_in(dtype, &Device::flex(), config.hidden_size, inner)
    };
    let rates = [DType::F32, DType::BF16].map(rate);
    println!(
        "matmul rate of this machine: {:.0} GFLOP/s in f32, {:.0} in bf16\n",
        rates[0] / 1e9,
        rates[1] / 1e9
    );
    println!(
        "{:<44} {:>9} {:>8} {:>8} {:>13} {:>8}",
        "", "s a step", "TFLOP", "GFLOP/s", "of the floor", "peak GB"
    );
    for (name, case) in [
        ("all layers", USUAL),
        (
            "the upper half",
            Case {
                first: LAYERS / 2,
                ..USUAL
            },
        ),
        (
            "all layers, bf16",
            Case {
                half: true,
                ..USUAL
            },
        ),
    ] {
        let (seconds, peak) = in_a_process(case);
        let (work, rate) = (case.flops(), rates[usize::from(case.half)]);
        println!(
            "{:<44} {seconds:>9.2} {:>8.2} {:>8.0} {:>12.0}% {:>8.2}",
            format!("ours, heads in {name}"),
            work / 1e12,
            work / seconds / 1e9,
            100.0 * work / rate / seconds,
            peak / 1e9
        );
        let recomputed = Case {
            recompute: true,
            ..case
        };
        let (again, peak_again) = in_a_process(recomputed);
        println!(
            "{:<44} {again:>9.2} {:>8} {:>8} {:>13} {:>8.2}   {:.2} times as long, in {:.0}% of the memory",
            "the same, each layer recomputed",
            "",
            "",
            "",
            peak_again / 1e9,
            again / seconds,
            100.0 * peak_again / peak
        );
        for style in ["authors", "careful"] {
            let upper: &[&str] = if case.first > 0 { &["--upper"] } else { &[] };
            let dtype: &[&str] = if case.half {
                &["--dtype", "bfloat16"]
            } else {
                &[]
            };
            let flags = [&["--style", style], upper, dtype].concat();
            let Some(output) = python("train.py", &flags) else {
                continue;
            };
            let (theirs, bytes) = (
                number_in(&output, "seconds_per_step"),
                number_in(&output, "peak_bytes"),
            );
            println!(
                "{:<44} {theirs:>9.2} {:>8} {:>8} {:>13} {:>8.2}   we are {:.2} times as fast, in {:.0}% of the memory",
                format!("PyTorch, {style}"),
                "",
                "",
                "",
                bytes / 1e9,
                theirs / seconds,
                100.0 * peak / bytes
            );
        }
    }
    if env::var_os("PEAR_PYTHON").is_none() {
        println!("\nPEAR_PYTHON is not set: PyTorch was not run");
    }

    println!(
        "\n{:<44} {:>9} {:>9} {:>9} {:>8}",
        "growth", "s a step", "expected", "measured", "peak GB"
    );
    let base = Case {
        first: LAYERS / 2,
        batch_size: 4,
        ..USUAL
    };
    let (seconds, peak) = in_a_process(base);
    println!(
        "{:<44} {seconds:>9.2} {:>9} {:>9} {:>8.2}",
        "upper half, 10 heads, n = 50, 4 sequences",
        "",
        "",
        peak / 1e9
    );
    for (name, case) in [
        ("all 72 heads of the upper half", Case { heads: 72, ..base }),
        ("n = 100", Case { n: 100, ..base }),
        (
            "8 sequences",
            Case {
                batch_size: 8,
                ..base
            },
        ),
        (
            "a vocabulary of 160000",
            Case {
                vocab_size: 160_000,
                ..base
            },
        ),
    ] {
        let (measured, peak) = in_a_process(case);
        let (expected, measured_factor) = (case.flops() / base.flops(), measured / seconds);
        println!(
            "{name:<44} {measured:>9.2} {expected:>8.2}x {measured_factor:>8.2}x {:>8.2}",
            peak / 1e9
        );
    }
}

impl Case {
    fn text(self) -> String {
        [
            self.heads,
            self.first,
            self.n,
            self.batch_size,
            self.vocab_size,
            usize::from(self.recompute),
            usize::from(self.half),
        ]
        .map(|number| number.to_string())
        .join(",")
    }

    fn parse(text: &str) -> Self {
        let numbers: Vec<usize> = text
            .split(',')
            .map(|number| number.parse().expect("a number"))
            .collect();
        let [heads, first, n, batch_size, vocab_size, recompute, half] = numbers[..] else {
            panic!("seven numbers, not `{text}`")
        };
        Self {
            heads,
            first,
            n,
            batch_size,
            vocab_size,
            recompute: recompute == 1,
            half: half == 1,
        }
    }

    fn config(self) -> DecoderConfig {
        DecoderConfig::llama(DecoderSizes {
            vocab_size: self.vocab_size,
            num_hidden_layers: LAYERS,
            ..SMALL
        })
    }

    fn flops(self) -> f64 {
        Flops::of(&self.config()).training_step(self.first, self.batch_size, self.n)
    }
}

/// Seconds a step and peak memory in bytes.
fn in_a_process(case: Case) -> (f64, f64) {
    let program = env::current_exe().expect("this program");
    let output = Command::new(program)
        .env("PEAR_BENCH_CASE", case.text())
        .output()
        .expect("this program once more");
    let output = String::from_utf8_lossy(&output.stdout);
    (
        number_in(&output, "seconds_per_step"),
        number_in(&output, "peak_bytes"),
    )
}

fn measure(case: Case) {
    let model = case.config().init(&Device::flex()).expect("a valid config");
    // In memory before anything else, as those of a checkpoint are; burn draws them when they are first used.
    let dtype = if case.half { DType::BF16 } else { DType::F32 };
    let model = in_dtype(model, dtype);
    let task = ProxyTask::new(model.vocab_size(), &[], 0).expect("a vocabulary");
    let Case {
        n: length,
        batch_size,
        ..
    } = case;
    let options = TrainOptions {
        steps: STEPS + 1,
        length,
        batch_size,
        ..TrainOptions::default()
    };
    let above = LAYERS - case.first;
    let heads: Vec<HeadId> = (0..case.heads)
        .map(|i| HeadId::new(case.first + i % above, (i / above + 5 * i) % 12))
        .collect();
    let trainer = Trainer::new(&model, &heads, options).expect("valid options");
    let mut trainer = trainer.with_recompute(case.recompute);
    let mut step = |index: usize| {
        let batch = task
            .batch(length, index * batch_size..(index + 1) * batch_size)
            .expect("a batch");
        let start = Instant::now();
        trainer.step(&batch).expect("a step");
        start.elapsed().as_secs_f64()
    };
    step(0);
    reset_peak_memory();
    let seconds = median((1..=STEPS).map(&mut step).collect());
    println!("seconds_per_step {seconds}\npeak_bytes {}", peak_memory());
}
