//! Reading a prompt of 512 tokens and generating 128 after it: ours, transformers' and candle's, side by side in one run; and loading.
//!
//! ```sh
//! cargo bench --bench generate                                                       # ours
//! PEAR_PYTHON=path/to/python cargo bench --bench generate --features candle          # and theirs: needs torch and transformers
//! ```
//!
//! Random models of two shapes, written as checkpoints and loaded by each: a Llama of GPT-2-small's shape, and Qwen2.5-0.5B's, with grouped
//! queries and a vocabulary of 151,936. f32 and bf16. Every row is a process of its own. `-- Llama` or `-- Qwen` runs one of them.

use std::env;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use burn::prelude::*;
use burn::tensor::DType;
use pear_benches::{Flops, matmul_rate, median, number_in, python, read_rate};
use pear_core::{DecoderModel, HeadCoefficients, HeadId, NoEdit};
use pear_examples::memory::{peak_memory, reset_peak_memory};
use pear_models::{DecoderConfig, Error, GenerateOptions, Generator, ModelDirectory};
use serde_json::{Value, json};

const PROMPT: usize = 512;
const NEW: usize = 128;

fn main() {
    pear_examples::allocator::keep_pages();
    if let Ok(case) = env::var("PEAR_BENCH_CASE") {
        let (what, directory) = case.split_once(':').expect("what to run on what");
        return run(what, Path::new(directory));
    }
    let (compute, bandwidth) = (matmul_rate(&Device::flex(), 768, 2048), read_rate());
    println!(
        "this machine: {:.0} GFLOP/s in matrix products, {:.1} GB/s read from memory",
        compute / 1e9,
        bandwidth / 1e9
    );
    let folder = env::temp_dir().join(format!("pear-bench-{}", std::process::id()));
    let wanted = env::args()
        .skip(1)
        .find(|argument| !argument.starts_with('-'))
        .unwrap_or_default();
    for (name, config) in [
        ("Llama, 12 layers x 12 heads x 768, 32,000 words", llama()),
        ("Qwen2.5-0.5B", qwen()),
    ] {
        if !name.contains(&wanted) {
            continue;
        }
        let directory = folder.join(config["model_type"].as_str().expect("a model_type"));
        write(&config, &directory);
        compare(name, &config, &directory, compute, bandwidth);
    }
    std::fs::remove_dir_all(&folder).expect("the folder of this bench");
}

/// `config.json` of a Llama of GPT-2-small's shape.
fn llama() -> Value {
    json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 32000, "hidden_size": 768,
        "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12, "num_key_value_heads": 12,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 2048, "tie_word_embeddings": false,
    })
}

/// That of Qwen2.5-0.5B.
fn qwen() -> Value {
    json!({
        "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "vocab_size": 151_936, "hidden_size": 896,
        "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6, "rope_theta": 1e6, "max_position_embeddings": 32768, "tie_word_embeddings": true,
        "hidden_act": "silu", "sliding_window": 32768, "max_window_layers": 24, "use_sliding_window": false,
    })
}

fn write(config: &Value, directory: &Path) {
    Device::flex().seed(0);
    let model = DecoderConfig::from_json(config)
        .and_then(|config| Ok(config.init(&Device::flex())?))
        .expect("a model");
    model
        .save(config, DType::F32, directory)
        .expect("a checkpoint");
}

fn compare(name: &str, config: &Value, directory: &Path, compute: f64, bandwidth: f64) {
    let decoder = DecoderConfig::from_json(config).expect("a valid config");
    let flops = Flops::of(&decoder);
    let layers = decoder.layers.len() as f64;
    let prefill = flops.layers_once(PROMPT as f64) + flops.logits;
    // What a token reads: every weight but the embedding's other rows, which count where they are the unembedding.
    let weights = (layers * flops.block + flops.logits) / 2.0;
    let attention = &decoder.layers[0].attention;
    let cached = 2.0
        * layers
        * (attention.num_key_value_heads * attention.head_dim) as f64
        * (PROMPT + NEW / 2) as f64;

    println!(
        "\n{name}\n{:<26} {:>12} {:>9} {:>13} {:>9} {:>9}",
        "", "prefill, ms", "GFLOP/s", "ms a token", "GB/s", "peak GB"
    );
    for (dtype, size) in [("float32", 4.0), ("bfloat16", 2.0)] {
        let row = |label: &str, seconds: f64, token: f64, peak: Option<f64>| {
            let peak = peak.map_or(String::new(), |peak| format!("{:.2}", peak / 1e9));
            println!(
                "{:<26} {:>12.0} {:>9.0} {:>13.2} {:>9.1} {peak:>9}",
                format!("{label}, {dtype}"),
                1e3 * seconds,
                prefill / seconds / 1e9,
                1e3 * token,
                size * (weights + cached) / token / 1e9,
            );
        };
        let numbers = |output: &str| {
            (
                number_in(output, "prefill_seconds"),
                number_in(output, "decode_seconds"),
            )
        };
        let ours = in_a_process(dtype, directory);
        let (seconds, token) = numbers(&ours);
        row("ours", seconds, token, Some(number_in(&ours, "peak_bytes")));
        println!(
            "{:<26} {:>11.0}% {:>23.0}%",
            "  of the floor",
            100.0 * prefill / compute / seconds,
            100.0 * size * (weights + cached) / bandwidth / token
        );
        let mut others = Vec::new();
        let path = directory.to_str().expect("a path");
        if let Some(output) = python("generate.py", &["--model", path, "--dtype", dtype]) {
            let (seconds, token) = numbers(&output);
            row(
                "transformers",
                seconds,
                token,
                Some(number_in(&output, "peak_bytes")),
            );
            others.push(("transformers", seconds, token));
        }
        if cfg!(feature = "candle") {
            let (seconds, token) = numbers(&in_a_process(&format!("candle-{dtype}"), directory));
            row("candle", seconds, token, None);
            others.push(("candle", seconds, token));
        }
        for (other, their_seconds, their_token) in others {
            println!(
                "  we are {:.2} and {:.2} times as fast as {other}",
                their_seconds / seconds,
                their_token / token
            );
        }
    }
    let output = in_a_process("reweighted", directory);
    println!(
        "ten unfolded coefficients: {:.3} times the time of a token without",
        number_in(&output, "ratio")
    );
    let output = in_a_process("load", directory);
    let (seconds, peak) = (
        number_in(&output, "seconds"),
        number_in(&output, "peak_bytes"),
    );
    let size = std::fs::metadata(directory.join("model.safetensors"))
        .expect("the checkpoint")
        .len() as f64;
    println!(
        "loading {:.2} GB: ours {seconds:.2} s, peak {:.2} GB",
        size / 1e9,
        peak / 1e9
    );
    if let Some(output) = python(
        "generate.py",
        &["--model", directory.to_str().expect("a path"), "--load"],
    ) {
        let (seconds, peak) = (
            number_in(&output, "seconds"),
            number_in(&output, "peak_bytes"),
        );
        println!(
            "                 transformers {seconds:.2} s, peak {:.2} GB",
            peak / 1e9
        );
    }
}

/// What this program prints for a case.
fn in_a_process(what: &str, directory: &Path) -> String {
    let program = env::current_exe().expect("this program");
    let case = format!("{what}:{}", directory.display());
    let output = Command::new(program)
        .env("PEAR_BENCH_CASE", case)
        .output()
        .expect("this program once more");
    assert!(
        output.status.success(),
        "{what}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn run(what: &str, directory: &Path) {
    let open = |path: PathBuf| ModelDirectory::open(&path).expect("a checkpoint");
    match what {
        "load" => {
            reset_peak_memory();
            let (before, start) = (peak_memory(), Instant::now());
            let model = open(directory.into())
                .load(&Device::flex(), DType::F32)
                .expect("a model");
            println!(
                "seconds {}\npeak_bytes {}",
                start.elapsed().as_secs_f64(),
                peak_memory().saturating_sub(before)
            );
            drop(model);
        }
        "reweighted" => {
            let model = open(directory.into())
                .load(&Device::flex(), DType::F32)
                .expect("a model");
            let shape = model.shape();
            let heads: Vec<_> = (0..10)
                .map(|i| (HeadId::new(i, i % shape.num_heads), 0.7))
                .collect();
            let coefficients =
                HeadCoefficients::new(&heads, &shape, &Device::flex()).expect("heads");
            let reweighted = model
                .clone()
                .with_coefficients(&coefficients)
                .expect("heads that exist");
            // Taken in turn, so that a slow moment of the machine meets both.
            let pairs: Vec<f64> = (0..9)
                .map(|_| decode(&reweighted, 32).1 / decode(&model, 32).1)
                .collect();
            println!("ratio {}", median(pairs));
        }
        #[cfg(feature = "candle")]
        "candle-float32" | "candle-bfloat16" => {
            let (prefill, decode) = pear_benches::candle::generate(
                directory,
                what.ends_with("bfloat16"),
                &prompt(PROMPT),
                NEW,
            );
            println!("prefill_seconds {prefill}\ndecode_seconds {decode}");
        }
        dtype => {
            let dtype = if dtype == "bfloat16" {
                DType::BF16
            } else {
                DType::F32
            };
            let model = open(directory.into())
                .load(&Device::flex(), dtype)
                .expect("a model");
            decode(&model, NEW);
            reset_peak_memory();
            let runs: Vec<(f64, f64)> = (0..3).map(|_| decode(&model, NEW)).collect();
            let (prefill, decode) = (
                runs.iter().map(|run| run.0).collect(),
                runs.iter().map(|run| run.1).collect(),
            );
            println!(
                "prefill_seconds {}\ndecode_seconds {}\npeak_bytes {}",
                median(prefill),
                median(decode),
                peak_memory()
            );
        }
    }
}

fn prompt(len: usize) -> Vec<u32> {
    (0..len as u32).map(|i| i * 7 % 31991 + 5).collect()
}

/// Seconds until the first token, and seconds a token after it.
fn decode<M: DecoderModel>(model: &M, new: usize) -> (f64, f64) {
    let options = GenerateOptions {
        max_new_tokens: new,
        ..GenerateOptions::default()
    };
    let (start, mut first) = (Instant::now(), 0.0);
    let generator = Generator::new(model, options).expect("options");
    let tokens = generator.run_with(&[prompt(PROMPT)], &mut NoEdit, |_, _| {
        if first == 0.0 {
            first = start.elapsed().as_secs_f64();
        }
        Ok::<_, Error>(ControlFlow::Continue(()))
    });
    assert_eq!(tokens.expect("tokens")[0].len(), new);
    (
        first,
        (start.elapsed().as_secs_f64() - first) / (new - 1) as f64,
    )
}
