//! OPT ([arXiv 2205.01068](https://arxiv.org/abs/2205.01068)): learned positions, ReLU.

use super::{ConfigReader, Family, Parameter, PositionEmbeddingConfig, attention};
use crate::config::{DecoderConfig, NormKind, Residual};
use crate::error::Error;
use crate::source::Source;

/// The table of positions starts with two rows that no token uses.
const POSITION_OFFSET: usize = 2;

pub(super) const FAMILY: Family = Family {
    model_types: &["opt"],
    prefixes: &["model.decoder.", "decoder.", ""],
    lm_head: "lm_head.weight",
    config,
    source,
    buffers: &[],
};

fn config(reader: &ConfigReader, model_type: &str) -> Result<DecoderConfig, Error> {
    let mut attention = attention(reader, &["hidden_size"], &["num_attention_heads"])?;
    let bias = reader.flag("enable_bias", true)?;
    (attention.qkv_bias, attention.output_bias) = (bias, bias);
    attention.position_embedding = PositionEmbeddingConfig::Learned {
        num_positions: reader.size(&["max_position_embeddings"])?,
        width: attention.hidden_size,
    };
    reader.only("layer_norm_elementwise_affine", true.into())?;
    let pre_norm = reader.flag("do_layer_norm_before", true)?;
    let hidden_size = attention.hidden_size;
    Ok(DecoderConfig {
        architecture: model_type.into(),
        embedding_size: reader
            .optional_size("word_embed_proj_dim")?
            .unwrap_or(hidden_size),
        gated_mlp: false,
        mlp_bias: bias,
        activation: reader.activation(&["activation_function"], "relu")?,
        norm: NormKind::Layer { bias: true },
        residual: if pre_norm {
            Residual::Serial
        } else {
            Residual::PostNorm
        },
        final_norm: pre_norm && !reader.flag("_remove_final_layer_norm", false)?,
        tie_word_embeddings: reader.flag("tie_word_embeddings", true)?,
        attention: attention.clone(),
        ..DecoderConfig::llama(
            reader.size(&["vocab_size"])?,
            hidden_size,
            reader.size(&["ffn_dim"])?,
            reader.layers(&["num_hidden_layers"])?,
            attention.num_attention_heads,
        )
    })
}

fn source(_config: &DecoderConfig, parameter: &Parameter) -> Option<Source> {
    let Some(layer) = parameter.layer else {
        return Some(match parameter.name {
            "embed_tokens" => Source::as_is("embed_tokens.weight"),
            "positions.weight" => Source::as_is("embed_positions.weight").skipping(POSITION_OFFSET),
            "project_in.weight" => Source::linear("project_in.weight"),
            "project_out.weight" => Source::linear("project_out.weight"),
            name => Source::as_is(format!("final_layer_norm{}", name.strip_prefix("norm")?)),
        });
    };
    layer_source(layer, parameter.name)
}

/// The names within a layer that fairseq gave to OPT and XGLM alike.
pub(super) fn layer_source(layer: usize, name: &str) -> Option<Source> {
    let (module, kind) = name.rsplit_once('.')?;
    let module = match module {
        "input_layernorm" => "self_attn_layer_norm",
        "post_attention_layernorm" => "final_layer_norm",
        "self_attn.o_proj" => "self_attn.out_proj",
        "mlp.up_proj" => "fc1",
        "mlp.down_proj" => "fc2",
        other => other,
    };
    Some(Source::linear(format!("layers.{layer}.{module}.{kind}")))
}
