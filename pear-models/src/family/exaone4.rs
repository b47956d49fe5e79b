//! EXAONE 4 ([arXiv 2507.11407](https://arxiv.org/abs/2507.11407)): norms after attention and MLP, and on queries and keys; in larger models a
//! window in three of four layers, and no positions in the fourth.

use pear_core::position::PositionEmbeddingConfig;
use pear_core::{NormConfig, QkNorm};

use super::windows::{all_but_every, window_or_default};
use super::{DefaultTokens, Family, Flag, llama};
use crate::layer_config::Residual;

pub(super) const FAMILY: Family = Family {
    model_type: "exaone4",
    default_key_value_heads: Some(32),
    attention_bias: Flag::Always(false),
    mlp_bias: Flag::Always(false),
    norm: NormConfig::Rms { eps: 1e-5 },
    residual: Residual::NormedBranches,
    default_tokens: DefaultTokens {
        bos: Some(0),
        eos: Some(2),
        pad: None,
    },
    configure: |_, _, layer| {
        layer.attention.qk_norm = Some(QkNorm::Head(layer.norm));
        Ok(())
    },
    configure_layers: |reader, layers| {
        let Some(window) = window_or_default(reader)? else {
            reader.ignore(&["layer_types", "sliding_window_pattern"]);
            return Ok(());
        };
        let slides = all_but_every(reader, layers.len(), 4)?;
        for (layer, slides) in layers.iter_mut().zip(slides) {
            if slides {
                layer.attention.scores.window = Some(window);
            } else {
                layer.attention.position_embedding = PositionEmbeddingConfig::None;
            }
        }
        Ok(())
    },
    ..llama::FAMILY
};
