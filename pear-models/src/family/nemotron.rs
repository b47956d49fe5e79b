//! Nemotron ([arXiv 2402.16819](https://arxiv.org/abs/2402.16819)): mean-and-variance norms times `1 + weight`, an MLP without a gate that
//! squares what its ReLU lets through, rotary positions on a half of each head.

use pear_core::NormConfig;
use pear_core::kernels::Activation;

use super::rotary::RotaryKeys;
use super::{DefaultTokens, Family, llama};

pub(super) const FAMILY: Family = Family {
    model_type: "nemotron",
    activation: Activation::ReluSquared,
    gated_mlp: false,
    norm: NormConfig::LayerPlusOne { eps: 1e-5 },
    norm_eps: Some("norm_eps"),
    rotary: Some(RotaryKeys {
        default_partial: 0.5,
        default_max_positions: 4096,
        ..RotaryKeys::LLAMA
    }),
    default_tokens: DefaultTokens {
        bos: Some(2),
        eos: Some(3),
        pad: None,
    },
    ..llama::FAMILY
};
