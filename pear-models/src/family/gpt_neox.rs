//! GPT-NeoX and Pythia ([arXiv 2204.06745](https://arxiv.org/abs/2204.06745)): partial rotary positions, parallel residual.

use pear_core::kernels::Activation;

use super::rotary::RotaryKeys;
use super::tensors::{TensorNames, row};
use super::{DefaultTokens, Family, Flag, LAYER_NORM, llama};
use crate::layer_config::Residual;
use crate::param::ModuleId::*;
use crate::tensor_part::MatrixLayout;

pub(super) const FAMILY: Family = Family {
    model_type: "gpt_neox",
    num_key_value_heads: None,
    reads_head_dim: false,
    activation: Activation::Gelu,
    gated_mlp: false,
    attention_bias: Flag::Key("attention_bias", true),
    mlp_bias: Flag::Always(true),
    norm: LAYER_NORM,
    norm_eps: Some("layer_norm_eps"),
    rotary: Some(RotaryKeys {
        theta: &["rotary_emb_base"],
        partial: &["rotary_pct"],
        default_partial: 0.25,
        ..RotaryKeys::LLAMA
    }),
    default_tokens: DefaultTokens {
        bos: Some(0),
        eos: Some(2),
        pad: None,
    },
    configure: |reader, _, layer| {
        if reader.flag("use_parallel_residual", true)? {
            layer.residual = Residual::Parallel;
        }
        Ok(())
    },
    names: |_| &NAMES,
    ..llama::FAMILY
};

const NAMES: TensorNames = TensorNames {
    prefixes: &["gpt_neox.", ""],
    layers: "layers.",
    tables: &[&[
        row("embed_in", &[EmbedTokens]),
        row("final_layer_norm", &[FinalNorm]),
        row("embed_out", &[LmHead]),
        row("input_layernorm", &[InputNorm]),
        row("attention.query_key_value", &[QProj, KProj, VProj]).by_head_group(),
        row("attention.dense", &[OProj]),
        row("post_attention_layernorm", &[PostAttentionNorm]),
        row("mlp.dense_h_to_4h", &[UpProj]),
        row("mlp.dense_4h_to_h", &[DownProj]),
    ]],
    projections: MatrixLayout::OutIn,
    buffers: &[
        ".attention.bias",
        ".attention.masked_bias",
        ".rotary_emb.inv_freq",
    ],
    other_models: &[],
};
