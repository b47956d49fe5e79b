//! GGUF files as llama.cpp's converter writes them, against transformers on the models that they were converted from.

mod common;

use std::collections::BTreeMap;
use std::path::PathBuf;

use burn::tensor::DType;
use common::{device, distance, fixtures};
use pear_models::{ModelDirectory, log_probs};
use serde::Deserialize;

/// Nats; the files hold the same numbers as what transformers read, in f32, f16 or blocks that are decoded exactly.
const TOLERANCE: f64 = 1e-4;

#[derive(Deserialize)]
struct Expected {
    prompts: Vec<Vec<u32>>,
    log_probs: Vec<Vec<f64>>,
}

fn expected() -> BTreeMap<String, Expected> {
    let text = std::fs::read(fixtures().join("gguf/expected.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

fn file(name: &str) -> PathBuf {
    fixtures().join(format!("gguf/{name}.gguf"))
}

fn open(name: &str) -> ModelDirectory {
    ModelDirectory::open(file(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

#[test]
fn log_probabilities_are_those_of_transformers_on_the_same_model() {
    let expected = expected();
    assert!(expected.len() >= 25, "only {} models", expected.len());
    let mut problems = Vec::new();
    for (name, expected) in expected {
        let model = match ModelDirectory::open(file(&name)) {
            Ok(directory) => directory.load(&device(), DType::F32).unwrap(),
            Err(error) => {
                problems.push(error.to_string());
                continue;
            }
        };
        for (prompt, reference) in expected.prompts.iter().zip(&expected.log_probs) {
            let ours = log_probs(&model, prompt).unwrap();
            let error = distance(&ours, reference);
            if error >= TOLERANCE {
                problems.push(format!("{name}, {} tokens: {error}", prompt.len()));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
