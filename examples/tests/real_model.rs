//! A real chat model, SmolLM2-135M-Instruct in a GGUF file: its answers are those of transformers, and the whole pipeline runs on it.
//!
//! The file is 98 MB and not in this repository: `.ci/smollm2` fetches it, and the tests run where `PEAR_SMOLLM2` names it.

mod common;

use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};

use burn::prelude::Device;
use burn::tensor::DType;
use common::Bench;
use pear_models::{GenerateOptions, Message, ModelDirectory, generate, log_probs};
use serde::Deserialize;
use serde_json::json;

/// Nats between this library and transformers, both in f32: eight times what was measured. An answer is sure where its margins are larger.
const TOLERANCE: f64 = 1e-4;
/// Nats by which the rounding of folded scales to f16 may move the log-probability of a token: four times what was measured.
const FOLDING: f64 = 5e-3;

/// What transformers computes.
#[derive(Deserialize)]
struct Table {
    answers: Vec<Answer>,
    text: String,
    ids: Vec<u32>,
    /// Of each token of the text but the first.
    log_probs: Vec<f64>,
}

/// A prompt within the chat template, and the likeliest token behind it, time and again.
#[derive(Deserialize)]
struct Answer {
    prompt: String,
    ids: Vec<u32>,
    answer: Vec<u32>,
    /// Nats by which each token is likelier than the next.
    margins: Vec<f64>,
    text: String,
}

fn table() -> Table {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/smollm2/table.json");
    serde_json::from_reader(BufReader::new(File::open(path).unwrap())).unwrap()
}

fn file() -> Option<PathBuf> {
    let path = std::env::var_os("PEAR_SMOLLM2").map(PathBuf::from);
    if path.is_none() {
        println!("skipped: PEAR_SMOLLM2 does not name SmolLM2-135M-Instruct.Q4_1.gguf");
    }
    path
}

#[test]
fn answers_and_log_probabilities_are_those_of_transformers() {
    let Some(file) = file() else { return };
    let Table {
        answers,
        text,
        ids,
        log_probs: expected,
    } = table();
    let directory = ModelDirectory::open(&file).unwrap();
    let (tokenizer, template) = (
        directory.tokenizer().unwrap(),
        directory.chat_template().unwrap(),
    );
    let model = directory.load(&Device::flex(), DType::F32).unwrap();

    assert_eq!(tokenizer.encode(&text).unwrap(), ids);
    let ours = log_probs(&model, &ids).unwrap();
    assert_eq!(ours.len(), expected.len());
    for (ours, expected) in ours.iter().zip(&expected) {
        assert!((ours - expected).abs() < TOLERANCE, "{ours}, {expected}");
    }

    assert!(answers.len() >= 8, "only {} prompts", answers.len());
    for row in answers {
        let rendered = template.render(&[Message::user(&row.prompt)], true);
        let prompt = tokenizer.encode_rendered(&rendered.unwrap()).unwrap();
        assert_eq!(prompt, row.ids, "{:?}", row.prompt);
        assert!(
            row.margins.iter().all(|&margin| margin > TOLERANCE),
            "{:?} leaves open what the likeliest token is",
            row.prompt
        );
        let options = GenerateOptions {
            max_new_tokens: row.answer.len(),
            ..GenerateOptions::default()
        };
        let answer = generate(&model, &prompt, &options).unwrap();
        assert_eq!(answer, row.answer, "{:?}", row.prompt);
        assert_eq!(tokenizer.decode(&answer).unwrap(), row.text);
    }
}

#[test]
fn heads_are_found_trained_and_folded_into_a_file_that_computes_the_same() {
    let Some(file) = file() else { return };
    let bench = Bench::new();
    // Commands are split at spaces.
    std::os::unix::fs::symlink(fs::canonicalize(file).unwrap(), bench.path("smollm2.gguf"))
        .unwrap();
    let Table { text, ids, .. } = table();
    bench.write("text.txt", text);

    bench.ok("locate --model smollm2.gguf --lengths 10 --samples 4 --out scores.json");
    assert_eq!(
        bench.json("scores.json")["heads"].as_array().unwrap().len(),
        30 * 9
    );
    bench.ok(
        "train --model smollm2.gguf --heads scores.json --top-k 10 --length 10 --steps 5 --batch-size 2 --learning-rate 0.05 --out profile.json",
    );
    bench.ok("export --model smollm2.gguf --profile profile.json --out folded.gguf");

    for (name, model) in [
        ("before", "smollm2.gguf"),
        ("with", "smollm2.gguf --profile profile.json"),
        ("folded", "folded.gguf"),
    ] {
        bench.ok(&format!(
            "score --model {model} --text text.txt --out {name}.json"
        ));
    }
    bench.assert_near(["folded.json", "with.json"], "/log_probs", FOLDING);
    assert!(
        bench.largest_difference(["before.json", "with.json"], "/log_probs") > 4.0 * FOLDING,
        "the profile changes nothing"
    );

    // The same weights as a Hugging Face directory, in which the fold rounds to f32 alone.
    let directory = ModelDirectory::open(bench.path("smollm2.gguf")).unwrap();
    let model = directory.load(&Device::flex(), DType::F32).unwrap();
    let config = json!({
        "model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5,
        "rope_theta": 100000.0, "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": [0, 2], "pad_token_id": 2,
    });
    model
        .save(&config, DType::F32, bench.path("directory"))
        .unwrap();
    drop(model);
    bench.write_lines("tokens.jsonl", &[ids]);
    bench.ok("export --model directory --profile profile.json --out folded");
    for (name, model) in [("file", "folded.gguf"), ("directory", "folded")] {
        bench.ok(&format!(
            "score --model {model} --tokens tokens.jsonl --out {name}.json"
        ));
    }
    bench.assert_near(["file.json", "directory.json"], "/log_probs", FOLDING);

    let answer = |model: &str| {
        bench.ok(&format!(
            "generate --model {model} --chat --prompt Why? --max-new-tokens 12"
        ))
    };
    let folded = answer("folded.gguf");
    assert!(folded.trim().len() > 10, "{folded}");
    assert_eq!(folded, answer("smollm2.gguf --profile profile.json"));
}
