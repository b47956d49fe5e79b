//! GPT-2: learned positions, packed projections, weights stored `[in, out]` (`Conv1D`).

use pear_core::kernels::Activation;
use pear_core::position::PositionEmbeddingConfig;

use super::tensors::{GPT, GPT_ROWS, TensorNames, row};
use super::{ConfigReader, DefaultTokens, Family, Flag, IntermediateSize, LAYER_NORM, llama};
use crate::config::DecoderConfig;
use crate::error::Error;
use crate::layer_config::LayerConfig;
use crate::param::ModuleId::*;
use crate::tensor_part::MatrixLayout;

pub(super) const FAMILY: Family = Family {
    model_type: "gpt2",
    hidden_size: &["hidden_size", "n_embd"],
    num_hidden_layers: &["num_hidden_layers", "n_layer"],
    num_attention_heads: &["num_attention_heads", "n_head"],
    num_key_value_heads: None,
    reads_head_dim: false,
    intermediate_size: IntermediateSize::KeyOrFourfold("n_inner"),
    activation_key: Some("activation_function"),
    activation: Activation::GeluTanh,
    gated_mlp: false,
    attention_bias: Flag::Always(true),
    mlp_bias: Flag::Always(true),
    norm: LAYER_NORM,
    norm_eps: Some("layer_norm_epsilon"),
    rotary: None,
    tie_word_embeddings: true,
    default_tokens: DefaultTokens {
        bos: Some(50256),
        eos: Some(50256),
        pad: None,
    },
    configure,
    configure_layers,
    names: |_| &NAMES,
    ..llama::FAMILY
};

/// What transformers takes for a key that is missing.
const DEFAULT_POSITIONS: usize = 1024;

const NAMES: TensorNames = TensorNames {
    tables: &[
        &[
            row("attn.c_attn", &[QProj, KProj, VProj]),
            row("attn.c_proj", &[OProj]),
            row("mlp.c_fc", &[UpProj]),
            row("mlp.c_proj", &[DownProj]),
        ],
        GPT_ROWS,
    ],
    projections: MatrixLayout::InOut,
    ..GPT
};

fn configure(
    reader: &ConfigReader,
    config: &mut DecoderConfig,
    layer: &mut LayerConfig,
) -> Result<(), Error> {
    config.position_embedding = PositionEmbeddingConfig::Learned {
        num_positions: reader
            .optional_size(reader.first(&["max_position_embeddings", "n_positions"]))?
            .unwrap_or(DEFAULT_POSITIONS),
        width: config.hidden_size,
    };
    if !reader.flag("scale_attn_weights", true)? {
        layer.attention.scores.scale = Some(1.0);
    }
    Ok(())
}

/// Scores may also be divided by the number of the layer, counted from 1.
fn configure_layers(reader: &ConfigReader, layers: &mut [LayerConfig]) -> Result<(), Error> {
    if reader.flag("scale_attn_by_inverse_layer_idx", false)? {
        for (number, layer) in (1..).zip(layers) {
            let attention = &mut layer.attention;
            let default = (attention.head_dim as f64).sqrt().recip();
            let scale = attention.scores.scale.unwrap_or(default);
            attention.scores.scale = Some(scale / f64::from(number));
        }
    }
    Ok(())
}
