//! Decoders in memory, written as checkpoints.

mod common;

use std::fs;

use burn::prelude::*;
use burn::tensor::DType;
use common::{distance, expected, names, open};
use pear_core::{DecoderModel, HeadCoefficients, HeadId};
use pear_models::{Decoder, DecoderConfig, ModelDirectory, log_probs};
use safetensors::SafeTensors;
use serde_json::Value;

fn config_json(directory: &ModelDirectory) -> Value {
    serde_json::from_slice(&fs::read(directory.path().join("config.json")).unwrap()).unwrap()
}

#[test]
fn what_is_saved_is_what_was_loaded_for_every_family() {
    for name in names() {
        let (directory, folder) = (open(&name), tempfile::tempdir().unwrap());
        let model = directory.load(&Device::flex(), DType::F32).unwrap();
        let out = folder.path().join("deep/saved");
        model
            .save(&config_json(&directory), DType::F32, &out)
            .unwrap();
        let saved = ModelDirectory::open(&out).unwrap();
        assert_eq!(saved.config(), directory.config(), "{name}");
        let again = saved.load(&Device::flex(), DType::F32).unwrap();
        for prompt in expected(&name).prompts {
            let error = distance(
                &log_probs(&again, &prompt).unwrap(),
                &log_probs(&model, &prompt).unwrap(),
            );
            // Rows of Baichuan 2's unembedding are scaled to length 1 once more.
            assert!(
                error <= if name.contains("baichuan") { 1e-5 } else { 0.0 },
                "{name}: {error}"
            );
        }
    }
}

#[test]
fn tensors_have_the_names_shapes_and_numbers_that_transformers_wrote() {
    // With packed projections by block and by head, turned and as they are, and a table that begins with unused rows.
    for name in [
        "llama-2",
        "gpt2",
        "mpt",
        "bloom-prefixed",
        "gpt-neox-serial",
        "opt",
        "xglm",
    ] {
        let (directory, folder) = (open(name), tempfile::tempdir().unwrap());
        let bytes = fs::read(directory.path().join("model.safetensors")).unwrap();
        let there = SafeTensors::deserialize(&bytes).unwrap();
        let (_, first) = there.iter().next().unwrap();
        let dtype = match first.dtype() {
            safetensors::Dtype::F32 => DType::F32,
            safetensors::Dtype::F16 => DType::F16,
            _ => DType::BF16,
        };
        let model = directory.load(&Device::flex(), dtype).unwrap();
        model
            .save(&config_json(&directory), dtype, folder.path())
            .unwrap();
        let bytes = fs::read(folder.path().join("model.safetensors")).unwrap();
        let here = SafeTensors::deserialize(&bytes).unwrap();
        for (tensor, written) in here.iter() {
            let wanted = there.tensor(tensor).unwrap();
            assert_eq!(
                (written.shape(), written.dtype()),
                (wanted.shape(), wanted.dtype()),
                "{name}: {tensor}"
            );
            let unused = if tensor.ends_with("embed_positions.weight") {
                2 * written.data().len() / written.shape()[0]
            } else {
                0
            };
            assert!(
                written.data()[unused..] == wanted.data()[unused..],
                "{name}: {tensor}"
            );
        }
        let missing = there
            .names()
            .into_iter()
            .filter(|tensor| here.tensor(tensor).is_err());
        let missing: Vec<_> = missing
            .filter(|tensor| !tensor.contains("lm_head") && !tensor.contains("bias"))
            .collect();
        assert!(missing.is_empty(), "{name}: {missing:?}");
    }
}

#[test]
fn a_config_of_another_model_and_open_coefficients_are_refused() {
    let (directory, folder) = (open("llama-2"), tempfile::tempdir().unwrap());
    let model = directory.load(&Device::flex(), DType::F32).unwrap();
    let mut other = config_json(&directory);
    other["rms_norm_eps"] = 0.5.into();
    let error = model
        .save(&other, DType::F32, folder.path())
        .unwrap_err()
        .to_string();
    assert!(error.contains("config.json of another model"), "{error}");
    assert!(
        model
            .save(&config_json(&directory), DType::I32, folder.path())
            .is_err()
    );
    let coefficients = HeadCoefficients::new(
        &[(HeadId::new(0, 1), 0.5)],
        &directory.shape(),
        &Device::flex(),
    )
    .unwrap();
    let reweighted = model.with_coefficients(&coefficients).unwrap();
    let error = reweighted
        .save(&config_json(&directory), DType::F32, folder.path())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("coefficients") && error.contains("fold"),
        "{error}"
    );
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    reweighted
        .fold()
        .save(&config_json(&directory), DType::F32, folder.path())
        .unwrap();
    assert!(DecoderConfig::from_json(&serde_json::json!({"model_type": "none"})).is_err());
}

#[test]
fn the_unembedding_of_baichuan_2_is_loaded_with_rows_of_length_1() {
    // It is told from Baichuan by its vocabulary alone.
    let json = serde_json::json!({
        "model_type": "baichuan", "vocab_size": 125_696, "hidden_size": 4, "num_attention_heads": 2,
        "num_hidden_layers": 1, "intermediate_size": 4, "tie_word_embeddings": false,
    });
    let config = DecoderConfig::from_json(&json).unwrap();
    assert!(config.normalized_lm_head);
    let model = config.init(&Device::flex()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    model.save(&json, DType::F32, folder.path()).unwrap();
    let loaded = ModelDirectory::open(folder.path())
        .unwrap()
        .load(&Device::flex(), DType::F32)
        .unwrap();
    // The final norm turns a basis vector of the residual stream into twice that vector: a token's four logits are twice its row.
    let rows = |model: &Decoder| {
        let basis = Tensor::<2>::eye(4, &Device::flex());
        let logits = model.logits(basis.unsqueeze::<3>());
        logits.reshape([4, 125_696]) / 2.0
    };
    let before = rows(&model);
    let expected = before.clone() / before.square().sum_dim(0).sqrt();
    let error = (rows(&loaded) - expected).abs().max().into_scalar::<f32>();
    assert!(error < 1e-4, "{error}");
}
