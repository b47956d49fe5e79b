//! Gemma 3 ([arXiv 2503.19786](https://arxiv.org/abs/2503.19786)): Gemma 2 with normed queries and keys in place of soft caps, and with
//! another base of its rotary positions in the layers that have a window. Larger models also see images: of those the text model is read.

use pear_core::QkNorm;

use super::gemma::{self, query_scale, scale_embedding};
use super::rotary::RotaryKeys;
use super::tensors::{self, TensorNames};
use super::windows::slide_and_rotate;
use super::{ConfigReader, Family};
use crate::config::DecoderConfig;
use crate::error::Error;
use crate::layer_config::LayerConfig;

pub(super) const TEXT: Family = Family {
    model_type: "gemma3_text",
    defaults: &[
        ("vocab_size", 262_208),
        ("hidden_size", 2304),
        ("intermediate_size", 9216),
        ("num_hidden_layers", 26),
        ("num_attention_heads", 8),
    ],
    default_key_value_heads: Some(4),
    rotary: None,
    configure: |reader, config, layer| {
        config.logit_soft_cap = reader.number("final_logit_softcapping")?;
        configure(reader, config, layer)
    },
    configure_layers: |reader, layers| slide_and_rotate(reader, layers, 6, (&FULL, &SLIDING)),
    ..gemma::GEMMA2
};

pub(super) const MULTIMODAL: Family = Family {
    model_type: "gemma3",
    text_config: Some("text_config"),
    configure: |reader, config, layer| {
        // It caps no logits, whatever its text model says.
        reader.ignore(&["final_logit_softcapping"]);
        for key in ["boi_token_index", "eoi_token_index", "image_token_index"] {
            config.special_tokens.extend(reader.token_ids(key)?);
        }
        configure(reader, config, layer)
    },
    names: |_| &NAMES_WITHIN_MULTIMODAL,
    ..TEXT
};

/// Layers that attend to all positions.
const FULL: RotaryKeys = RotaryKeys {
    default_theta: 1_000_000.0,
    default_max_positions: 131_072,
    ..RotaryKeys::WHOLE_HEADS
};

/// Layers that have a window.
const SLIDING: RotaryKeys = RotaryKeys {
    theta: &["rope_local_base_freq"],
    default_theta: 10_000.0,
    ..FULL
};

const NAMES_WITHIN_MULTIMODAL: TensorNames = TensorNames {
    prefixes: &["language_model.model.", "model.language_model."],
    other_models: &[
        "vision_tower.",
        "multi_modal_projector.",
        "model.vision_tower.",
        "model.multi_modal_projector.",
    ],
    ..tensors::LLAMA
};

fn configure(
    reader: &ConfigReader,
    config: &mut DecoderConfig,
    layer: &mut LayerConfig,
) -> Result<(), Error> {
    layer.attention.qk_norm = Some(QkNorm::Head(layer.norm));
    layer.attention.scores.scale = Some(query_scale(reader)?);
    reader.ignore(&[
        "attn_logit_softcapping",
        "hidden_act",
        "cache_implementation",
        "_sliding_window_pattern",
    ]);
    scale_embedding(config);
    Ok(())
}
