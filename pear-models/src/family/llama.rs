//! Llama 2, 3, 3.1 and everything with their architecture: <https://huggingface.co/meta-llama>.

use super::{ConfigReader, Family, attention, llama_source};
use crate::config::{DecoderConfig, NormKind};
use crate::error::Error;
use pear_core::position::PositionEmbeddingConfig;

pub(super) const FAMILY: Family = Family {
    model_types: &["llama"],
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
    let rotary = reader.rotary(attention.head_dim, "rope_theta", "partial_rotary_factor", 1.0)?;
    attention.position_embedding = PositionEmbeddingConfig::Rotary(rotary);
    Ok(DecoderConfig {
        architecture: model_type.into(),
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
            reader.layers(&["num_hidden_layers"])?,
            attention.num_attention_heads,
        )
    })
}
