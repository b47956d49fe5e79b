//! Baichuan and Baichuan 2 ([arXiv 2309.10305](https://arxiv.org/abs/2309.10305)): Llama with packed projections; the 13B models have ALiBi in
//! place of rotary positions.

use pear_core::position::PositionEmbeddingConfig;

use super::rotary::RotaryKeys;
use super::tensors::{self, LLAMA_ROWS, TensorNames, row};
use super::{DefaultTokens, Family, Flag, alibi, llama};
use crate::param::ModuleId::*;

pub(super) const FAMILY: Family = Family {
    model_type: "baichuan",
    num_key_value_heads: None,
    attention_bias: Flag::Always(false),
    mlp_bias: Flag::Always(false),
    rotary: None,
    default_tokens: DefaultTokens {
        bos: Some(1),
        eos: Some(2),
        pad: Some(0),
    },
    configure: |reader, config, layer| {
        let attention = &mut layer.attention;
        // The ALiBi models have its keys, too.
        let rotary = reader.rotary(attention.head_dim, &RotaryKeys::LLAMA);
        attention.position_embedding = if config.hidden_size == ROTARY_WIDTH {
            PositionEmbeddingConfig::Rotary(rotary?)
        } else {
            alibi(attention)
        };
        config.normalized_lm_head = config.vocab_size == NORMALIZED_HEAD_VOCABULARY;
        Ok(())
    },
    names: |_| &NAMES,
    ..llama::FAMILY
};

/// The width of the 7B models, which are the rotary ones. The configs do not say it; the code beside each checkpoint differs.
const ROTARY_WIDTH: usize = 4096;
/// The vocabulary of Baichuan 2, which scales the rows of its unembedding to length 1.
const NORMALIZED_HEAD_VOCABULARY: usize = 125_696;

const NAMES: TensorNames = TensorNames {
    tables: &[
        &[row("self_attn.W_pack", &[QProj, KProj, VProj])],
        LLAMA_ROWS,
    ],
    buffers: &["rotary_emb.inv_freq", "future_mask"],
    ..tensors::LLAMA
};
