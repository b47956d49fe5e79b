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
    assert!(expected.len() >= 50, "only {} models", expected.len());
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
        "olmo",
        "olmo3",
        "arcee",
        "seed-oss",
        "cohere2",
        "glm4",
        "gpt-bigcode",
    ] {
        let mut converted = open(name).config().clone();
        let original = common::open(name).config().clone();
        converted.special_tokens = original.special_tokens.clone();
        converted.eos_tokens = original.eos_tokens.clone();
        converted.bos_token = original.bos_token;
        assert_eq!(converted, original, "{name}");
    }
}

/// The bytes of a file with another number of four bytes under a key.
fn with_number(name: &str, key: &str, number: [u8; 4]) -> Vec<u8> {
    let mut bytes = fs::read(file(name)).unwrap();
    let found = bytes.windows(key.len()).position(|w| w == key.as_bytes());
    // The type of the number is between them.
    let start = found.unwrap() + key.len() + 4;
    bytes[start..start + 4].copy_from_slice(&number);
    bytes
}

/// The bytes of a file with three numbers under one more key, whose length keeps the tensors aligned.
fn with_three_numbers(name: &str, key: &str, numbers: [u32; 3]) -> Vec<u8> {
    const COUNT: std::ops::Range<usize> = 16..24;
    let mut entry = (key.len() as u64).to_le_bytes().to_vec();
    entry.extend(key.bytes());
    // A list of u32.
    entry.extend([9u32, 4].map(u32::to_le_bytes).concat());
    entry.extend(3u64.to_le_bytes());
    entry.extend(numbers.map(u32::to_le_bytes).concat());
    assert!(entry.len().is_multiple_of(32));
    let mut bytes = fs::read(file(name)).unwrap();
    let count = u64::from_le_bytes(bytes[COUNT].try_into().unwrap()) + 1;
    bytes[COUNT].copy_from_slice(&count.to_le_bytes());
    bytes.splice(COUNT.end..COUNT.end, entry);
    bytes
}

#[test]
fn metadata_that_ask_for_another_model_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let open = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        ModelDirectory::open(&path)
    };
    let base = with_number("olmo3", "olmo2.rope.freq_base_swa", 1e4f32.to_le_bytes());
    // Rotated channels are counted by the hidden size divided among the heads.
    let heads = with_number("nemotron", "nemotron.embedding_length", 24u32.to_le_bytes());
    let window = with_number("cohere2", "cohere2.attention.sliding_window", [0; 4]);
    let key = "glm4.rope.dimension_sections";
    let sections = with_three_numbers("glm4", key, [1, 1, 2]);
    for (bytes, expected) in [
        (
            base,
            "`olmo2.rope.freq_base_swa`: is 10000: expected 500000",
        ),
        (heads, "`nemotron.attention.key_length`: is 16: expected 8"),
        (
            window,
            "`cohere2.attention.sliding_window`: is 0: expected a window",
        ),
        (
            sections,
            "`glm4.rope.dimension_sections`: divides channels among positions of several kinds",
        ),
    ] {
        let error = open(&bytes).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    // Without a window, the file is one of OLMo 2; sections of no channels are none.
    let olmo2 = with_number("olmo3", "olmo2.attention.sliding_window", [0; 4]);
    assert_eq!(open(&olmo2).unwrap().config().architecture, "olmo2");
    assert!(open(&with_three_numbers("glm4", key, [0; 3])).is_ok());
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
