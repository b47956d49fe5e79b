//! What coefficients cost where tokens are generated, in instructions: exact, whatever else the machine does. Needs valgrind.
//!
//! ```sh
//! cargo bench --bench overhead
//! ```
//!
//! A random Llama of 4 layers × 12 heads × 768 and 4,000 words reads 16 tokens and generates 8, on one thread: as it is, with ten
//! coefficients folded into it, and with the same ten unfolded.

use std::env;
use std::path::Path;
use std::process::Command;

use burn::prelude::*;
use burn::tensor::DType;
use pear_benches::number_in;
use pear_core::{HeadCoefficients, HeadId, ModelShape, Profile};
use pear_models::{Decoder, DecoderConfig, GenerateOptions, ModelDirectory, generate};
use serde_json::json;

const LAYERS: usize = 4;
const HEADS: usize = 12;

fn main() {
    pear_examples::allocator::keep_pages();
    if let Ok(case) = env::var("PEAR_BENCH_CASE") {
        let (case, folder) = case.split_once(':').expect("a case and a folder");
        assert_eq!(generate_counted(&model(case, Path::new(folder))).len(), 8);
        return;
    }
    let folder = env::temp_dir().join(format!("pear-bench-{}", std::process::id()));
    write(&folder);
    let plain = instructions("plain", &folder);
    println!("{:<32} {:>14} instructions", "as it is", plain as u64);
    for (name, case) in [
        ("as it is, once more", "plain"),
        ("ten coefficients, folded", "folded"),
        ("ten coefficients, unfolded", "reweighted"),
    ] {
        let count = instructions(case, &folder);
        println!(
            "{name:<32} {:>14} instructions, {:.4} times as many",
            count as u64,
            count / plain
        );
    }
    std::fs::remove_dir_all(&folder).expect("the folder of this bench");
}

/// The checkpoint, and beside it the same with the coefficients folded in.
fn write(folder: &Path) {
    let config = json!({
        "model_type": "llama", "vocab_size": 4000, "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "tie_word_embeddings": false,
    });
    Device::flex().seed(0);
    let model = DecoderConfig::from_json(&config)
        .and_then(|config| Ok(config.init(&Device::flex())?))
        .expect("a model");
    model
        .save(&config, DType::F32, folder.join("plain"))
        .expect("a checkpoint");
    let directory = ModelDirectory::open(folder.join("plain")).expect("a checkpoint");
    let profile = Profile::new(&coefficients(), None).expect("a profile");
    directory
        .export(&profile, folder.join("folded"))
        .expect("a folded checkpoint");
}

fn coefficients() -> HeadCoefficients {
    let heads: Vec<_> = (0..10)
        .map(|i| (HeadId::new(i % LAYERS, 5 * i % HEADS), 0.7))
        .collect();
    let shape = ModelShape::new("llama", LAYERS, HEADS);
    HeadCoefficients::new(&heads, &shape, &Device::flex()).expect("heads")
}

/// Instructions within [`generate_counted`].
fn instructions(case: &str, folder: &Path) -> f64 {
    let program = env::current_exe().expect("this program");
    let output = Command::new("valgrind")
        .args([
            "--tool=callgrind",
            "--callgrind-out-file=/dev/null",
            "--toggle-collect=*generate_counted*",
        ])
        .arg(program)
        .envs([
            (
                "PEAR_BENCH_CASE",
                format!("{case}:{}", folder.display()).as_str(),
            ),
            ("RAYON_NUM_THREADS", "1"),
        ])
        .output()
        .expect("valgrind");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{case}: {said}");
    let line = said
        .lines()
        .find_map(|line| line.split_once("Collected : "))
        .expect("a count");
    number_in(line.1, "")
}

fn model(case: &str, folder: &Path) -> Decoder {
    let directory = folder.join(if case == "folded" { case } else { "plain" });
    let model = ModelDirectory::open(&directory)
        .and_then(|d| d.load(&Device::flex(), DType::F32))
        .expect("a checkpoint");
    if case == "reweighted" {
        model
            .with_coefficients(&coefficients())
            .expect("heads that exist")
    } else {
        model
    }
}

#[inline(never)]
fn generate_counted(model: &Decoder) -> Vec<u32> {
    let prompt: Vec<u32> = (0..16).map(|i| i * 7 + 5).collect();
    let options = GenerateOptions {
        max_new_tokens: 8,
        ..GenerateOptions::default()
    };
    generate(model, &prompt, &options).expect("tokens")
}
