//! XGLM ([arXiv 2112.10668](https://arxiv.org/abs/2112.10668)): sinusoidal positions.

use pear_core::kernels::Activation;
use pear_core::position::{PositionEmbeddingConfig, SinusoidalConfig, SinusoidalLayout};

use super::opt::FAIRSEQ_ROWS;
use super::tensors::{self, LLAMA_ROWS, TensorNames, row};
use super::{DefaultTokens, Family, Flag, IntermediateSize, LAYER_NORM, llama};
use crate::param::ModuleId::*;

pub(super) const FAMILY: Family = Family {
    model_type: "xglm",
    hidden_size: &["hidden_size", "d_model"],
    num_hidden_layers: &["num_hidden_layers", "num_layers"],
    num_attention_heads: &["num_attention_heads", "attention_heads"],
    num_key_value_heads: None,
    reads_head_dim: false,
    intermediate_size: IntermediateSize::Key("ffn_dim"),
    activation_key: Some("activation_function"),
    activation: Activation::Gelu,
    gated_mlp: false,
    attention_bias: Flag::Always(true),
    mlp_bias: Flag::Always(true),
    norm: LAYER_NORM,
    norm_eps: None,
    rotary: None,
    tie_word_embeddings: true,
    default_tokens: DefaultTokens {
        bos: Some(0),
        eos: Some(2),
        pad: Some(1),
    },
    configure: |reader, config, _| {
        let width = config.hidden_size;
        config.position_embedding = PositionEmbeddingConfig::Sinusoidal(SinusoidalConfig {
            layout: SinusoidalLayout::HalfSplit,
            offset: POSITION_OFFSET,
            width,
        });
        if reader.flag("scale_embedding", true)? {
            config.embedding_scale = Some((width as f64).sqrt());
        }
        // Only the size of a table that grows on demand.
        reader.optional_size("max_position_embeddings")?;
        Ok(())
    },
    names: |_| &NAMES,
    ..llama::FAMILY
};

/// Positions are counted from here.
const POSITION_OFFSET: usize = 2;

const NAMES: TensorNames = TensorNames {
    tables: &[&[row("layer_norm", &[FinalNorm])], FAIRSEQ_ROWS, LLAMA_ROWS],
    buffers: &["embed_positions.weights"],
    ..tensors::LLAMA
};
