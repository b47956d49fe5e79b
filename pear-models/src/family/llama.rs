//! Llama 2, 3, 3.1 and everything with their architecture: <https://huggingface.co/meta-llama>; Mistral, with a sliding window
//! ([arXiv 2310.06825](https://arxiv.org/abs/2310.06825)); SmolLM3, with layers that know no positions; Granite, with four factors.

use super::{ConfigReader, Family, attention, llama_source, windows};
use crate::config::{DecoderConfig, NormKind};
use crate::error::Error;
use pear_core::position::PositionEmbeddingConfig;

pub(super) const FAMILY: Family = Family {
    model_types: &["llama", "mistral", "smollm3", "granite"],
    prefixes: &["model.", ""],
    lm_head: "lm_head.weight",
    config,
    source: |_, parameter| llama_source(parameter),
    buffers: &["rotary_emb.inv_freq"],
};

fn config(reader: &ConfigReader, model_type: &str) -> Result<DecoderConfig, Error> {
    let mut attention = attention(reader, &["hidden_size"], &["num_attention_heads"])?;
    if let Some(heads) = reader.optional_size("num_key_value_heads")? {
        attention.num_key_value_heads = heads;
    }
    attention.qkv_bias = reader.flag("attention_bias", false)?;
    attention.output_bias = attention.qkv_bias;
    let rotary = reader.rotary(
        attention.head_dim,
        "rope_theta",
        "partial_rotary_factor",
        1.0,
    )?;
    attention.position_embedding = PositionEmbeddingConfig::Rotary(rotary);
    let num_layers = reader.layers(&["num_hidden_layers"])?;
    let (mut unpositioned, mut layer_windows) = (Vec::new(), Vec::new());
    match model_type {
        "mistral" => {
            // What transformers takes where the key is missing; `null` is none.
            let window = if reader.mentions("sliding_window") {
                reader.optional_size("sliding_window")?
            } else {
                Some(4096)
            };
            layer_windows = windows(reader, num_layers, window, |_| true)?;
        }
        "smollm3" => {
            unpositioned = unpositioned_layers(reader, num_layers)?;
            let window = reader.optional_size("sliding_window")?;
            let window = if reader.flag("use_sliding_window", false)? {
                window
            } else {
                None
            };
            layer_windows = windows(reader, num_layers, window, |layer| {
                unpositioned.get(layer) == Some(&true)
            })?;
        }
        _ => {}
    }
    // Only Granite's configs have these, and only its models read them.
    let factor = |key: &str| {
        if model_type == "granite" {
            reader.positive(key, 1.0)
        } else {
            Ok(1.0)
        }
    };
    let unless_one = |factor: f64| Some(factor).filter(|&factor| factor != 1.0);
    if model_type == "granite" {
        attention.scores.scale = Some(factor("attention_multiplier")?);
    }
    Ok(DecoderConfig {
        architecture: model_type.into(),
        windows: layer_windows,
        unpositioned,
        embedding_scale: unless_one(factor("embedding_multiplier")?),
        residual_scale: unless_one(factor("residual_multiplier")?),
        logit_scale: unless_one(factor("logits_scaling")?.recip()),
        mlp_bias: reader.flag("mlp_bias", false)?,
        activation: reader.activation(&["hidden_act"], "silu")?,
        norm: NormKind::Rms,
        norm_eps: reader.positive("rms_norm_eps", 1e-6)?,
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

/// The layers of SmolLM3 whose queries and keys are not rotated: those marked 0 in `no_rope_layers`, or else every fourth.
fn unpositioned_layers(reader: &ConfigReader, num_layers: usize) -> Result<Vec<bool>, Error> {
    let interval = reader.optional_size("no_rope_layer_interval")?.unwrap_or(4);
    let Some(value) = reader.get("no_rope_layers") else {
        return Ok((1..=num_layers)
            .map(|layer| interval > 0 && layer.is_multiple_of(interval))
            .collect());
    };
    let marks: Option<Vec<u64>> = value
        .as_array()
        .and_then(|marks| marks.iter().map(serde_json::Value::as_u64).collect());
    match marks {
        Some(marks) if marks.len() == num_layers && marks.iter().all(|mark| *mark < 2) => {
            Ok(marks.into_iter().map(|mark| mark == 0).collect())
        }
        _ => Err(reader.error(
            "no_rope_layers",
            format!("expected 0 or 1 for each of {num_layers} layers"),
        )),
    }
}
