//! Quantised Hugging Face checkpoints: the numbers of their weights, and what transformers computes with them.

mod common;

use std::collections::BTreeMap;
use std::path::PathBuf;

use burn::tensor::DType;
use common::{Reweighted, device, distance, fixtures};
use half::{bf16, f16};
use pear_models::{DecoderConfig, ModelDirectory, StoredDtype, log_probs};
use serde::Deserialize;
use serde_json::json;

/// Nats; what f32 leaves is below 2e-5.
const TOLERANCE: f64 = 1e-4;

#[derive(Deserialize)]
struct Expected {
    weights: BTreeMap<String, String>,
    prompts: Vec<Vec<u32>>,
    log_probs: Vec<Vec<f64>>,
    reweighted: Reweighted,
}

fn folder() -> PathBuf {
    fixtures().join("quantized")
}

fn names() -> Vec<String> {
    let entries = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap());
    let mut names: Vec<String> = entries
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert!(names.len() >= 20, "only {} fixtures", names.len());
    names
}

fn open(name: &str) -> ModelDirectory {
    ModelDirectory::open(folder().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn expected(name: &str) -> Expected {
    let text = std::fs::read(folder().join(name).join("expected.json")).unwrap();
    serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn numbers(directory: &ModelDirectory, name: &str) -> Vec<f32> {
    let count = directory.tensors().info(name).unwrap().num_elements();
    let mut numbers = vec![0f32; count];
    directory
        .tensors()
        .read(name, 0..count, (&mut numbers[..]).into())
        .unwrap();
    numbers
}

#[test]
fn numbers_are_those_that_the_packages_of_the_formats_decode_bit_for_bit() {
    for name in names() {
        let directory = open(&name);
        let weights = expected(&name).weights;
        assert!(weights.len() >= 5, "{name}");
        for (tensor, hash) in weights {
            let dtype = &directory.tensors().info(&tensor).unwrap().dtype;
            assert!(
                matches!(dtype, StoredDtype::Quantized(_)),
                "{name}: `{tensor}`"
            );
            let bytes: Vec<u8> = numbers(&directory, &tensor)
                .into_iter()
                .flat_map(f32::to_le_bytes)
                .collect();
            assert_eq!(
                blake3::hash(&bytes).to_hex().as_str(),
                hash,
                "{name}: `{tensor}`"
            );
        }
    }
}

#[test]
fn log_probabilities_are_those_of_transformers_with_the_decoded_weights() {
    for name in names() {
        let (directory, expected) = (open(&name), expected(&name));
        let model = directory.load(&device(), DType::F32).unwrap();
        for (prompt, reference) in expected.prompts.iter().zip(&expected.log_probs) {
            let error = distance(&log_probs(&model, prompt).unwrap(), reference);
            assert!(
                error < TOLERANCE,
                "{name}, {} tokens: {error}",
                prompt.len()
            );
        }
    }
}

#[test]
fn re_weighted_heads_give_what_they_give_in_transformers() {
    for name in ["gptq", "nf4"] {
        let (directory, expected) = (open(name), expected(name));
        let model = directory.load(&device(), DType::F32).unwrap();
        let pairs = expected.reweighted.pairs();
        let coefficients =
            pear_core::HeadCoefficients::new(&pairs, &directory.shape(), &device()).unwrap();
        let model = model.with_coefficients(&coefficients).unwrap();
        let ours = log_probs(&model, &expected.prompts[1]).unwrap();
        let error = distance(&ours, &expected.reweighted.log_probs);
        assert!(error < TOLERANCE, "{name}: {error}");
    }
}

#[test]
fn ranges_within_rows_and_half_precision_are_the_same_numbers_rounded_once() {
    for name in names() {
        let directory = open(&name);
        let tensors = directory.tensors();
        let tensor = "model.layers.0.self_attn.o_proj.weight";
        let all = numbers(&directory, tensor);
        let width = tensors.info(tensor).unwrap().row_len();
        // Within a row, over the border of two, over the border of two bands of 32 rows.
        for range in [
            5..9,
            width - 3..width + 2,
            31 * width + 7..33 * width - 1,
            0..all.len(),
        ] {
            let exact = &all[range.clone()];
            let mut wide = vec![0f32; range.len()];
            tensors
                .read(tensor, range.clone(), (&mut wide[..]).into())
                .unwrap();
            assert_eq!(wide, exact, "{name}: {range:?}");
            let mut half = vec![f16::ZERO; range.len()];
            tensors
                .read(tensor, range.clone(), (&mut half[..]).into())
                .unwrap();
            assert!(
                half.iter()
                    .zip(exact)
                    .all(|(half, &x)| *half == f16::from_f32(x)),
                "{name}"
            );
            let mut brain = vec![bf16::ZERO; range.len()];
            tensors
                .read(tensor, range.clone(), (&mut brain[..]).into())
                .unwrap();
            assert!(
                brain
                    .iter()
                    .zip(exact)
                    .all(|(brain, &x)| *brain == bf16::from_f32(x)),
                "{name}"
            );
        }
        let beyond = tensors.read(
            tensor,
            all.len() - 1..all.len() + 1,
            (&mut [0f32; 2][..]).into(),
        );
        let error = beyond.unwrap_err().to_string();
        assert!(error.contains("o_proj.weight`: numbers"), "{name}: {error}");
    }
}

#[test]
fn the_tensors_that_hold_a_weight_are_not_presented_but_count_as_its_bytes() {
    for name in names() {
        let directory = open(&name);
        let tensors = directory.tensors();
        let ends = ["weight", "bias"];
        for tensor in tensors.names() {
            assert!(
                ends.iter().any(|end| tensor.ends_with(end)),
                "{name}: `{tensor}`"
            );
            let bytes: usize = tensors.raw(tensor).iter().map(|bytes| bytes.len()).sum();
            assert_eq!(
                bytes as u64,
                tensors.info(tensor).unwrap().num_bytes,
                "{name}: `{tensor}`"
            );
        }
        assert!(
            tensors
                .info("model.layers.0.self_attn.o_proj.scales")
                .is_none()
        );
        assert_eq!(directory.fingerprint().len(), 64);
    }
}

#[test]
fn weights_that_are_codes_are_stored_in_none_of_the_types_that_are_computed_in() {
    assert_eq!(open("gptq").stored_dtype(), None);
    let of = |name: &str| common::open(name).stored_dtype();
    assert_eq!(of("llama-2"), Some(DType::F32));
    assert_eq!(of("llama-3.1"), Some(DType::BF16));
    assert_eq!(of("opt"), Some(DType::F16));
    // Norms in f32 among weights in bf16.
    assert_eq!(of("gpt-neox"), Some(DType::BF16));
}

#[test]
fn a_config_alone_does_not_say_how_to_read_quantised_weights() {
    for key in ["quantization_config", "compression_config"] {
        let text = std::fs::read(folder().join("nf4/config.json")).unwrap();
        let mut config: serde_json::Value = serde_json::from_slice(&text).unwrap();
        config
            .as_object_mut()
            .unwrap()
            .remove("quantization_config");
        config[key] = json!({"quant_method": "gptq", "bits": 4});
        let error = DecoderConfig::from_json(&config).unwrap_err().to_string();
        assert!(error.contains(&format!("`{key}`: ")), "{error}");
        assert!(error.ends_with("open the model's directory"), "{error}");
    }
}
