//! What configs say by leaving keys out, and checkpoints that hold more than a decoder.

mod common;

use std::collections::HashMap;
use std::fs;

use burn::prelude::*;
use burn::tensor::DType;
use common::{expected, open};
use pear_core::position::{PositionEmbeddingConfig, RotaryConfig, RotaryScaling};
use pear_models::{DecoderConfig, LayerConfig, ModelDirectory, log_probs};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::json;

fn rotary(layer: &LayerConfig) -> &RotaryConfig {
    match &layer.attention.position_embedding {
        PositionEmbeddingConfig::Rotary(rotary) => rotary,
        other => panic!("{other:?}"),
    }
}

/// The windows of all layers.
fn windows(config: &DecoderConfig) -> Vec<Option<usize>> {
    let layers = config.layers.iter();
    layers.map(|layer| layer.attention.scores.window).collect()
}

#[test]
fn gemma_3_has_the_defaults_of_transformers() {
    // As google/gemma-3-4b-it is published.
    let config = DecoderConfig::from_json(&json!({
        "architectures": ["Gemma3ForConditionalGeneration"], "boi_token_index": 255999, "eoi_token_index": 256000,
        "eos_token_id": [1, 106], "image_token_index": 262144, "initializer_range": 0.02, "mm_tokens_per_image": 256,
        "model_type": "gemma3",
        "text_config": {
            "hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 34,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024,
        },
        "torch_dtype": "bfloat16", "transformers_version": "4.50.0.dev0",
        "vision_config": {"hidden_size": 1152, "image_size": 896, "model_type": "siglip_vision_model"},
    }))
    .unwrap();
    let layer = &config.layers[0];
    assert_eq!(config.vocab_size, 262_208);
    assert_eq!(layer.attention.num_attention_heads, 8);
    assert_eq!(layer.attention.num_key_value_heads, 4);
    assert_eq!(layer.attention.head_dim, 256);
    assert_eq!(layer.attention.scores.scale, Some(1.0 / 16.0));
    assert_eq!(config.bos_token, Some(2));
    assert_eq!(config.eos_tokens, [1, 106]);
    for special in [0, 1, 2, 106, 255_999, 256_000, 262_144] {
        assert!(config.special_tokens.contains(&special), "{special}");
    }
    for (index, window) in windows(&config).into_iter().enumerate() {
        let (rotary, is_full) = (rotary(&config.layers[index]), index % 6 == 5);
        assert_eq!(window, (!is_full).then_some(1024), "{index}");
        let base = if is_full { 1e6 } else { 1e4 };
        assert_eq!(rotary.rope_theta, base, "{index}");
        let is_scaled = rotary.scaling == RotaryScaling::Linear { factor: 8.0 };
        assert_eq!(is_scaled, is_full, "{index}");
    }
    let missing = DecoderConfig::from_json(&json!({"model_type": "gemma3"})).unwrap_err();
    assert!(missing.to_string().contains("text_config"), "{missing}");
}

#[test]
fn rotary_positions_by_type_of_layer_are_read_in_the_new_form_too() {
    let config = DecoderConfig::from_json(&json!({
        "model_type": "gemma3_text", "vocab_size": 11, "hidden_size": 8, "intermediate_size": 12,
        "num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 2, "head_dim": 8,
        "layer_types": ["full_attention", "sliding_attention"], "sliding_window": 4, "dtype": "bfloat16",
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e5},
            "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
        },
    }))
    .unwrap();
    assert_eq!(windows(&config), [None, Some(4)]);
    let bases: Vec<f64> = config
        .layers
        .iter()
        .map(|layer| rotary(layer).rope_theta)
        .collect();
    assert_eq!(bases, [5e5, 2e4]);
    let scaling = &rotary(&config.layers[0]).scaling;
    assert_eq!(*scaling, RotaryScaling::Linear { factor: 4.0 });
}

#[test]
fn a_text_model_within_a_multimodal_checkpoint_is_found_under_either_name() {
    let (directory, folder) = (open("gemma-3-multimodal"), tempfile::tempdir().unwrap());
    let files: Vec<Vec<u8>> = (1..=2)
        .map(|shard| format!("model-{shard:05}-of-00002.safetensors"))
        .map(|file| fs::read(directory.path().join(file)).unwrap())
        .collect();
    let shards: Vec<_> = files
        .iter()
        .map(|file| SafeTensors::deserialize(file).unwrap())
        .collect();
    let renamed: HashMap<String, TensorView> = shards
        .iter()
        .flat_map(SafeTensors::iter)
        .map(
            |(name, tensor)| match name.strip_prefix("language_model.model.") {
                Some(rest) => (format!("model.language_model.{rest}"), tensor),
                None => (format!("model.{name}"), tensor),
            },
        )
        .collect();
    assert!(
        renamed.contains_key("model.vision_tower.vision_model.embeddings.patch_embedding.weight")
    );
    let path = folder.path().join("model.safetensors");
    safetensors::serialize_to_file(renamed, None, &path).unwrap();
    let config = directory.path().join("config.json");
    fs::copy(config, folder.path().join("config.json")).unwrap();

    let other = ModelDirectory::open(folder.path()).unwrap();
    let load = |directory: &ModelDirectory| directory.load(&Device::flex(), DType::F32).unwrap();
    let (ours, theirs) = (load(&directory), load(&other));
    for prompt in expected("gemma-3-multimodal").prompts {
        let log_probs = |model| log_probs(model, &prompt).unwrap();
        assert_eq!(log_probs(&ours), log_probs(&theirs));
    }
}

/// The layers with rotary positions.
fn rotated(config: &DecoderConfig) -> Vec<bool> {
    let layers = config.layers.iter();
    layers
        .map(|layer| layer.attention.position_embedding != PositionEmbeddingConfig::None)
        .collect()
}

#[test]
fn cohere2_and_exaone4_have_positions_where_transformers_has_them() {
    let read = |model_type: &str, window: serde_json::Value| {
        DecoderConfig::from_json(&json!({
            "model_type": model_type, "vocab_size": 11, "hidden_size": 8, "intermediate_size": 12,
            "num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 4, "sliding_window": window,
        }))
        .unwrap()
    };
    for model_type in ["cohere2", "exaone4"] {
        let config = read(model_type, json!(6));
        let expected = [Some(6), Some(6), Some(6), None];
        assert_eq!(windows(&config), expected, "{model_type}");
        assert_eq!(rotated(&config), [true, true, true, false], "{model_type}");
    }
    // Without a window the one rotates nowhere and the other everywhere.
    for (model_type, expected) in [("cohere2", false), ("exaone4", true)] {
        let config = read(model_type, json!(null));
        assert_eq!(windows(&config), [None; 4], "{model_type}");
        assert_eq!(rotated(&config), [expected; 4], "{model_type}");
    }
}

#[test]
fn layers_of_gpt_neo_are_listed_with_repetitions() {
    let read = |types: serde_json::Value| {
        DecoderConfig::from_json(&json!({
            "model_type": "gpt_neo", "vocab_size": 11, "hidden_size": 8, "num_heads": 2, "num_layers": 3,
            "attention_types": types,
        }))
    };
    let config = read(json!([[["local"], 2], [["global"], 1]])).unwrap();
    assert_eq!(windows(&config), [Some(256), Some(256), None]);
    for wrong in [
        json!([[["global", "local"], 1]]),
        json!([[["global"], 4_000_000_000_u64]]),
        json!([[["global"], 3], [["local"], 3]]),
        json!([[["global", "sparse", "local"], 1]]),
        json!([["global", "local", "global"]]),
        json!("global"),
    ] {
        let error = read(wrong.clone()).unwrap_err().to_string();
        assert!(error.contains("`attention_types`"), "{wrong}: {error}");
    }
}

#[test]
fn special_tokens_that_a_config_leaves_out_are_those_of_its_family() {
    let cases: [(&str, Option<u32>, &[u32]); 12] = [
        ("arcee", Some(128_000), &[128_001]),
        ("cohere", Some(5), &[255_001]),
        ("cohere2", Some(5), &[255_001]),
        ("exaone4", Some(0), &[2]),
        ("glm", None, &[151_329, 151_336, 151_338]),
        ("glm4", None, &[151_329, 151_336, 151_338]),
        ("gpt_bigcode", Some(50_256), &[50_256]),
        ("gpt_neo", Some(50_256), &[50_256]),
        ("nemotron", Some(2), &[3]),
        ("olmo", None, &[50_279]),
        ("olmo3", None, &[50_279]),
        ("seed_oss", Some(0), &[2]),
    ];
    for (model_type, bos, eos) in cases {
        let config = DecoderConfig::from_json(&json!({
            "model_type": model_type, "vocab_size": 256_000, "hidden_size": 64, "intermediate_size": 12,
            "num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 24,
        }))
        .unwrap();
        assert_eq!(config.bos_token, bos, "{model_type}");
        assert_eq!(config.eos_tokens, eos, "{model_type}");
        let special = &config.special_tokens;
        assert!(eos.iter().all(|id| special.contains(id)), "{model_type}");
    }
}

#[test]
fn a_clip_that_leaves_nothing_of_queries_is_refused() {
    let config = DecoderConfig::from_json(&json!({
        "model_type": "olmo", "vocab_size": 11, "hidden_size": 8, "intermediate_size": 12,
        "num_attention_heads": 2, "num_hidden_layers": 1, "clip_qkv": -8.0,
    }));
    let error = config.unwrap_err().to_string();
    assert!(error.contains("`clip_qkv`"), "{error}");
}

#[test]
fn the_trained_length_of_a_multimodal_model_is_that_of_its_text_model() {
    let source = common::fixtures().join("gemma-3-multimodal");
    let folder = tempfile::tempdir().unwrap();
    for file in fs::read_dir(&source).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    let path = folder.path().join("config.json");
    let config = fs::read_to_string(&path).unwrap();
    let text_config = r#""text_config": {"max_position_embeddings": 77, "unread": NaN,"#;
    let changed = config.replacen(r#""text_config": {"#, text_config, 1);
    assert_ne!(config, changed);
    fs::write(&path, changed).unwrap();
    let directory = ModelDirectory::open(folder.path()).unwrap();
    assert_eq!(directory.trained_length().unwrap(), Some(77));
}
