//! Phi-1, Phi-1.5 and Phi-2: partial rotary positions, attention and MLP side by side behind one norm, biases everywhere.

use pear_core::kernels::Activation;

use super::rotary::RotaryKeys;
use super::tensors::{self, LLAMA_ROWS, TensorNames, row};
use super::{Family, Flag, LAYER_NORM, llama};
use crate::layer_config::Residual;
use crate::param::ModuleId::*;

pub(super) const FAMILY: Family = Family {
    model_type: "phi",
    activation: Activation::GeluTanh,
    gated_mlp: false,
    attention_bias: Flag::Always(true),
    mlp_bias: Flag::Always(true),
    norm: LAYER_NORM,
    norm_eps: Some("layer_norm_eps"),
    residual: Residual::ParallelOneNorm,
    rotary: Some(RotaryKeys {
        default_partial: 0.5,
        ..RotaryKeys::LLAMA
    }),
    configure: |reader, config, _| {
        config.lm_head_bias = true;
        reader.only("qk_layernorm", false.into())
    },
    names: |_| &NAMES,
    ..llama::FAMILY
};

const NAMES: TensorNames = TensorNames {
    tables: &[
        &[
            row("final_layernorm", &[FinalNorm]),
            row("self_attn.dense", &[OProj]),
            row("mlp.fc1", &[UpProj]),
            row("mlp.fc2", &[DownProj]),
        ],
        LLAMA_ROWS,
    ],
    ..tensors::LLAMA
};
