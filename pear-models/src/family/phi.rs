//! Phi-1, Phi-1.5 and Phi-2: partial rotary positions, attention and MLP side by side behind one norm, biases everywhere.

use super::{ConfigReader, Family, Parameter, PositionEmbeddingConfig, attention};
use crate::config::{DecoderConfig, NormKind, Residual};
use crate::error::Error;
use crate::source::Source;

pub(super) const FAMILY: Family = Family {
    model_types: &["phi"],
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
    (attention.qkv_bias, attention.output_bias) = (true, true);
    reader.only("qk_layernorm", false.into())?;
    attention.position_embedding = PositionEmbeddingConfig::Rotary(reader.rotary(
        attention.head_dim,
        "rope_theta",
        "partial_rotary_factor",
        0.5,
    )?);
    Ok(DecoderConfig {
        architecture: model_type.into(),
        gated_mlp: false,
        mlp_bias: true,
        activation: reader.activation(&["hidden_act"], "gelu_new")?,
        norm: NormKind::Layer { bias: true },
        norm_eps: reader.positive("layer_norm_eps", 1e-5)?,
        residual: Residual::ParallelOneNorm,
        tie_word_embeddings: reader.flag("tie_word_embeddings", false)?,
        lm_head_bias: true,
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

fn source(_config: &DecoderConfig, parameter: &Parameter) -> Option<Source> {
    let Some(layer) = parameter.layer else {
        return Some(match parameter.name {
            "embed_tokens" => Source::as_is("embed_tokens.weight"),
            name => Source::as_is(format!("final_layernorm{}", name.strip_prefix("norm")?)),
        });
    };
    let (module, kind) = parameter.name.rsplit_once('.')?;
    let module = match module {
        "self_attn.o_proj" => "self_attn.dense",
        "mlp.up_proj" => "mlp.fc1",
        "mlp.down_proj" => "mlp.fc2",
        other => other,
    };
    Some(Source::linear(format!("layers.{layer}.{module}.{kind}")))
}
