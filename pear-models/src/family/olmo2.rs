//! OLMo 2 ([arXiv 2501.00656](https://arxiv.org/abs/2501.00656)): norms after attention and MLP, and on whole queries and keys.

use pear_core::{NormConfig, QkNorm};

use super::{DefaultTokens, Family, Flag, llama};
use crate::layer_config::Residual;

pub(super) const FAMILY: Family = Family {
    model_type: "olmo2",
    mlp_bias: Flag::Always(false),
    norm: NormConfig::RmsRoundedOnce { eps: 1e-5 },
    residual: Residual::NormedBranches,
    default_tokens: DefaultTokens {
        bos: None,
        eos: Some(50279),
        pad: Some(1),
    },
    configure: |_, _, layer| {
        layer.attention.qk_norm = Some(QkNorm::Projection(layer.norm));
        Ok(())
    },
    ..llama::FAMILY
};
