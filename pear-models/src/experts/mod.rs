//! The mixture of experts of a layer.

mod routes;
mod weights;

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::prelude::*;
use burn::tensor::DType;
use burn::tensor::activation::sigmoid;
use pear_core::kernels::linear_forward;

use crate::experts_config::{ExpertRouting, ExpertsConfig};
use crate::mlp::Mlp;
use routes::Routes;

/// A router, the experts that it chooses from, and perhaps an expert that every token goes through.
///
/// Each expert has parameters of its own: a product takes its weight as it is, on every device, and weights of experts that no token goes
/// through are not read.
#[derive(Module, Debug)]
pub(crate) struct MixtureOfExperts {
    router: Linear,
    experts: Vec<Mlp>,
    shared_expert: Option<Mlp>,
    shared_expert_gate: Option<Linear>,
    num_experts_per_token: usize,
    #[module(skip)]
    routing: ExpertRouting,
}

impl MixtureOfExperts {
    pub fn new(hidden: usize, config: &ExpertsConfig, device: &Device) -> Self {
        let linear = |outputs, bias| {
            LinearConfig::new(hidden, outputs)
                .with_bias(bias)
                .init(device)
        };
        let expert = |_| Mlp::new(hidden, &config.expert, device);
        let shared = config.shared;
        Self {
            router: linear(config.num_experts, config.router_bias),
            experts: (0..config.num_experts).map(expert).collect(),
            shared_expert: shared.map(|shared| Mlp::new(hidden, &shared.mlp, device)),
            shared_expert_gate: shared
                .filter(|shared| shared.gated)
                .map(|_| linear(1, false)),
            num_experts_per_token: config.num_experts_per_token,
            routing: config.routing,
        }
    }

    /// # Shapes
    /// `x` and the result: `[batch, seq, hidden]`.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let [batch, seq, hidden] = x.dims();
        if batch * seq == 0 {
            return x;
        }
        let tokens = x.clone().reshape([batch * seq, hidden]);
        let logits = linear_forward(&self.router, x.clone())
            .reshape([batch * seq, self.experts.len()])
            .cast(DType::F32);
        let routes = Routes::choose(&logits, self.num_experts_per_token);
        let outputs = self.expert_outputs(tokens, &routes);
        let weights = weights::weights(self.routing, logits, &routes);
        let mixed = (outputs.cast(DType::F32) * weights.unsqueeze_dim(2)).sum_dim(1);
        let mixed = mixed.reshape([batch, seq, hidden]).cast(x.dtype());
        match self.shared_output(x) {
            Some(shared) => mixed + shared,
            None => mixed,
        }
    }

    /// What each token's experts make of it: `[tokens, hidden]` to `[tokens, experts per token, hidden]`.
    fn expert_outputs(&self, tokens: Tensor<2>, routes: &Routes) -> Tensor<3> {
        let [num_tokens, hidden] = tokens.dims();
        let outputs = routes
            .tokens_by_expert(&tokens.device())
            .map(|(expert, chosen)| {
                let inputs = tokens.clone().select(0, chosen);
                self.experts[expert].forward(inputs.unsqueeze())
            })
            .collect();
        Tensor::cat(outputs, 1)
            .squeeze_dim::<2>(0)
            .select(0, routes.places(&tokens.device()))
            .reshape([num_tokens, self.num_experts_per_token, hidden])
    }

    fn shared_output(&self, x: Tensor<3>) -> Option<Tensor<3>> {
        let output = self.shared_expert.as_ref()?.forward(x.clone());
        Some(match &self.shared_expert_gate {
            Some(gate) => output * sigmoid(linear_forward(gate, x)),
            None => output,
        })
    }
}

#[cfg(test)]
mod tests;
