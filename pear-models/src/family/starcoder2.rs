//! StarCoder2 ([arXiv 2402.19173](https://arxiv.org/abs/2402.19173)): grouped queries, a sliding window, biases, an MLP without a gate.

use super::{
    ConfigReader, Family, Parameter, PositionEmbeddingConfig, attention, llama_source, windows,
};
use crate::config::{DecoderConfig, NormKind};
use crate::error::Error;
use crate::source::Source;

pub(super) const FAMILY: Family = Family {
    model_types: &["starcoder2"],
    prefixes: &["model.", ""],
    lm_head: "lm_head.weight",
    config,
    source,
    buffers: &["rotary_emb.inv_freq"],
};

fn config(reader: &ConfigReader, model_type: &str) -> Result<DecoderConfig, Error> {
    let mut attention = attention(reader, &["hidden_size"], &["num_attention_heads"])?;
    attention.num_key_value_heads = reader.optional_size("num_key_value_heads")?.unwrap_or(2);
    let bias = reader.flag("use_bias", true)?;
    (attention.qkv_bias, attention.output_bias) = (bias, bias);
    attention.position_embedding = PositionEmbeddingConfig::Rotary(reader.rotary(
        attention.head_dim,
        "rope_theta",
        "partial_rotary_factor",
        1.0,
    )?);
    reader.only("mlp_type", "default".into())?;
    reader.only("norm_type", "layer_norm".into())?;
    // Dropouts, and what the configs took over from StarCoder's and nothing reads.
    let inert = [
        "residual_dropout",
        "embedding_dropout",
        "activation_function",
        "layer_norm_epsilon",
    ];
    for inert in inert
        .into_iter()
        .chain(["scale_attention_softmax_in_fp32", "scale_attn_weights"])
    {
        reader.get(inert);
    }
    let num_layers = reader.layers(&["num_hidden_layers"])?;
    Ok(DecoderConfig {
        architecture: model_type.into(),
        windows: windows(
            reader,
            num_layers,
            reader.optional_size("sliding_window")?,
            |_| true,
        )?,
        gated_mlp: false,
        mlp_bias: bias,
        activation: reader.activation(&["hidden_act"], "gelu_pytorch_tanh")?,
        norm: NormKind::Layer { bias: true },
        norm_eps: reader.positive("norm_epsilon", 1e-5)?,
        tie_word_embeddings: reader.flag("tie_word_embeddings", true)?,
        attention: attention.clone(),
        ..DecoderConfig::llama(
            reader.size(&["vocab_size"])?,
            attention.hidden_size,
            reader.size(&["intermediate_size"])?,
            num_layers,
            attention.num_attention_heads,
        )
    })
}

fn source(_config: &DecoderConfig, parameter: &Parameter) -> Option<Source> {
    let renamed = |module: &str, kind: &str| {
        Some(Source::linear(format!(
            "layers.{}.mlp.{module}.{kind}",
            parameter.layer?
        )))
    };
    match parameter.name.rsplit_once('.') {
        Some(("mlp.up_proj", kind)) => renamed("c_fc", kind),
        Some(("mlp.down_proj", kind)) => renamed("c_proj", kind),
        _ => llama_source(parameter),
    }
}
