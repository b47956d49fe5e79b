//! BLOOM ([arXiv 2211.05100](https://arxiv.org/abs/2211.05100)): ALiBi, a norm after the embedding, projections packed head by head.

use pear_core::kernels::Activation;

use super::{ConfigReader, Family, Parameter, PositionEmbeddingConfig, attention};
use crate::config::{DecoderConfig, NormKind, Residual};
use crate::error::Error;
use crate::source::Source;

pub(super) const FAMILY: Family = Family {
    model_types: &["bloom"],
    prefixes: &["transformer.", ""],
    lm_head: "lm_head.weight",
    config,
    source,
    buffers: &[".attn.bias", ".attn.masked_bias"],
};

fn config(reader: &ConfigReader, model_type: &str) -> Result<DecoderConfig, Error> {
    // Older checkpoints spell the width `n_embed`, the heads `num_attention_heads`.
    let mut attention = attention(
        reader,
        &["hidden_size", "n_embed"],
        &["n_head", "num_attention_heads"],
    )?;
    (attention.qkv_bias, attention.output_bias) = (true, true);
    attention.position_embedding = PositionEmbeddingConfig::Alibi {
        num_heads: attention.num_attention_heads,
        max_bias: 8.0,
    };
    let from_norm = reader.flag("apply_residual_connection_post_layernorm", false)?;
    let hidden_size = attention.hidden_size;
    Ok(DecoderConfig {
        architecture: model_type.into(),
        gated_mlp: false,
        mlp_bias: true,
        activation: Activation::GeluTanh,
        norm: NormKind::Layer { bias: true },
        norm_eps: reader.positive("layer_norm_epsilon", 1e-5)?,
        residual: if from_norm {
            Residual::SerialFromNorm
        } else {
            Residual::Serial
        },
        embedding_norm: true,
        tie_word_embeddings: reader.flag("tie_word_embeddings", true)?,
        attention: attention.clone(),
        ..DecoderConfig::llama(
            reader.size(&["vocab_size"])?,
            hidden_size,
            reader.optional_size("n_inner")?.unwrap_or(4 * hidden_size),
            reader.layers(&["n_layer", "num_hidden_layers"])?,
            attention.num_attention_heads,
        )
    })
}

fn source(config: &DecoderConfig, parameter: &Parameter) -> Option<Source> {
    let Some(layer) = parameter.layer else {
        return Some(match parameter.name {
            "embed_tokens" => Source::as_is("word_embeddings.weight"),
            name if name.starts_with("embed_norm") => {
                Source::as_is(name.replace("embed_norm", "word_embeddings_layernorm"))
            }
            name => Source::as_is(format!("ln_f{}", name.strip_prefix("norm")?)),
        });
    };
    let (module, kind) = parameter.name.rsplit_once('.')?;
    let (module, packed) = match module {
        "self_attn.q_proj" => ("self_attention.query_key_value", Some(0)),
        "self_attn.k_proj" => ("self_attention.query_key_value", Some(1)),
        "self_attn.v_proj" => ("self_attention.query_key_value", Some(2)),
        "self_attn.o_proj" => ("self_attention.dense", None),
        "mlp.up_proj" => ("mlp.dense_h_to_4h", None),
        "mlp.down_proj" => ("mlp.dense_4h_to_h", None),
        norm => (norm, None),
    };
    let source = Source::linear(format!("h.{layer}.{module}.{kind}"));
    Some(match packed {
        Some(part) => source.grouped(part, 1, config.attention.head_dim),
        None => source,
    })
}
