//! GLM-4 ([arXiv 2406.12793](https://arxiv.org/abs/2406.12793)): Llama with rotary positions that turn neighbouring channels of a half of each
//! head, and packed projections of the MLP. Its newer release (`glm4`) also has norms after attention and MLP.

use pear_core::NormConfig;
use pear_core::position::RotaryLayout;

use super::rotary::RotaryKeys;
use super::tensors::{self, LLAMA_ROWS, Row, TensorNames, row};
use super::{DefaultTokens, Family, Flag, llama};
use crate::layer_config::Residual;
use crate::param::ModuleId::*;

pub(super) const GLM: Family = Family {
    model_type: "glm",
    default_key_value_heads: Some(2),
    head_dim: Some(128),
    attention_bias: Flag::Key("attention_bias", true),
    mlp_bias: Flag::Always(false),
    norm: NormConfig::Rms { eps: 1.5625e-7 },
    rotary: Some(RotaryKeys {
        default_partial: 0.5,
        default_max_positions: 131_072,
        layout: RotaryLayout::Interleaved,
        ..RotaryKeys::LLAMA
    }),
    default_tokens: DefaultTokens {
        bos: None,
        eos: None,
        pad: Some(151_329),
    },
    configure: |_, config, layer| {
        layer.attention.output_bias = false;
        if config.eos_tokens.is_empty() {
            let ids = DEFAULT_EOS.iter().copied();
            let ids = ids.filter(|&id| (id as usize) < config.vocab_size);
            config.eos_tokens.extend(ids);
            config.special_tokens.extend(&config.eos_tokens);
        }
        Ok(())
    },
    names: |_| &NAMES,
    ..llama::FAMILY
};

/// Where the config names no end token.
const DEFAULT_EOS: [u32; 3] = [151_329, 151_336, 151_338];

pub(super) const GLM4: Family = Family {
    model_type: "glm4",
    residual: Residual::Sandwich,
    names: |_| &NAMES_WITH_BRANCH_NORMS,
    ..GLM
};

const PACKED_MLP: &[Row] = &[row("mlp.gate_up_proj", &[GateProj, UpProj])];

const NAMES: TensorNames = TensorNames {
    tables: &[PACKED_MLP, LLAMA_ROWS],
    ..tensors::LLAMA
};

/// The norm before the MLP keeps the name that it has in Llama.
const NAMES_WITH_BRANCH_NORMS: TensorNames = TensorNames {
    tables: &[
        &[
            row("post_self_attn_layernorm", &[PostAttentionNorm]),
            row("post_attention_layernorm", &[PreFeedforwardNorm]),
            row("post_mlp_layernorm", &[PostFeedforwardNorm]),
        ],
        PACKED_MLP,
        LLAMA_ROWS,
    ],
    ..tensors::LLAMA
};
