//! StableLM 3B and StableLM 2: Llama with mean-and-variance norms and rotary positions on part of each head.

use super::{ConfigReader, Family, PositionEmbeddingConfig, attention, llama_source};
use crate::config::{DecoderConfig, NormKind, Residual};
use crate::error::Error;

pub(super) const FAMILY: Family = Family {
    model_types: &["stablelm"],
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
    attention.qkv_bias = reader.flag("use_qkv_bias", false)?;
    // A norm for each head with weights of its own: the 12B model alone.
    reader.only("qk_layernorm", false.into())?;
    attention.position_embedding = PositionEmbeddingConfig::Rotary(reader.rotary(
        attention.head_dim,
        "rope_theta",
        "partial_rotary_factor",
        0.25,
    )?);
    let parallel = reader.flag("use_parallel_residual", false)?;
    Ok(DecoderConfig {
        architecture: model_type.into(),
        activation: reader.activation(&["hidden_act"], "silu")?,
        norm: NormKind::Layer { bias: true },
        norm_eps: reader.positive("layer_norm_eps", 1e-5)?,
        residual: if parallel {
            Residual::ParallelOneNorm
        } else {
            Residual::Serial
        },
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
