//! Phi-3 and Phi-4-mini ([arXiv 2404.14219](https://arxiv.org/abs/2404.14219)): Llama with packed projections, LongRoPE.

use pear_core::NormConfig;

use super::rotary::RotaryKeys;
use super::tensors::{self, LLAMA_ROWS, TensorNames, row};
use super::windows::slide_everywhere;
use super::{DefaultTokens, Family, Flag, llama};
use crate::param::ModuleId::*;

pub(super) const FAMILY: Family = Family {
    model_type: "phi3",
    attention_bias: Flag::Always(false),
    mlp_bias: Flag::Always(false),
    norm: NormConfig::Rms { eps: 1e-5 },
    rotary: Some(RotaryKeys {
        default_max_positions: 4096,
        default_original_positions: Some(4096),
        yarn_is_longrope: true,
        ..RotaryKeys::LLAMA
    }),
    default_tokens: DefaultTokens {
        bos: Some(1),
        eos: Some(32000),
        pad: Some(32000),
    },
    configure: |reader, _, _| {
        // Read with the scaling, if there is one.
        reader.optional_size("original_max_position_embeddings")?;
        reader.only("attention_bias", false.into())
    },
    configure_layers: slide_everywhere,
    names: |_| &NAMES,
    ..llama::FAMILY
};

const NAMES: TensorNames = TensorNames {
    tables: &[
        &[
            row("self_attn.qkv_proj", &[QProj, KProj, VProj]),
            row("mlp.gate_up_proj", &[GateProj, UpProj]),
        ],
        LLAMA_ROWS,
    ],
    ..tensors::LLAMA
};
