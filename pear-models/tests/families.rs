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
