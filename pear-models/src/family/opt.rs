//! OPT ([arXiv 2205.01068](https://arxiv.org/abs/2205.01068)): learned positions, ReLU.

use pear_core::kernels::Activation;
use pear_core::position::PositionEmbeddingConfig;

use super::tensors::{self, LLAMA_ROWS, Row, TensorNames, row};
use super::{ConfigReader, DefaultTokens, Family, Flag, IntermediateSize, LAYER_NORM, llama};
use crate::config::DecoderConfig;
use crate::error::Error;
use crate::layer_config::{LayerConfig, Residual};
use crate::param::ModuleId::*;

pub(super) const FAMILY: Family = Family {
    model_type: "opt",
    num_key_value_heads: None,
    reads_head_dim: false,
    intermediate_size: IntermediateSize::Key("ffn_dim"),
    activation_key: Some("activation_function"),
    activation: Activation::Relu,
    gated_mlp: false,
    attention_bias: Flag::Key("enable_bias", true),
    mlp_bias: Flag::Key("enable_bias", true),
    norm: LAYER_NORM,
    norm_eps: None,
    rotary: None,
    tie_word_embeddings: true,
    default_tokens: DefaultTokens {
        bos: Some(2),
        eos: Some(2),
        pad: Some(1),
    },
    configure,
    names: |_| &NAMES,
    ..llama::FAMILY
};

/// What transformers takes for a key that is missing.
const DEFAULT_POSITIONS: usize = 2048;

/// The table of positions starts with two rows that no token uses.
const POSITION_OFFSET: usize = 2;

const NAMES: TensorNames = TensorNames {
    prefixes: &["model.decoder.", "decoder.", ""],
    tables: &[
        &[
            row("embed_positions", &[Positions]).after(POSITION_OFFSET),
            row("project_in", &[ProjectIn]),
            row("project_out", &[ProjectOut]),
            row("final_layer_norm", &[FinalNorm]),
        ],
        FAIRSEQ_ROWS,
        LLAMA_ROWS,
    ],
    buffers: &[],
    ..tensors::LLAMA
};

/// What OPT and XGLM, both from fairseq, name otherwise than Llama.
pub(super) const FAIRSEQ_ROWS: &[Row] = &[
    row("self_attn_layer_norm", &[InputNorm]),
    row("self_attn.out_proj", &[OProj]),
    row("final_layer_norm", &[PostAttentionNorm]),
    row("fc1", &[UpProj]),
    row("fc2", &[DownProj]),
];

fn configure(
    reader: &ConfigReader,
    config: &mut DecoderConfig,
    layer: &mut LayerConfig,
) -> Result<(), Error> {
    reader.only("layer_norm_elementwise_affine", true.into())?;
    config.position_embedding = PositionEmbeddingConfig::Learned {
        num_positions: reader
            .optional_size("max_position_embeddings")?
            .unwrap_or(DEFAULT_POSITIONS),
        width: config.hidden_size,
    };
    if let Some(width) = reader.optional_size("word_embed_proj_dim")? {
        config.embedding_size = width;
    }
    if !reader.flag("do_layer_norm_before", true)? {
        layer.residual = Residual::PostNorm;
        config.final_norm = None;
    } else if reader.flag("_remove_final_layer_norm", false)? {
        config.final_norm = None;
    }
    Ok(())
}
