//! Configs of decoders: read, written and checked.

mod common;

use common::{names, open};
use pear_core::NormConfig;
use pear_core::position::{PositionEmbeddingConfig, RotaryConfig};
use pear_models::{DecoderConfig, DecoderSizes, MlpConfig, Residual};
use serde_json::json;

fn llama() -> DecoderConfig {
    DecoderConfig::llama(DecoderSizes {
        vocab_size: 11,
        hidden_size: 12,
        intermediate_size: 20,
        num_hidden_layers: 2,
        num_attention_heads: 3,
    })
}

#[test]
fn the_config_of_every_family_survives_serde() {
    for name in names() {
        let config = open(&name).config().clone();
        let text = serde_json::to_string(&config).unwrap();
        let read: DecoderConfig = serde_json::from_str(&text).unwrap();
        assert_eq!(read, config, "{name}");
    }
}

#[test]
fn a_config_that_cannot_be_is_refused_by_its_field() {
    type Change = fn(&mut DecoderConfig);
    let cases: [(&str, Change); 15] = [
        ("num_hidden_layers", |c| c.layers.clear()),
        ("vocab_size", |c| c.vocab_size = 0),
        ("embedding_size", |c| c.embedding_size = 0),
        ("hidden_size", |c| c.hidden_size = 13),
        ("hidden_size", |c| c.layers[1].attention.hidden_size = 24),
        ("num_attention_heads", |c| {
            c.layers[1].attention.num_attention_heads = 6
        }),
        ("num_key_value_heads", |c| {
            c.layers[1].attention.num_key_value_heads = 2
        }),
        ("head_dim", |c| c.layers[0].attention.head_dim = 0),
        ("sliding_window", |c| {
            c.layers[1].attention.scores.window = Some(0)
        }),
        ("rope_theta", |c| {
            let rotary = RotaryConfig::new(4, -1.0);
            c.layers[1].attention.position_embedding = PositionEmbeddingConfig::Rotary(rotary);
        }),
        ("position_embedding", |c| {
            c.layers[1].attention.position_embedding = PositionEmbeddingConfig::Learned {
                num_positions: 8,
                width: 12,
            };
        }),
        ("position_embedding", |c| {
            let rotary = RotaryConfig::new(4, 10000.0);
            c.position_embedding = PositionEmbeddingConfig::Rotary(rotary);
        }),
        ("width", |c| {
            c.position_embedding = PositionEmbeddingConfig::Learned {
                num_positions: 8,
                width: 10,
            };
        }),
        ("norm_eps", |c| {
            c.layers[1].norm = NormConfig::Rms { eps: -1.0 }
        }),
        ("intermediate_size", |c| match &mut c.layers[1].mlp {
            MlpConfig::Dense(mlp) => mlp.intermediate_size = 0,
            other => panic!("{other:?}"),
        }),
    ];
    assert!(llama().validate().is_ok());
    for (field, change) in cases {
        let mut config = llama();
        change(&mut config);
        let expected = format!("`{field}`");
        let error = config.validate().unwrap_err().to_string();
        assert!(error.contains(&expected), "`{error}` names not {expected}");
        assert!(config.init(&burn::prelude::Device::flex()).is_err());
        let json = serde_json::to_value(&config).unwrap();
        let error = serde_json::from_value::<DecoderConfig>(json).unwrap_err();
        assert!(error.to_string().contains(&expected), "{error}");
    }
}

#[test]
fn what_differs_between_layers_is_in_their_configs() {
    let of = |name: &str| open(name).config().clone();
    let positions = |config: &DecoderConfig| -> Vec<bool> {
        let layers = config.layers.iter();
        layers
            .map(|layer| layer.attention.position_embedding != PositionEmbeddingConfig::None)
            .collect()
    };
    let windows = |config: &DecoderConfig| -> Vec<bool> {
        let layers = config.layers.iter();
        layers
            .map(|layer| layer.attention.scores.window.is_some())
            .collect()
    };
    let smollm3 = positions(&of("smollm3"));
    assert!(smollm3.contains(&true) && smollm3.contains(&false));
    assert_eq!(windows(&of("gemma-2"))[..2], [true, false]);
    assert_eq!(
        windows(&of("mistral")),
        vec![true; of("mistral").layers.len()]
    );

    let gpt2 = DecoderConfig::from_json(&json!({
        "model_type": "gpt2", "vocab_size": 9, "n_embd": 16, "n_head": 4, "n_layer": 2, "n_positions": 8,
        "scale_attn_by_inverse_layer_idx": true,
    }))
    .unwrap();
    let scales = gpt2.layers.iter().map(|layer| layer.attention.scores.scale);
    assert_eq!(scales.collect::<Vec<_>>(), [Some(0.5), Some(0.25)]);
    assert_eq!(gpt2.max_positions(), Some(8));
    assert_eq!(gpt2.layers[0].residual, Residual::Serial);
}
