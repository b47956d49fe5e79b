//! GPT-2: learned positions, packed projections, weights stored `[in, out]` (`Conv1D`).

use super::{
    AttentionScoreConfig, ConfigReader, Family, Parameter, PositionEmbeddingConfig, attention,
};
use crate::config::{DecoderConfig, NormKind};
use crate::error::Error;
use crate::source::Source;

pub(super) const FAMILY: Family = Family {
    model_types: &["gpt2"],
    prefixes: &["transformer.", ""],
    lm_head: "lm_head.weight",
    config,
    source,
    buffers: &[".attn.bias", ".attn.masked_bias"],
};

fn config(reader: &ConfigReader, model_type: &str) -> Result<DecoderConfig, Error> {
    let mut attention = attention(
        reader,
        &["n_embd", "hidden_size"],
        &["n_head", "num_attention_heads"],
    )?;
    (attention.qkv_bias, attention.output_bias) = (true, true);
    attention.position_embedding = PositionEmbeddingConfig::Learned {
        num_positions: reader.size(&["n_positions", "max_position_embeddings"])?,
        width: attention.hidden_size,
    };
    let scale = if reader.flag("scale_attn_weights", true)? {
        None
    } else {
        Some(1.0)
    };
    attention.scores = AttentionScoreConfig {
        scale,
        ..AttentionScoreConfig::default()
    };
    let hidden_size = attention.hidden_size;
    Ok(DecoderConfig {
        architecture: model_type.into(),
        inverse_layer_scale: reader.flag("scale_attn_by_inverse_layer_idx", false)?,
        gated_mlp: false,
        mlp_bias: true,
        activation: reader.activation(&["activation_function"], "gelu_new")?,
        norm: NormKind::Layer { bias: true },
        norm_eps: reader.positive("layer_norm_epsilon", 1e-5)?,
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

fn source(_config: &DecoderConfig, parameter: &Parameter) -> Option<Source> {
    let Some(layer) = parameter.layer else {
        return Some(match parameter.name {
            "embed_tokens" => Source::as_is("wte.weight"),
            "positions.weight" => Source::as_is("wpe.weight"),
            name => Source::as_is(format!("ln_f{}", name.strip_prefix("norm")?)),
        });
    };
    let (module, kind) = parameter.name.rsplit_once('.')?;
    let (module, packed) = match module {
        "input_layernorm" => ("ln_1", None),
        "post_attention_layernorm" => ("ln_2", None),
        "self_attn.q_proj" => ("attn.c_attn", Some(0)),
        "self_attn.k_proj" => ("attn.c_attn", Some(1)),
        "self_attn.v_proj" => ("attn.c_attn", Some(2)),
        "self_attn.o_proj" => ("attn.c_proj", None),
        "mlp.up_proj" => ("mlp.c_fc", None),
        "mlp.down_proj" => ("mlp.c_proj", None),
        _ => return None,
    };
    let source = Source::as_is(format!("h.{layer}.{module}.{kind}"));
    Some(match packed {
        Some(part) => source.block(part, 3),
        None => source,
    })
}
