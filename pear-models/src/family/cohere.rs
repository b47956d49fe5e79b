//! Command R, Command R+ (`cohere`) and Command A, Command R7B (`cohere2`): attention and MLP side by side behind one norm, rotary positions
//! that turn neighbouring channels, scaled logits. The newer models have positions only in the layers that have a window.

use pear_core::position::{PositionEmbeddingConfig, RotaryLayout};
use pear_core::{NormConfig, QkNorm};

use super::rotary::RotaryKeys;
use super::windows::{all_but_every, window_or_default};
use super::{ConfigReader, DefaultTokens, Family, Flag, llama};
use crate::config::DecoderConfig;
use crate::error::Error;
use crate::layer_config::Residual;

pub(super) const COHERE: Family = Family {
    model_type: "cohere",
    mlp_bias: Flag::Always(false),
    norm: NormConfig::Layer {
        eps: 1e-5,
        bias: false,
    },
    norm_eps: Some("layer_norm_eps"),
    residual: Residual::ParallelOneNorm,
    rotary: Some(RotaryKeys {
        default_theta: 500_000.0,
        default_max_positions: 8192,
        layout: RotaryLayout::Interleaved,
        ..RotaryKeys::WHOLE_HEADS
    }),
    tie_word_embeddings: true,
    default_tokens: DefaultTokens {
        bos: Some(5),
        eos: Some(255_001),
        pad: Some(0),
    },
    configure: |reader, config, layer| {
        if reader.flag("use_qk_norm", false)? {
            layer.attention.qk_norm = Some(QkNorm::EachHead(layer.norm));
        }
        scale_logits(reader, config)
    },
    ..llama::FAMILY
};

pub(super) const COHERE2: Family = Family {
    model_type: "cohere2",
    rotary: Some(RotaryKeys {
        default_max_positions: 8192,
        layout: RotaryLayout::Interleaved,
        ..RotaryKeys::WHOLE_HEADS
    }),
    configure: |reader, config, _| {
        reader.only("position_embedding_type", "rope_gptj".into())?;
        // What all models have, and how generation keeps keys and values.
        reader.ignore(&[
            "cache_implementation",
            "layer_switch",
            "order_of_interleaved_layers",
            "rotary_pct",
            "use_embedding_sharing",
            "use_gated_activation",
            "use_parallel_block",
            "use_parallel_embedding",
        ]);
        scale_logits(reader, config)
    },
    configure_layers: |reader, layers| {
        let window = window_or_default(reader)?;
        let slides = all_but_every(reader, layers.len(), 4)?;
        for (layer, slides) in layers.iter_mut().zip(slides) {
            let attention = &mut layer.attention;
            attention.scores.window = window.filter(|_| slides);
            if attention.scores.window.is_none() {
                attention.position_embedding = PositionEmbeddingConfig::None;
            }
        }
        Ok(())
    },
    ..COHERE
};

fn scale_logits(reader: &ConfigReader, config: &mut DecoderConfig) -> Result<(), Error> {
    config.logit_scale = Some(reader.positive("logit_scale", 0.0625)?);
    Ok(())
}
