//! What varies between mixtures of experts.

use pear_core::Result;
use serde::{Deserialize, Serialize};

use crate::config_error::invalid;
use crate::dense_mlp_config::DenseMlpConfig;

/// Several MLPs, of which each token goes through the few that a router chooses for it
/// ([arXiv 1701.06538](https://arxiv.org/abs/1701.06538)): their outputs are weighted and added.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExpertsConfig {
    /// Experts to choose from.
    pub num_experts: usize,
    /// Experts that a token goes through.
    pub num_experts_per_token: usize,
    /// Each expert.
    pub expert: DenseMlpConfig,
    /// How the router's logits choose and weight experts.
    pub routing: ExpertRouting,
    /// Whether the router has a bias.
    pub router_bias: bool,
    /// An MLP that every token goes through besides.
    pub shared: Option<SharedExpertConfig>,
}

/// How the logits of a router, one for each expert, choose and weight experts.
///
/// The experts with the highest logits are chosen; of equal logits, which PyTorch orders in no way that it promises, those of the experts
/// that come first. Logits are rounded as the model's numbers are, and from there on everything is computed in f32.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ExpertRouting {
    /// Weights are the softmax over all experts: they add up to less than 1 (OLMoE).
    Softmax,
    /// Weights are the softmax over the chosen experts; the same as dividing those of [`Softmax`](Self::Softmax) by their sum
    /// (Mixtral, Granite, `norm_topk_prob` of Qwen).
    SoftmaxOfChosen,
    /// Of each of two chosen experts, the softmax over those experts whose logits are close to its own, without the one that was chosen
    /// before it: SparseMixer outside training ([arXiv 2409.12136](https://arxiv.org/abs/2409.12136)), Phi-3.5-MoE.
    SparseMixer {
        /// Logits are close if they differ by at most twice this share of the larger magnitude (`router_jitter_noise`).
        jitter: f64,
    },
}

/// An MLP that every token goes through besides its experts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SharedExpertConfig {
    /// The MLP.
    pub mlp: DenseMlpConfig,
    /// Whether its output is multiplied by the sigmoid of a learned linear function of its input (Qwen2-MoE).
    pub gated: bool,
}

impl ExpertsConfig {
    /// # Errors
    /// [`Error::Config`](pear_core::Error::Config) for a width of zero, for more experts per token than there are experts, and for a
    /// [`SparseMixer`](ExpertRouting::SparseMixer) that chooses another number than two or whose jitter is no number of at least 0.
    pub fn validate(&self) -> Result<()> {
        self.expert.validate()?;
        if let Some(shared) = &self.shared {
            shared.mlp.validate()?;
        }
        let chosen = self.num_experts_per_token;
        if !(1..=self.num_experts).contains(&chosen) {
            let expected = format!("expected 1 to the number of experts, {}", self.num_experts);
            return Err(invalid("num_experts_per_token", chosen, expected));
        }
        if let ExpertRouting::SparseMixer { jitter } = self.routing {
            if chosen != 2 {
                let expected = "expected 2, the number of experts that SparseMixer chooses";
                return Err(invalid("num_experts_per_token", chosen, expected));
            }
            if !(jitter.is_finite() && jitter >= 0.0) {
                let expected = "expected a finite number, at least 0";
                return Err(invalid("jitter", jitter, expected));
            }
        }
        Ok(())
    }
}
