//! BLOOM ([arXiv 2211.05100](https://arxiv.org/abs/2211.05100)): ALiBi, a norm after the embedding, projections packed head by head.

use super::tensors::{GPT, Row, TensorNames, row};
use super::{ConfigReader, DefaultTokens, Family, alibi, gpt2};
use crate::config::DecoderConfig;
use crate::error::Error;
use crate::layer_config::{LayerConfig, Residual};
use crate::param::ModuleId::*;

pub(super) const FAMILY: Family = Family {
    model_type: "bloom",
    hidden_size: &["n_embed", "hidden_size"],
    activation_key: None,
    default_tokens: DefaultTokens {
        bos: Some(1),
        eos: Some(2),
        pad: None,
    },
    configure,
    configure_layers: |_, _| Ok(()),
    names: |_| &NAMES,
    ..gpt2::FAMILY
};

const NAMES: TensorNames = TensorNames {
    tables: &[BLOOM_ROWS],
    ..GPT
};

pub(super) const BLOOM_ROWS: &[Row] = &[
    row("word_embeddings", &[EmbedTokens]),
    row("word_embeddings_layernorm", &[EmbedNorm]),
    row("ln_f", &[FinalNorm]),
    row("lm_head", &[LmHead]),
    row("input_layernorm", &[InputNorm]),
    row("self_attention.query_key_value", &[QProj, KProj, VProj]).by_head_group(),
    row("self_attention.dense", &[OProj]),
    row("post_attention_layernorm", &[PostAttentionNorm]),
    row("mlp.dense_h_to_4h", &[UpProj]),
    row("mlp.dense_4h_to_h", &[DownProj]),
];

fn configure(
    reader: &ConfigReader,
    config: &mut DecoderConfig,
    layer: &mut LayerConfig,
) -> Result<(), Error> {
    layer.attention.position_embedding = alibi(&layer.attention);
    if reader.flag("apply_residual_connection_post_layernorm", false)? {
        layer.residual = Residual::SerialFromNorm;
    }
    config.embedding_norm = Some(layer.norm);
    Ok(())
}
