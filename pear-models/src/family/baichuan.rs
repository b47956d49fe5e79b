//! Baichuan and Baichuan 2: Llama with packed projections; the 13B models have ALiBi in place of rotary positions.

use super::{ConfigReader, Family, Parameter, PositionEmbeddingConfig, attention, llama_source};
use crate::config::DecoderConfig;
use crate::error::Error;
use crate::source::Source;

pub(super) const FAMILY: Family = Family {
    model_types: &["baichuan"],
    prefixes: &["model.", ""],
    lm_head: "lm_head.weight",
    config,
    source,
    buffers: &["rotary_emb.inv_freq", "future_mask"],
};

/// The width of the 7B models, which are the rotary ones. The configs do not say it; the code beside each checkpoint differs.
const ROTARY_WIDTH: usize = 4096;
/// The vocabulary of Baichuan 2, which scales the rows of its unembedding to length 1.
const NORMALIZED_HEAD_VOCABULARY: usize = 125_696;

fn config(reader: &ConfigReader, model_type: &str) -> Result<DecoderConfig, Error> {
    let mut attention = attention(reader, &["hidden_size"], &["num_attention_heads"])?;
    let vocab_size = reader.size(&["vocab_size"])?;
    // Read by the rotary models; the ALiBi ones have no limit.
    let rotary = reader.rotary(
        attention.head_dim,
        "rope_theta",
        "partial_rotary_factor",
        1.0,
    );
    attention.position_embedding = if attention.hidden_size == ROTARY_WIDTH {
        PositionEmbeddingConfig::Rotary(rotary?)
    } else {
        PositionEmbeddingConfig::Alibi {
            num_heads: attention.num_attention_heads,
            max_bias: 8.0,
        }
    };
    Ok(DecoderConfig {
        architecture: model_type.into(),
        activation: reader.activation(&["hidden_act"], "silu")?,
        norm_eps: reader.positive("rms_norm_eps", 1e-6)?,
        tie_word_embeddings: reader.flag("tie_word_embeddings", false)?,
        normalized_lm_head: vocab_size == NORMALIZED_HEAD_VOCABULARY,
        attention: attention.clone(),
        ..DecoderConfig::llama(
            vocab_size,
            attention.hidden_size,
            reader.size(&["intermediate_size"])?,
            reader.layers(&["num_hidden_layers"])?,
            attention.num_attention_heads,
        )
    })
}

fn source(_config: &DecoderConfig, parameter: &Parameter) -> Option<Source> {
    let packed = match parameter.name {
        "self_attn.q_proj.weight" => 0,
        "self_attn.k_proj.weight" => 1,
        "self_attn.v_proj.weight" => 2,
        _ => return llama_source(parameter),
    };
    let name = format!("layers.{}.self_attn.W_pack.weight", parameter.layer?);
    Some(Source::linear(name).block(packed, 3))
}
