//! What varies between the layers of decoders.

use pear_core::{AttentionConfig, NormConfig, Result};
use serde::{Deserialize, Serialize};

use crate::config_error::invalid;
use crate::dense_mlp_config::DenseMlpConfig;
use crate::experts_config::ExpertsConfig;

/// How a layer adds attention and MLP to the residual stream `x`, and which norms it has for that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Residual {
    /// `x += attention(norm(x)); x += mlp(norm(x))`: most decoders.
    Serial,
    /// As `Serial`, with the norms' outputs in place of `x` in the sums (`apply_residual_connection_post_layernorm` of BLOOM).
    SerialFromNorm,
    /// `x += attention(norm1(x)) + mlp(norm2(x))`: GPT-NeoX, Falcon-40B.
    Parallel,
    /// `x += attention(norm(x)) + mlp(norm(x))`: GPT-J, Phi-2, Falcon-7B.
    ParallelOneNorm,
    /// `x = norm(x + attention(x)); x = norm(x + mlp(x))`: OPT-350m.
    PostNorm,
    /// `x += norm(attention(x)); x += norm(mlp(x))`: OLMo 2.
    NormedBranches,
    /// `x += norm(attention(norm(x))); x += norm(mlp(norm(x)))`: Gemma 2.
    Sandwich,
}

/// The MLP of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MlpConfig {
    /// The same for every token.
    Dense(DenseMlpConfig),
    /// Some of several for each token.
    Experts(ExpertsConfig),
}

impl MlpConfig {
    /// # Errors
    /// As [`DenseMlpConfig::validate`] and [`ExpertsConfig::validate`].
    pub fn validate(&self) -> Result<()> {
        match self {
            Self::Dense(dense) => dense.validate(),
            Self::Experts(experts) => experts.validate(),
        }
    }
}

/// A layer of a decoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerConfig {
    /// Heads, biases and scores, with this layer's window and the positions that act within attention.
    pub attention: AttentionConfig,
    /// The MLP.
    pub mlp: MlpConfig,
    /// The kind of the norms that [`residual`](Self::residual) speaks of.
    pub norm: NormConfig,
    /// How attention and MLP are added to the residual stream.
    pub residual: Residual,
    /// Multiplies what attention and MLP add to the residual stream (`residual_multiplier` of Granite).
    pub residual_scale: Option<f64>,
}

impl LayerConfig {
    /// A layer with its norms before attention and MLP.
    pub fn new(attention: AttentionConfig, mlp: MlpConfig, norm: NormConfig) -> Self {
        Self {
            attention,
            mlp,
            norm,
            residual: Residual::Serial,
            residual_scale: None,
        }
    }

    /// # Errors
    /// [`Error::Config`](pear_core::Error::Config) for an attention, MLP or norm that cannot be, and for positions that are added to token embeddings.
    pub fn validate(&self) -> Result<()> {
        self.attention.validate()?;
        self.mlp.validate()?;
        self.norm.validate()?;
        if self.attention.position_embedding.is_absolute() {
            return Err(invalid(
                "position_embedding",
                "absolute",
                "positions that are added to token embeddings belong to the decoder, not to a layer",
            ));
        }
        Ok(())
    }
}
