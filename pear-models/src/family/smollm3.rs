//! SmolLM3: Llama with layers that have no positions ([arXiv 2501.18795](https://arxiv.org/abs/2501.18795)).

use pear_core::position::PositionEmbeddingConfig;

use super::rotary::RotaryKeys;
use super::windows::{slide, window_if_used};
use super::{ConfigReader, DefaultTokens, Family, llama};
use crate::error::Error;
use crate::layer_config::LayerConfig;

pub(super) const FAMILY: Family = Family {
    model_type: "smollm3",
    default_key_value_heads: Some(4),
    rotary: Some(RotaryKeys {
        default_theta: 2e6,
        default_max_positions: 32_768,
        ..RotaryKeys::WHOLE_HEADS
    }),
    tie_word_embeddings: true,
    default_tokens: DefaultTokens {
        bos: Some(128_000),
        eos: Some(128_001),
        pad: Some(128_004),
    },
    configure_layers,
    ..llama::FAMILY
};

fn configure_layers(reader: &ConfigReader, layers: &mut [LayerConfig]) -> Result<(), Error> {
    let rotates = rotating_layers(reader, layers.len())?;
    for (layer, rotates) in layers.iter_mut().zip(rotates) {
        if !rotates {
            layer.attention.position_embedding = PositionEmbeddingConfig::None;
        }
    }
    let window = window_if_used(reader, None)?;
    slide(reader, layers, window, |_, layer| {
        layer.attention.position_embedding == PositionEmbeddingConfig::None
    })
}

/// The layers whose queries and keys are rotated: those marked 1 in `no_rope_layers`, or else all but every fourth.
fn rotating_layers(reader: &ConfigReader, num_layers: usize) -> Result<Vec<bool>, Error> {
    let interval = reader.optional_size("no_rope_layer_interval")?.unwrap_or(4);
    let Some(value) = reader.get("no_rope_layers") else {
        let rotates = |number: usize| !number.is_multiple_of(interval);
        return Ok((1..=num_layers).map(rotates).collect());
    };
    let marks = value.as_array().map(Vec::as_slice).unwrap_or_default();
    let rotates: Option<Vec<bool>> = marks
        .iter()
        .map(|mark| match mark.as_u64() {
            Some(0) => Some(false),
            Some(1) => Some(true),
            _ => None,
        })
        .collect();
    rotates
        .filter(|all| all.len() == num_layers)
        .ok_or_else(|| {
            let problem = format!("expected 0 or 1 for each of {num_layers} layers");
            reader.error("no_rope_layers", problem)
        })
}
