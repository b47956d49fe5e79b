//! GPT-J: rotary positions that turn neighbouring channels, attention and MLP side by side behind one norm, a bias on the unembedding.

use pear_core::position::{PositionEmbeddingConfig, RotaryConfig, RotaryLayout};

use super::tensors::{GPT, GPT_ROWS, TensorNames, row};
use super::{ConfigReader, Family, Flag, gpt2};
use crate::config::DecoderConfig;
use crate::error::Error;
use crate::layer_config::{LayerConfig, Residual};
use crate::param::ModuleId::*;

pub(super) const FAMILY: Family = Family {
    model_type: "gptj",
    attention_bias: Flag::Always(false),
    residual: Residual::ParallelOneNorm,
    tie_word_embeddings: false,
    configure,
    configure_layers: |_, _| Ok(()),
    names: |_| &NAMES,
    ..gpt2::FAMILY
};

const NAMES: TensorNames = TensorNames {
    tables: &[
        &[
            row("attn.q_proj", &[QProj]),
            row("attn.k_proj", &[KProj]),
            row("attn.v_proj", &[VProj]),
            row("attn.out_proj", &[OProj]),
            row("mlp.fc_in", &[UpProj]),
            row("mlp.fc_out", &[DownProj]),
        ],
        GPT_ROWS,
    ],
    buffers: &[".attn.bias", ".attn.masked_bias", ".attn.embed_positions"],
    ..GPT
};

fn configure(
    reader: &ConfigReader,
    config: &mut DecoderConfig,
    layer: &mut LayerConfig,
) -> Result<(), Error> {
    reader.only("rotary", true.into())?;
    reader.only("scale_attn_weights", true.into())?;
    let rotary_dim = reader.optional_size("rotary_dim")?.unwrap_or(64);
    layer.attention.position_embedding = PositionEmbeddingConfig::Rotary(RotaryConfig {
        layout: RotaryLayout::Interleaved,
        ..RotaryConfig::new(rotary_dim, 10000.0)
    });
    config.lm_head_bias = true;
    // The length of a table that is computed here.
    reader.optional_size("n_positions")?;
    Ok(())
}
