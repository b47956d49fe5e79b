//! MPT: ALiBi, no biases at all, queries, keys and values packed in blocks.

use pear_core::kernels::Activation;

use super::{ConfigReader, Family, Parameter, PositionEmbeddingConfig, attention};
use crate::config::{DecoderConfig, NormKind};
use crate::error::Error;
use crate::source::Source;

pub(super) const FAMILY: Family = Family {
    model_types: &["mpt"],
    prefixes: &["transformer.", ""],
    lm_head: "lm_head.weight",
    config,
    source,
    buffers: &[],
};

/// The exponent of the last head's slope.
const MAX_BIAS: f64 = 8.0;

fn config(reader: &ConfigReader, model_type: &str) -> Result<DecoderConfig, Error> {
    let mut attention = attention(
        reader,
        &["d_model", "hidden_size"],
        &["n_heads", "num_attention_heads"],
    )?;
    if let Some(nested) = reader.object("attn_config")? {
        nested.only("alibi", true.into())?;
        nested.only("attn_type", "multihead_attention".into())?;
        nested.only("prefix_lm", false.into())?;
        nested.only("qk_ln", false.into())?;
        nested.only("attn_uses_sequence_id", false.into())?;
        // transformers ignores every other value, so that no two implementations agree on what it would mean.
        if nested.positive("alibi_bias_max", MAX_BIAS)? != MAX_BIAS {
            return Err(nested.error("alibi_bias_max", format!("only {MAX_BIAS} is supported")));
        }
        attention.clip_qkv = nested.number("clip_qkv")?;
        attention.scores.scale = nested.number("softmax_scale")?;
        for inert in ["attn_impl", "attn_pdrop", "model_type"] {
            nested.get(inert);
        }
        nested.finish()?;
    }
    attention.position_embedding = PositionEmbeddingConfig::Alibi {
        num_heads: attention.num_attention_heads,
        max_bias: MAX_BIAS,
    };
    reader.only("no_bias", true.into())?;
    reader.only("norm_type", "low_precision_layernorm".into())?;
    // The trained table that this flag speaks of is not part of the ALiBi model, nor is its length a limit.
    reader.flag("learned_pos_emb", true)?;
    reader.get("max_seq_len");
    reader.only("logit_scale", serde_json::Value::Null)?;
    let expansion = reader.optional_size("expansion_ratio")?.unwrap_or(4);
    let hidden_size = attention.hidden_size;
    Ok(DecoderConfig {
        architecture: model_type.into(),
        gated_mlp: false,
        activation: Activation::Gelu,
        norm: NormKind::Layer { bias: false },
        norm_eps: reader.positive("layer_norm_epsilon", 1e-5)?,
        tie_word_embeddings: reader.flag("tie_word_embeddings", true)?,
        attention: attention.clone(),
        ..DecoderConfig::llama(
            reader.size(&["vocab_size"])?,
            hidden_size,
            expansion * hidden_size,
            reader.layers(&["n_layers", "num_hidden_layers"])?,
            attention.num_attention_heads,
        )
    })
}

fn source(_config: &DecoderConfig, parameter: &Parameter) -> Option<Source> {
    let Some(layer) = parameter.layer else {
        return Some(match parameter.name {
            "embed_tokens" => Source::as_is("wte.weight"),
            name => Source::as_is(format!("norm_f{}", name.strip_prefix("norm")?)),
        });
    };
    let (module, kind) = parameter.name.rsplit_once('.')?;
    let (module, packed) = match module {
        "input_layernorm" => ("norm_1", None),
        "post_attention_layernorm" => ("norm_2", None),
        "self_attn.q_proj" => ("attn.Wqkv", Some(0)),
        "self_attn.k_proj" => ("attn.Wqkv", Some(1)),
        "self_attn.v_proj" => ("attn.Wqkv", Some(2)),
        "self_attn.o_proj" => ("attn.out_proj", None),
        "mlp.up_proj" => ("ffn.up_proj", None),
        "mlp.down_proj" => ("ffn.down_proj", None),
        _ => return None,
    };
    let source = Source::linear(format!("blocks.{layer}.{module}.{kind}"));
    Some(match packed {
        Some(part) => source.block(part, 3),
        None => source,
    })
}
