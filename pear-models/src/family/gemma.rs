//! Gemma ([arXiv 2403.08295](https://arxiv.org/abs/2403.08295)): norms times `1 + weight`, embeddings times `√hidden_size`; Gemma 2
//! ([arXiv 2408.00118](https://arxiv.org/abs/2408.00118)): norms around each branch, soft caps, a window in every second layer.

use pear_core::kernels::Activation;

use super::{
    AttentionScoreConfig, ConfigReader, Family, PositionEmbeddingConfig, attention, llama_source,
    windows,
};
use crate::config::{DecoderConfig, NormKind, Residual};
use crate::error::Error;

pub(super) const FAMILY: Family = Family {
    model_types: &["gemma", "gemma2"],
    prefixes: &["model.", ""],
    lm_head: "lm_head.weight",
    config,
    source: |_, parameter| llama_source(parameter),
    buffers: &["rotary_emb.inv_freq"],
};

/// Channels of a head where the config does not say.
const HEAD_DIM: usize = 256;

fn config(reader: &ConfigReader, model_type: &str) -> Result<DecoderConfig, Error> {
    let gemma2 = model_type == "gemma2";
    let mut attention = attention(reader, &["hidden_size"], &["num_attention_heads"])?;
    if !reader.has("head_dim") {
        attention.head_dim = HEAD_DIM;
    }
    if let Some(heads) = reader.optional_size("num_key_value_heads")? {
        attention.num_key_value_heads = heads;
    }
    attention.qkv_bias = reader.flag("attention_bias", false)?;
    attention.output_bias = attention.qkv_bias;
    attention.position_embedding = PositionEmbeddingConfig::Rotary(reader.rotary(
        attention.head_dim,
        "rope_theta",
        "partial_rotary_factor",
        1.0,
    )?);
    reader.only("use_bidirectional_attention", false.into())?;
    let num_layers = reader.layers(&["num_hidden_layers"])?;
    // A key that is not there has its default; `null` turns the cap off.
    let cap = |key: &str, default: f64| {
        if reader.mentions(key) {
            reader.number(key)
        } else {
            Ok(Some(default))
        }
    };
    let (mut layer_windows, mut logit_soft_cap) = (Vec::new(), None);
    if gemma2 {
        let scale = reader
            .positive("query_pre_attn_scalar", 256.0)?
            .sqrt()
            .recip();
        attention.scores = AttentionScoreConfig {
            scale: Some(scale),
            soft_cap: cap("attn_logit_softcapping", 50.0)?,
            ..AttentionScoreConfig::default()
        };
        logit_soft_cap = cap("final_logit_softcapping", 30.0)?;
        let window = if reader.mentions("sliding_window") {
            reader.optional_size("sliding_window")?
        } else {
            Some(4096)
        };
        layer_windows = windows(reader, num_layers, window, |layer| layer % 2 == 0)?;
        // How a cache is laid out.
        reader.get("cache_implementation");
    }
    let hidden_size = attention.hidden_size;
    Ok(DecoderConfig {
        architecture: model_type.into(),
        windows: layer_windows,
        activation: activation(reader, gemma2)?,
        norm: NormKind::RmsPlusOne,
        norm_eps: reader.positive("rms_norm_eps", 1e-6)?,
        residual: if gemma2 {
            Residual::Sandwich
        } else {
            Residual::Serial
        },
        embedding_scale: Some((hidden_size as f64).sqrt()),
        logit_soft_cap,
        tie_word_embeddings: reader.flag("tie_word_embeddings", true)?,
        attention: attention.clone(),
        ..DecoderConfig::llama(
            reader.size(&["vocab_size"])?,
            hidden_size,
            reader.size(&["intermediate_size"])?,
            num_layers,
            attention.num_attention_heads,
        )
    })
}

/// Gemma reads `hidden_act`, whose `gelu` in the first configs meant the tanh approximation; Gemma 2 reads `hidden_activation`. The configs
/// of either have both.
fn activation(reader: &ConfigReader, gemma2: bool) -> Result<Activation, Error> {
    let (read, other) = if gemma2 {
        ("hidden_activation", "hidden_act")
    } else {
        ("hidden_act", "hidden_activation")
    };
    reader.get(other);
    match reader.activation(&[read], "gelu_pytorch_tanh")? {
        Activation::Gelu if !gemma2 => Ok(Activation::GeluTanh),
        other => Ok(other),
    }
}
