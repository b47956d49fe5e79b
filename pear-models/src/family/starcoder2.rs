//! StarCoder2 ([arXiv 2402.19173](https://arxiv.org/abs/2402.19173)): grouped queries, a sliding window, biases, an MLP without a gate.

use pear_core::kernels::Activation;

use super::rotary::RotaryKeys;
use super::tensors::{self, LLAMA_ROWS, TensorNames, row};
use super::windows::slide_everywhere;
use super::{ConfigReader, DefaultTokens, Family, Flag, LAYER_NORM, llama};
use crate::config::DecoderConfig;
use crate::error::Error;
use crate::layer_config::LayerConfig;
use crate::param::ModuleId::*;

pub(super) const FAMILY: Family = Family {
    model_type: "starcoder2",
    default_key_value_heads: Some(2),
    activation: Activation::GeluTanh,
    gated_mlp: false,
    attention_bias: Flag::Key("use_bias", true),
    mlp_bias: Flag::Key("use_bias", true),
    norm: LAYER_NORM,
    norm_eps: Some("norm_epsilon"),
    rotary: Some(RotaryKeys {
        default_max_positions: 4096,
        ..RotaryKeys::WHOLE_HEADS
    }),
    tie_word_embeddings: true,
    default_tokens: DefaultTokens {
        bos: Some(50256),
        eos: Some(50256),
        pad: None,
    },
    configure,
    configure_layers: slide_everywhere,
    names: |_| &NAMES,
    ..llama::FAMILY
};

const NAMES: TensorNames = TensorNames {
    tables: &[
        &[row("mlp.c_fc", &[UpProj]), row("mlp.c_proj", &[DownProj])],
        LLAMA_ROWS,
    ],
    ..tensors::LLAMA
};

fn configure(
    reader: &ConfigReader,
    _config: &mut DecoderConfig,
    _layer: &mut LayerConfig,
) -> Result<(), Error> {
    reader.only("mlp_type", "default".into())?;
    reader.only("norm_type", "layer_norm".into())?;
    // Dropouts, and what the configs took over from StarCoder's and nothing reads.
    reader.ignore(&[
        "residual_dropout",
        "embedding_dropout",
        "activation_function",
        "layer_norm_epsilon",
        "scale_attention_softmax_in_fp32",
        "scale_attn_weights",
    ]);
    Ok(())
}
