//! OLMo 2 ([arXiv 2501.00656](https://arxiv.org/abs/2501.00656)): norms after attention and MLP, and on whole queries and keys.

use pear_core::{NormConfig, QkNorm};

use super::{ConfigReader, Family, PositionEmbeddingConfig, attention, llama_source};
use crate::config::{DecoderConfig, NormKind, Residual};
use crate::error::Error;

pub(super) const FAMILY: Family = Family {
    model_types: &["olmo2"],
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
    let norm_eps = reader.positive("rms_norm_eps", 1e-5)?;
    attention.qk_norm = Some(QkNorm::Projection(NormConfig::RmsRoundedOnce {
        eps: norm_eps,
    }));
    attention.position_embedding = PositionEmbeddingConfig::Rotary(reader.rotary(
        attention.head_dim,
        "rope_theta",
        "partial_rotary_factor",
        1.0,
    )?);
    Ok(DecoderConfig {
        architecture: model_type.into(),
        activation: reader.activation(&["hidden_act"], "silu")?,
        norm: NormKind::RmsRoundedOnce,
        norm_eps,
        residual: Residual::NormedBranches,
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
