//! Mixtures of experts, as `config.json` has them.

use super::{ConfigReader, Spellings};
use crate::dense_mlp_config::DenseMlpConfig;
use crate::error::Error;
use crate::experts_config::{ExpertRouting, ExpertsConfig};

/// How a family spells its experts, and what holds where the config does not say.
pub(super) struct ExpertKeys {
    /// Experts to choose from.
    pub num_experts: Spellings,
    pub default_num_experts: usize,
    /// Experts that a token goes through, under `num_experts_per_tok`.
    pub default_per_token: usize,
}

/// In training alone routers are shaken and their load is balanced.
const OF_TRAINING: &[&str] = &[
    "output_router_logits",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "input_jitter_noise",
];

impl ExpertKeys {
    /// A mixture of experts that are each like `expert`.
    pub fn read(
        &self,
        reader: &ConfigReader,
        expert: DenseMlpConfig,
        routing: ExpertRouting,
    ) -> Result<ExpertsConfig, Error> {
        let num_experts = reader.optional_size(reader.first(self.num_experts))?;
        let per_token = reader.optional_size("num_experts_per_tok")?;
        reader.ignore(OF_TRAINING);
        Ok(ExpertsConfig {
            num_experts: num_experts.unwrap_or(self.default_num_experts),
            num_experts_per_token: per_token.unwrap_or(self.default_per_token),
            expert,
            routing,
            router_bias: false,
            shared: None,
        })
    }
}

/// `norm_topk_prob`: whether the weights of the chosen experts add up to 1.
pub(super) fn normed_if_said(reader: &ConfigReader) -> Result<ExpertRouting, Error> {
    Ok(if reader.flag("norm_topk_prob", false)? {
        ExpertRouting::SoftmaxOfChosen
    } else {
        ExpertRouting::Softmax
    })
}
