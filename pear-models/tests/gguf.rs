//! GGUF files as llama.cpp's converter writes them, against transformers on the models that they were converted from.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::DType;
use common::{device, distance, fixtures};
use half::{bf16, f16};
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
    let text = fs::read(fixtures().join("gguf/expected.json")).unwrap();
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
    assert!(expected.len() >= 38, "only {} models", expected.len());
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

#[test]
fn a_split_model_needs_all_its_parts_and_is_named_by_the_first() {
    let names: Vec<_> = (1..=3)
        .map(|part| format!("split-{part:05}-of-00003"))
        .collect();
    let whole = open("llama-biases");
    let parts = open(&names[0]);
    assert_eq!(parts.fingerprint(), whole.fingerprint());

    let message = |path: &Path| ModelDirectory::open(path).unwrap_err().to_string();
    let error = message(&file(&names[1]));
    assert!(
        error.contains("is part 2 of 3: give the first one, ")
            && error.ends_with("split-00001-of-00003.gguf"),
        "{error}"
    );
    let folder = tempfile::tempdir().unwrap();
    let copy = |from: &str, to: &str| {
        let to = folder.path().join(format!("{to}.gguf"));
        fs::copy(file(from), &to).unwrap();
        to
    };
    let renamed = copy(&names[0], "model");
    assert!(
        message(&renamed).contains(
            "is the first of 3 parts: expected a name that ends with -00001-of-00003.gguf"
        )
    );
    let first = copy(&names[0], &names[0]);
    let error = message(&first);
    assert!(
        error.contains("split-00002-of-00003.gguf: cannot open"),
        "{error}"
    );
    copy(&names[2], &names[1]);
    assert!(message(&first).contains("is not part 2 of 3, as its name says"));
    copy(&names[1], &names[1]);
    copy(&names[2], &names[2]);
    assert!(ModelDirectory::open(&first).is_ok());
}

#[test]
fn special_tokens_and_ends_of_texts_are_those_of_the_metadata() {
    let directory = open("llama-2");
    // Unknown, begin, end and, last of all, an unused one.
    assert_eq!(directory.special_tokens().unwrap(), [0, 1, 2, 96]);
    assert_eq!(directory.eos_tokens().unwrap(), [2]);
    assert_eq!(directory.config().bos_token, Some(1));
    assert_eq!(directory.trained_length().unwrap(), Some(128));
    let fingerprint = directory.tokenizer_fingerprint().unwrap().unwrap();
    assert_eq!(
        open("qwen3").tokenizer_fingerprint().unwrap(),
        Some(fingerprint)
    );
}

#[test]
fn blocks_are_rounded_once_to_half_precision() {
    let directory = open("quantized");
    let tensors = directory.tensors();
    let mut blocks = BTreeSet::new();
    for name in tensors.names() {
        let info = tensors.info(name).unwrap();
        blocks.insert(info.dtype.to_string());
        let len = info.num_elements();
        // Within a block, across several, and to the end.
        for range in [0..len, 5..7, 33..len.min(2075), len - 3..len] {
            let mut single = vec![0f32; range.len()];
            let mut half = vec![f16::ZERO; range.len()];
            let mut brain = vec![bf16::ZERO; range.len()];
            let read = |into| tensors.read(name, range.clone(), into).unwrap();
            read((&mut single[..]).into());
            read((&mut half[..]).into());
            read((&mut brain[..]).into());
            for ((x, half), brain) in single.iter().zip(half).zip(brain) {
                assert_eq!((half, brain), (f16::from_f32(*x), bf16::from_f32(*x)));
            }
        }
    }
    let expected = ["BF16", "F16", "F32", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"];
    assert!(blocks.iter().eq(expected), "{blocks:?}");
    let error = tensors
        .read("output.weight", 0..1 << 40, (&mut [0f32; 1][..]).into())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("quantized.gguf: tensor `output.weight`: numbers 0..1099511627776 of"),
        "{error}"
    );
}

#[test]
fn the_config_is_that_of_the_directory_that_was_converted() {
    for name in [
        "llama-2",
        "llama-biases",
        "llama-linear",
        "qwen3",
        "olmo2",
        "granite",
        "phi",
        "mixtral",
        "qwen3-moe",
        "granite-moe",
    ] {
        let mut converted = open(name).config().clone();
        let original = common::open(name).config().clone();
        converted.special_tokens = original.special_tokens.clone();
        converted.eos_tokens = original.eos_tokens.clone();
        converted.bos_token = original.bos_token;
        assert_eq!(converted, original, "{name}");
    }
}

#[test]
fn other_files_are_refused_with_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let message = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        ModelDirectory::open(&path).unwrap_err().to_string()
    };
    assert!(message(b"").contains("model.gguf: is not a GGUF file"));
    assert!(message(b"PK\x03\x04").contains("is not a GGUF file"));
    let mut bytes = fs::read(file("llama-2")).unwrap();
    let found = bytes.windows(5).position(|window| window == b"llama");
    bytes[found.unwrap()] = b'g';
    let error = message(&bytes);
    assert!(
        error.contains("`general.architecture`: is \"glama\": supported are llama, "),
        "{error}"
    );
    let missing = ModelDirectory::open(folder.path().join("absent.gguf")).unwrap_err();
    assert!(
        missing.to_string().contains("absent.gguf: cannot open"),
        "{missing}"
    );
}
