//! Qwen2, Qwen2.5 and Qwen3: Llama with biases on queries, keys and values, or with norms on queries and keys.

use super::{ConfigReader, Family, attention, llama_source, windows};
use crate::config::DecoderConfig;
use crate::error::Error;
use pear_core::position::PositionEmbeddingConfig;
use pear_core::{NormConfig, QkNorm};

pub(super) const FAMILY: Family = Family {
    model_types: &["qwen2", "qwen3"],
    prefixes: &["model.", ""],
    lm_head: "lm_head.weight",
    config,
    source: |_, parameter| llama_source(parameter),
    buffers: &["rotary_emb.inv_freq"],
};

fn config(reader: &ConfigReader, model_type: &str) -> Result<DecoderConfig, Error> {
    let qwen3 = model_type == "qwen3";
    let mut attention = attention(reader, &["hidden_size"], &["num_attention_heads"])?;
    if qwen3 && !reader.has("head_dim") {
        attention.head_dim = 128;
    }
    if let Some(heads) = reader.optional_size("num_key_value_heads")? {
        attention.num_key_value_heads = heads;
    }
    let norm_eps = reader.positive("rms_norm_eps", 1e-6)?;
    if qwen3 {
        attention.qkv_bias = reader.flag("attention_bias", false)?;
        attention.output_bias = attention.qkv_bias;
        attention.qk_norm = Some(QkNorm::Head(NormConfig::Rms { eps: norm_eps }));
    } else {
        attention.qkv_bias = true;
    }
    let rotary = reader.rotary(
        attention.head_dim,
        "rope_theta",
        "partial_rotary_factor",
        1.0,
    )?;
    attention.position_embedding = PositionEmbeddingConfig::Rotary(rotary);

    let num_layers = reader.layers(&["num_hidden_layers"])?;
    let window = reader.optional_size("sliding_window")?;
    let window = window.filter(|_| reader.flag("use_sliding_window", false).unwrap_or(false));
    reader.flag("use_sliding_window", false)?;
    let from = match reader.get("max_window_layers").map(|value| value.as_u64()) {
        None => 28,
        Some(Some(from)) => from as usize,
        Some(None) => return Err(reader.error("max_window_layers", "expected a whole number")),
    };
    Ok(DecoderConfig {
        architecture: model_type.into(),
        windows: windows(reader, num_layers, window, |layer| layer >= from)?,
        activation: reader.activation(&["hidden_act"], "silu")?,
        norm_eps,
        tie_word_embeddings: reader.flag("tie_word_embeddings", false)?,
        attention: attention.clone(),
        ..DecoderConfig::llama(
            reader.size(&["vocab_size"])?,
            attention.hidden_size,
            reader.size(&["intermediate_size"])?,
            num_layers,
            attention.num_attention_heads,
        )
    })
}
