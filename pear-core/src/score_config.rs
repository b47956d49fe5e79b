//! How attention scores are made from queries and keys.

use serde::{Deserialize, Serialize};

/// How scores are made from queries and keys, in this order: scale, soft cap, bias, mask, softmax.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AttentionScoreConfig {
    /// Multiplies `q kᵀ`; `1 / √head_dim` if `None`.
    pub scale: Option<f64>,
    /// `cap · tanh(score / cap)` (`attn_logit_softcapping`).
    pub soft_cap: Option<f64>,
    /// Each position sees itself and the `window − 1` before it (`sliding_window`).
    pub window: Option<usize>,
}

impl AttentionScoreConfig {
    /// What `q kᵀ` is multiplied by for heads of `head_dim` channels.
    pub fn scale_for(&self, head_dim: usize) -> f64 {
        self.scale
            .unwrap_or_else(|| (head_dim as f64).sqrt().recip())
    }
}
