//! Phi-3 and Phi-4-mini ([arXiv 2404.14219](https://arxiv.org/abs/2404.14219)): Llama with packed projections, LongRoPE.

use super::{
    ConfigReader, Family, Parameter, PositionEmbeddingConfig, attention, llama_source, windows,
};
use crate::config::DecoderConfig;
use crate::error::Error;
use crate::source::Source;

pub(super) const FAMILY: Family = Family {
    model_types: &["phi3"],
    prefixes: &["model.", ""],
    lm_head: "lm_head.weight",
    config,
    source,
    buffers: &["rotary_emb.inv_freq"],
};

fn config(reader: &ConfigReader, model_type: &str) -> Result<DecoderConfig, Error> {
    let mut attention = attention(reader, &["hidden_size"], &["num_attention_heads"])?;
    if let Some(heads) = reader.optional_size("num_key_value_heads")? {
        attention.num_key_value_heads = heads;
    }
    reader.only("attention_bias", false.into())?;
    attention.position_embedding = PositionEmbeddingConfig::Rotary(reader.rotary(
        attention.head_dim,
        "rope_theta",
        "partial_rotary_factor",
        1.0,
    )?);
    // Read with the scaling, if there is one.
    reader.optional_size("original_max_position_embeddings")?;
    let num_layers = reader.layers(&["num_hidden_layers"])?;
    Ok(DecoderConfig {
        architecture: model_type.into(),
        windows: windows(
            reader,
            num_layers,
            reader.optional_size("sliding_window")?,
            |_| true,
        )?,
        activation: reader.activation(&["hidden_act"], "silu")?,
        norm_eps: reader.positive("rms_norm_eps", 1e-5)?,
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

fn source(config: &DecoderConfig, parameter: &Parameter) -> Option<Source> {
    let attention = &config.attention;
    let (query, key) = (
        attention.num_attention_heads * attention.head_dim,
        attention.num_key_value_heads * attention.head_dim,
    );
    let packed = |name: &str| {
        Some(Source::linear(format!(
            "layers.{}.{name}.weight",
            parameter.layer?
        )))
    };
    match parameter.name {
        "self_attn.q_proj.weight" => {
            Some(packed("self_attn.qkv_proj")?.strided(0, query, query + 2 * key))
        }
        "self_attn.k_proj.weight" => {
            Some(packed("self_attn.qkv_proj")?.strided(query, key, query + 2 * key))
        }
        "self_attn.v_proj.weight" => {
            Some(packed("self_attn.qkv_proj")?.strided(query + key, key, query + 2 * key))
        }
        "mlp.gate_proj.weight" => Some(packed("mlp.gate_up_proj")?.block(0, 2)),
        "mlp.up_proj.weight" => Some(packed("mlp.gate_up_proj")?.block(1, 2)),
        _ => llama_source(parameter),
    }
}
