//! StarCoder2 ([arXiv 2402.19173](https://arxiv.org/abs/2402.19173)): grouped queries, a sliding window, biases, an MLP without a gate.

use pear_core::kernels::Activation;

use super::tensors::{self, LLAMA_ROWS, TensorNames, row};
use super::windows::slide_everywhere;
use super::{ConfigReader, Family, Flag, LAYER_NORM, llama};
use crate::config::DecoderConfig;
use crate::error::Error;
use crate::layer_config::LayerConfig;
use crate::param::ModuleId::*;

pub(super) const FAMILY: Family = Family {
    model_type: "starcoder2",
    activation: Activation::GeluTanh,
    gated_mlp: false,
    attention_bias: Flag::Key("use_bias", true),
    mlp_bias: Flag::Key("use_bias", true),
    norm: LAYER_NORM,
    norm_eps: Some("norm_epsilon"),
    tie_word_embeddings: true,
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
    layer: &mut LayerConfig,
) -> Result<(), Error> {
    let key_value_heads = reader.optional_size("num_key_value_heads")?;
    layer.attention.num_key_value_heads = key_value_heads.unwrap_or(2);
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
