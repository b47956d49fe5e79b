//! Falcon ([arXiv 2311.16867](https://arxiv.org/abs/2311.16867)): rotary positions or ALiBi, three ways of packing queries, keys and values.

use super::{ConfigReader, Family, Parameter, PositionEmbeddingConfig, attention};
use crate::config::{DecoderConfig, NormKind, Residual};
use crate::error::Error;
use crate::source::Source;

pub(super) const FAMILY: Family = Family {
    model_types: &["falcon"],
    prefixes: &["transformer.", ""],
    lm_head: "lm_head.weight",
    config,
    source,
    buffers: &["rotary_emb.inv_freq", "maybe_rotary.inv_freq"],
};

fn config(reader: &ConfigReader, model_type: &str) -> Result<DecoderConfig, Error> {
    let mut attention = attention(
        reader,
        &["hidden_size", "n_embed"],
        &["num_attention_heads", "n_head"],
    )?;
    let new = reader.flag("new_decoder_architecture", false)?;
    let multi_query = reader.flag("multi_query", true)?;
    let num_kv_heads = reader.optional_size("num_kv_heads")?;
    attention.num_key_value_heads = match (new, multi_query) {
        (true, _) => num_kv_heads.unwrap_or(attention.num_attention_heads),
        (false, true) => 1,
        (false, false) => attention.num_attention_heads,
    };
    let bias = reader.flag("bias", false)?;
    (attention.qkv_bias, attention.output_bias) = (bias, bias);
    // Read even where positions are ALiBi's: the configs of those have its keys, too.
    let rotary = reader.rotary(
        attention.head_dim,
        "rope_theta",
        "partial_rotary_factor",
        1.0,
    );
    attention.position_embedding = match reader.flag("alibi", false)? {
        true => PositionEmbeddingConfig::FalconAlibi {
            num_heads: attention.num_attention_heads,
            head_dim: attention.head_dim,
        },
        false => PositionEmbeddingConfig::Rotary(rotary?),
    };
    let parallel = reader.flag("parallel_attn", true)?;
    let norms = reader
        .optional_size("num_ln_in_parallel_attn")?
        .unwrap_or(if new { 2 } else { 1 });
    let residual = match (parallel, new) {
        (true, true) if norms == 2 => Residual::Parallel,
        (true, _) => Residual::ParallelOneNorm,
        (false, false) => Residual::Serial,
        (false, true) => {
            return Err(reader.error(
                "parallel_attn",
                "is false: the new architecture is always parallel",
            ));
        }
    };
    let hidden_size = attention.hidden_size;
    Ok(DecoderConfig {
        architecture: model_type.into(),
        gated_mlp: false,
        mlp_bias: bias,
        activation: reader.activation(&["activation"], "gelu")?,
        norm: NormKind::Layer { bias: true },
        norm_eps: reader.positive("layer_norm_epsilon", 1e-5)?,
        residual,
        tie_word_embeddings: reader.flag("tie_word_embeddings", true)?,
        attention: attention.clone(),
        ..DecoderConfig::llama(
            reader.size(&["vocab_size"])?,
            hidden_size,
            reader
                .optional_size("ffn_hidden_size")?
                .unwrap_or(4 * hidden_size),
            reader.layers(&["num_hidden_layers", "n_layer"])?,
            attention.num_attention_heads,
        )
    })
}

fn source(config: &DecoderConfig, parameter: &Parameter) -> Option<Source> {
    let Some(layer) = parameter.layer else {
        return Some(match parameter.name {
            "embed_tokens" => Source::as_is("word_embeddings.weight"),
            name => Source::as_is(format!("ln_f{}", name.strip_prefix("norm")?)),
        });
    };
    let two_norms = config.residual == Residual::Parallel;
    let (module, kind) = parameter.name.rsplit_once('.')?;
    let (module, packed) = match module {
        "input_layernorm" if two_norms => ("ln_attn", None),
        "post_attention_layernorm" if two_norms => ("ln_mlp", None),
        "self_attn.q_proj" => ("self_attention.query_key_value", Some(0)),
        "self_attn.k_proj" => ("self_attention.query_key_value", Some(1)),
        "self_attn.v_proj" => ("self_attention.query_key_value", Some(2)),
        "self_attn.o_proj" => ("self_attention.dense", None),
        "mlp.up_proj" => ("mlp.dense_h_to_4h", None),
        "mlp.down_proj" => ("mlp.dense_4h_to_h", None),
        norm => (norm, None),
    };
    let source = Source::linear(format!("h.{layer}.{module}.{kind}"));
    let attention = &config.attention;
    // One key/value head for all queries is one group, one for each query head as many groups as heads.
    let group = attention.num_attention_heads / attention.num_key_value_heads;
    Some(match packed {
        Some(part) => source.grouped(part, group, attention.head_dim),
        None => source,
    })
}
