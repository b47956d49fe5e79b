//! XGLM ([arXiv 2112.10668](https://arxiv.org/abs/2112.10668)): sinusoidal positions.

use pear_core::position::{SinusoidalConfig, SinusoidalLayout};

use super::{ConfigReader, Family, Parameter, PositionEmbeddingConfig, attention, opt};
use crate::config::{DecoderConfig, NormKind};
use crate::error::Error;
use crate::source::Source;

pub(super) const FAMILY: Family = Family {
    model_types: &["xglm"],
    prefixes: &["model.", ""],
    lm_head: "lm_head.weight",
    config,
    source,
    buffers: &["embed_positions.weights"],
};

/// Positions are counted from here.
const POSITION_OFFSET: usize = 2;

fn config(reader: &ConfigReader, model_type: &str) -> Result<DecoderConfig, Error> {
    let mut attention = attention(
        reader,
        &["d_model", "hidden_size"],
        &["attention_heads", "num_attention_heads"],
    )?;
    (attention.qkv_bias, attention.output_bias) = (true, true);
    let hidden_size = attention.hidden_size;
    attention.position_embedding = PositionEmbeddingConfig::Sinusoidal(SinusoidalConfig {
        layout: SinusoidalLayout::HalfSplit,
        offset: POSITION_OFFSET,
        width: hidden_size,
    });
    // Only the size of a table that grows on demand.
    reader.optional_size("max_position_embeddings")?;
    let scaled = reader.flag("scale_embedding", true)?;
    Ok(DecoderConfig {
        architecture: model_type.into(),
        gated_mlp: false,
        mlp_bias: true,
        activation: reader.activation(&["activation_function"], "gelu")?,
        norm: NormKind::Layer { bias: true },
        embedding_scale: scaled.then(|| (hidden_size as f64).sqrt()),
        tie_word_embeddings: reader.flag("tie_word_embeddings", true)?,
        attention: attention.clone(),
        ..DecoderConfig::llama(
            reader.size(&["vocab_size"])?,
            hidden_size,
            reader.size(&["ffn_dim"])?,
            reader.layers(&["num_layers", "num_hidden_layers"])?,
            attention.num_attention_heads,
        )
    })
}

fn source(_config: &DecoderConfig, parameter: &Parameter) -> Option<Source> {
    match (parameter.layer, parameter.name) {
        (Some(layer), name) => opt::layer_source(layer, name),
        (None, "embed_tokens") => Some(Source::as_is("embed_tokens.weight")),
        (None, name) => Some(Source::as_is(format!(
            "layer_norm{}",
            name.strip_prefix("norm")?
        ))),
    }
}
