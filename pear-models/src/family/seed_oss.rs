//! Seed-OSS: Llama with biases on queries, keys and values.

use super::rotary::RotaryKeys;
use super::{DefaultTokens, Family, Flag, llama};

pub(super) const FAMILY: Family = Family {
    model_type: "seed_oss",
    default_key_value_heads: Some(8),
    head_dim: Some(128),
    attention_bias: Flag::Key("attention_bias", true),
    rotary: Some(RotaryKeys {
        default_max_positions: 524_288,
        ..RotaryKeys::WHOLE_HEADS
    }),
    default_tokens: DefaultTokens {
        bos: Some(0),
        eos: Some(2),
        pad: Some(1),
    },
    configure: |reader, _, layer| {
        layer.attention.output_bias = reader.flag("attention_out_bias", false)?;
        Ok(())
    },
    ..llama::FAMILY
};
