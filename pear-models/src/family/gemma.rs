//! Gemma ([arXiv 2403.08295](https://arxiv.org/abs/2403.08295)): norms times `1 + weight`, embeddings times `√hidden_size`; Gemma 2
//! ([arXiv 2408.00118](https://arxiv.org/abs/2408.00118)): norms around each branch, soft caps, a window in every second layer.

use pear_core::NormConfig;
use pear_core::kernels::Activation;

use super::rotary::RotaryKeys;
use super::windows::{slide, window_or_default};
use super::{ConfigReader, DefaultTokens, Family, Flag, llama};
use crate::config::DecoderConfig;
use crate::error::Error;
use crate::layer_config::{MlpConfig, Residual};

pub(super) const GEMMA: Family = Family {
    model_type: "gemma",
    default_key_value_heads: Some(16),
    head_dim: Some(256),
    activation: Activation::GeluTanh,
    mlp_bias: Flag::Always(false),
    norm: NormConfig::RmsPlusOne { eps: 1e-6 },
    rotary: Some(RotaryKeys {
        default_max_positions: 8192,
        ..RotaryKeys::WHOLE_HEADS
    }),
    tie_word_embeddings: true,
    default_tokens: DefaultTokens {
        bos: Some(2),
        eos: Some(1),
        pad: Some(0),
    },
    configure: |reader, config, layer| {
        // The `gelu` of the first configs meant the tanh approximation.
        if let MlpConfig::Dense(mlp) = &mut layer.mlp
            && mlp.activation == Activation::Gelu
        {
            mlp.activation = Activation::GeluTanh;
        }
        reader.ignore(&["hidden_activation"]);
        scale_embedding(config);
        Ok(())
    },
    ..llama::FAMILY
};

pub(super) const GEMMA2: Family = Family {
    model_type: "gemma2",
    default_key_value_heads: Some(4),
    activation_key: Some("hidden_activation"),
    residual: Residual::Sandwich,
    configure: |reader, config, layer| {
        layer.attention.scores.scale = Some(query_scale(reader)?);
        layer.attention.scores.soft_cap = soft_cap(reader, "attn_logit_softcapping", 50.0)?;
        config.logit_soft_cap = soft_cap(reader, "final_logit_softcapping", 30.0)?;
        // The other activation that the configs also have, and how a cache is laid out.
        reader.ignore(&["hidden_act", "cache_implementation"]);
        scale_embedding(config);
        Ok(())
    },
    configure_layers: |reader, layers| {
        let window = window_or_default(reader)?;
        slide(reader, layers, window, |layer, _| layer % 2 == 0)
    },
    ..GEMMA
};

/// What scores are multiplied by.
pub(super) fn query_scale(reader: &ConfigReader) -> Result<f64, Error> {
    let scalar = reader.positive("query_pre_attn_scalar", 256.0)?;
    Ok(scalar.sqrt().recip())
}

pub(super) fn scale_embedding(config: &mut DecoderConfig) {
    config.embedding_scale = Some((config.hidden_size as f64).sqrt());
}

/// A key that is missing has its default; `null` turns the cap off.
fn soft_cap(reader: &ConfigReader, key: &str, default: f64) -> Result<Option<f64>, Error> {
    if reader.mentions(key) {
        reader.number(key)
    } else {
        Ok(Some(default))
    }
}
