//! Arcee: Llama whose MLP has no gate and squares what its ReLU lets through.

use pear_core::NormConfig;
use pear_core::kernels::Activation;

use super::rotary::RotaryKeys;
use super::{DefaultTokens, Family, llama};

pub(super) const FAMILY: Family = Family {
    model_type: "arcee",
    activation: Activation::ReluSquared,
    gated_mlp: false,
    norm: NormConfig::Rms { eps: 1e-5 },
    rotary: Some(RotaryKeys {
        default_max_positions: 4096,
        ..RotaryKeys::WHOLE_HEADS
    }),
    default_tokens: DefaultTokens {
        bos: Some(128_000),
        eos: Some(128_001),
        pad: None,
    },
    ..llama::FAMILY
};
