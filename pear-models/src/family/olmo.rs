//! OLMo ([arXiv 2402.00838](https://arxiv.org/abs/2402.00838)): norms without weights, queries, keys and values that may be clamped.

use pear_core::NormConfig;

use super::{DefaultTokens, Family, Flag, llama};

pub(super) const FAMILY: Family = Family {
    model_type: "olmo",
    mlp_bias: Flag::Always(false),
    norm: NormConfig::LayerWithoutWeight { eps: 1e-5 },
    norm_eps: None,
    default_tokens: DefaultTokens {
        bos: None,
        eos: Some(50279),
        pad: Some(1),
    },
    configure: |reader, _, layer| {
        layer.attention.clip_qkv = reader.number("clip_qkv")?;
        Ok(())
    },
    ..llama::FAMILY
};
