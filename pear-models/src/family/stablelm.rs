//! StableLM 3B and StableLM 2 ([arXiv 2402.17834](https://arxiv.org/abs/2402.17834)): Llama with mean-and-variance norms and rotary positions
//! on part of each head.

use super::rotary::RotaryKeys;
use super::{DefaultTokens, Family, Flag, LAYER_NORM, llama};
use crate::layer_config::Residual;

pub(super) const FAMILY: Family = Family {
    model_type: "stablelm",
    default_key_value_heads: Some(32),
    reads_head_dim: false,
    attention_bias: Flag::Always(false),
    mlp_bias: Flag::Always(false),
    norm: LAYER_NORM,
    norm_eps: Some("layer_norm_eps"),
    rotary: Some(RotaryKeys {
        default_partial: 0.25,
        default_max_positions: 4096,
        ..RotaryKeys::LLAMA
    }),
    default_tokens: DefaultTokens {
        bos: Some(0),
        eos: Some(0),
        pad: None,
    },
    configure: |reader, _, layer| {
        layer.attention.qkv_bias = reader.flag("use_qkv_bias", false)?;
        // A norm for each head with weights of its own: the 12B model alone.
        reader.only("qk_layernorm", false.into())?;
        if reader.flag("use_parallel_residual", false)? {
            layer.residual = Residual::ParallelOneNorm;
        }
        Ok(())
    },
    ..llama::FAMILY
};
