//! Llama 2, 3, 3.1 and everything with their architecture: <https://huggingface.co/meta-llama>.

use pear_core::NormConfig;
use pear_core::kernels::Activation;

use super::rotary::RotaryKeys;
use super::{DefaultTokens, Family, Flag, IntermediateSize, tensors};
use crate::layer_config::Residual;

pub(super) const FAMILY: Family = Family {
    model_type: "llama",
    text_config: None,
    defaults: &[],
    hidden_size: &["hidden_size"],
    num_hidden_layers: &["num_hidden_layers"],
    num_attention_heads: &["num_attention_heads"],
    num_key_value_heads: Some("num_key_value_heads"),
    default_key_value_heads: None,
    reads_head_dim: true,
    head_dim: None,
    intermediate_size: IntermediateSize::Key("intermediate_size"),
    activation_key: Some("hidden_act"),
    activation: Activation::Silu,
    gated_mlp: true,
    attention_bias: Flag::Key("attention_bias", false),
    mlp_bias: Flag::Key("mlp_bias", false),
    norm: NormConfig::Rms { eps: 1e-6 },
    norm_eps: Some("rms_norm_eps"),
    residual: Residual::Serial,
    rotary: Some(RotaryKeys::WHOLE_HEADS),
    tie_word_embeddings: false,
    default_tokens: DefaultTokens {
        bos: Some(1),
        eos: Some(2),
        pad: None,
    },
    configure: |_, _, _| Ok(()),
    configure_layers: |_, _| Ok(()),
    names: |_| &tensors::LLAMA,
};
