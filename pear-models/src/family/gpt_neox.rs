//! GPT-NeoX and Pythia ([arXiv 2204.06745](https://arxiv.org/abs/2204.06745)): partial rotary positions, parallel residual.

use super::{ConfigReader, Family, Parameter, PositionEmbeddingConfig, attention};
use crate::config::{DecoderConfig, NormKind, Residual};
use crate::error::Error;
use crate::source::Source;

pub(super) const FAMILY: Family = Family {
    model_types: &["gpt_neox"],
    prefixes: &["gpt_neox.", ""],
    lm_head: "embed_out.weight",
    config,
    source,
    buffers: &[
        ".attention.bias",
        ".attention.masked_bias",
        ".rotary_emb.inv_freq",
    ],
};

fn config(reader: &ConfigReader, model_type: &str) -> Result<DecoderConfig, Error> {
    let mut attention = attention(reader, &["hidden_size"], &["num_attention_heads"])?;
    let bias = reader.flag("attention_bias", true)?;
    (attention.qkv_bias, attention.output_bias) = (bias, bias);
    let theta = if reader.has("rotary_emb_base") {
        "rotary_emb_base"
    } else {
        "rope_theta"
    };
    let partial = if reader.has("rotary_pct") {
        "rotary_pct"
    } else {
        "partial_rotary_factor"
    };
    attention.position_embedding =
        PositionEmbeddingConfig::Rotary(reader.rotary(attention.head_dim, theta, partial, 0.25)?);
    let parallel = reader.flag("use_parallel_residual", true)?;
    Ok(DecoderConfig {
        architecture: model_type.into(),
        gated_mlp: false,
        mlp_bias: true,
        activation: reader.activation(&["hidden_act"], "gelu")?,
        norm: NormKind::Layer { bias: true },
        norm_eps: reader.positive("layer_norm_eps", 1e-5)?,
        residual: if parallel {
            Residual::Parallel
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

fn source(config: &DecoderConfig, parameter: &Parameter) -> Option<Source> {
    let Some(layer) = parameter.layer else {
        return Some(match parameter.name {
            "embed_tokens" => Source::as_is("embed_in.weight"),
            name => Source::as_is(format!("final_layer_norm{}", name.strip_prefix("norm")?)),
        });
    };
    let (module, kind) = parameter.name.rsplit_once('.')?;
    let (module, packed) = match module {
        "self_attn.q_proj" => ("attention.query_key_value", Some(0)),
        "self_attn.k_proj" => ("attention.query_key_value", Some(1)),
        "self_attn.v_proj" => ("attention.query_key_value", Some(2)),
        "self_attn.o_proj" => ("attention.dense", None),
        "mlp.up_proj" => ("mlp.dense_h_to_4h", None),
        "mlp.down_proj" => ("mlp.dense_4h_to_h", None),
        norm => (norm, None),
    };
    let source = Source::linear(format!("layers.{layer}.{module}.{kind}"));
    Some(match packed {
        Some(part) => source.grouped(part, 1, config.attention.head_dim),
        None => source,
    })
}
