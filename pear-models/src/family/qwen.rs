//! Qwen2, Qwen2.5 and Qwen3: Llama with biases on queries, keys and values, or with norms on queries and keys.

use pear_core::QkNorm;

use super::rotary::RotaryKeys;
use super::windows::{DEFAULT_WINDOW, slide, window_if_used};
use super::{ConfigReader, DefaultTokens, Family, Flag, llama};
use crate::error::Error;
use crate::layer_config::LayerConfig;

pub(super) const QWEN2: Family = Family {
    model_type: "qwen2",
    default_key_value_heads: Some(32),
    rotary: Some(ROTARY),
    attention_bias: Flag::Always(false),
    mlp_bias: Flag::Always(false),
    default_tokens: DefaultTokens::NONE,
    configure: |_, _, layer| {
        layer.attention.qkv_bias = true;
        Ok(())
    },
    configure_layers,
    ..llama::FAMILY
};

pub(super) const QWEN3: Family = Family {
    model_type: "qwen3",
    default_key_value_heads: Some(32),
    rotary: Some(ROTARY),
    head_dim: Some(128),
    mlp_bias: Flag::Always(false),
    default_tokens: DefaultTokens::NONE,
    configure: |_, _, layer| {
        layer.attention.qk_norm = Some(QkNorm::Head(layer.norm));
        Ok(())
    },
    configure_layers,
    ..llama::FAMILY
};

const ROTARY: RotaryKeys = RotaryKeys {
    default_max_positions: 32_768,
    ..RotaryKeys::WHOLE_HEADS
};

/// Layers from `max_window_layers` on have the window, if it is used at all.
fn configure_layers(reader: &ConfigReader, layers: &mut [LayerConfig]) -> Result<(), Error> {
    let window = window_if_used(reader, Some(DEFAULT_WINDOW))?;
    let first = match reader.get("max_window_layers").map(|value| value.as_u64()) {
        None => 28,
        Some(Some(first)) => first as usize,
        Some(None) => return Err(reader.error("max_window_layers", "expected a whole number")),
    };
    slide(reader, layers, window, |layer, _| layer >= first)
}
