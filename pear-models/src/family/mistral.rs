//! Mistral ([arXiv 2310.06825](https://arxiv.org/abs/2310.06825)): Llama with a sliding window.

use super::rotary::RotaryKeys;
use super::windows::{slide_all, window_or_default};
use super::{Family, Flag, llama};

pub(super) const FAMILY: Family = Family {
    model_type: "mistral",
    default_key_value_heads: Some(8),
    attention_bias: Flag::Always(false),
    mlp_bias: Flag::Always(false),
    rotary: Some(RotaryKeys {
        default_max_positions: 131_072,
        ..RotaryKeys::WHOLE_HEADS
    }),
    configure_layers: |reader, layers| {
        let window = window_or_default(reader)?;
        slide_all(layers, window);
        Ok(())
    },
    ..llama::FAMILY
};
