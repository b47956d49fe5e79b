//! One layer of a decoder: norms, attention, MLP.

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::prelude::*;
use pear_core::kernels::{Activation, activate, activate_gated, linear_forward};
use pear_core::position::PositionEmbedding;
use pear_core::{Attention, DecoderLayer, Norm};

use crate::layer_config::{DenseMlpConfig, LayerConfig, MlpConfig, Residual};
use crate::param::ModuleId;

/// `down(act(gate(x)) · up(x))`, or `down(act(up(x)))` without a gate.
#[derive(Module, Debug)]
pub(crate) struct Mlp {
    gate_proj: Option<Linear>,
    up_proj: Linear,
    down_proj: Linear,
    #[module(skip)]
    activation: Activation,
}

impl Mlp {
    fn new(hidden: usize, config: &DenseMlpConfig, device: &Device) -> Self {
        let linear = |from, to| {
            LinearConfig::new(from, to)
                .with_bias(config.bias)
                .init(device)
        };
        let inner = config.intermediate_size;
        Self {
            gate_proj: config.gated.then(|| linear(hidden, inner)),
            up_proj: linear(hidden, inner),
            down_proj: linear(inner, hidden),
            activation: config.activation,
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let up = linear_forward(&self.up_proj, x.clone());
        let inner = match &self.gate_proj {
            Some(gate) => activate_gated(self.activation, linear_forward(gate, x), up),
            None => activate(self.activation, up),
        };
        linear_forward(&self.down_proj, inner)
    }
}

/// One layer of a [`Decoder`](crate::Decoder).
#[derive(Module, Debug)]
pub struct Layer {
    input_layernorm: Option<Norm>,
    pub(crate) self_attn: Attention,
    post_attention_layernorm: Option<Norm>,
    pre_feedforward_layernorm: Option<Norm>,
    post_feedforward_layernorm: Option<Norm>,
    mlp: Mlp,
    #[module(skip)]
    residual: Residual,
    #[module(skip)]
    residual_scale: Option<f64>,
}

impl Layer {
    /// The layer; `positions` are those of its config, perhaps shared with other layers.
    pub(crate) fn new(
        config: &LayerConfig,
        positions: PositionEmbedding,
        device: &Device,
    ) -> pear_core::Result<Self> {
        let hidden = config.attention.hidden_size;
        let norm = |id| {
            let present = config.residual.norms().contains(&id);
            present.then(|| config.norm.init(hidden, device))
        };
        let MlpConfig::Dense(mlp) = &config.mlp;
        Ok(Self {
            input_layernorm: norm(ModuleId::InputNorm),
            self_attn: config.attention.init_with(positions, device)?,
            post_attention_layernorm: norm(ModuleId::PostAttentionNorm),
            pre_feedforward_layernorm: norm(ModuleId::PreFeedforwardNorm),
            post_feedforward_layernorm: norm(ModuleId::PostFeedforwardNorm),
            mlp: Mlp::new(hidden, mlp, device),
            residual: config.residual,
            residual_scale: config.residual_scale,
        })
    }

    /// A branch as it is added to the residual stream.
    fn scaled(&self, branch: Tensor<3>) -> Tensor<3> {
        match self.residual_scale {
            Some(scale) => branch * scale,
            None => branch,
        }
    }
}

impl DecoderLayer for Layer {
    type Attention = Attention;

    fn attention(&self) -> &Attention {
        &self.self_attn
    }

    fn attention_input(&self, residual: Tensor<3>) -> Tensor<3> {
        // Its first norm comes after attention.
        if self.residual == Residual::PostNorm {
            return residual;
        }
        normed(&self.input_layernorm, residual)
    }

    fn output(&self, residual: Tensor<3>, attention_output: Tensor<3>) -> Tensor<3> {
        match self.residual {
            Residual::Serial => {
                let x = residual + self.scaled(attention_output);
                let input = normed(&self.post_attention_layernorm, x.clone());
                x + self.scaled(self.mlp.forward(input))
            }
            Residual::SerialFromNorm => {
                let normed_residual = normed(&self.input_layernorm, residual);
                let x = normed_residual + self.scaled(attention_output);
                let input = normed(&self.post_attention_layernorm, x);
                input.clone() + self.scaled(self.mlp.forward(input))
            }
            Residual::Parallel => {
                let input = normed(&self.post_attention_layernorm, residual.clone());
                let mlp_output = self.mlp.forward(input);
                residual + self.scaled(attention_output) + self.scaled(mlp_output)
            }
            Residual::ParallelOneNorm => {
                let input = normed(&self.input_layernorm, residual.clone());
                let mlp_output = self.mlp.forward(input);
                residual + self.scaled(attention_output) + self.scaled(mlp_output)
            }
            Residual::PostNorm => {
                let sum = residual + self.scaled(attention_output);
                let x = normed(&self.input_layernorm, sum);
                let sum = x.clone() + self.scaled(self.mlp.forward(x));
                normed(&self.post_attention_layernorm, sum)
            }
            Residual::NormedBranches | Residual::Sandwich => {
                let attention_output = normed(&self.post_attention_layernorm, attention_output);
                let x = residual + self.scaled(attention_output);
                let input = normed(&self.pre_feedforward_layernorm, x.clone());
                let mlp_output = self.mlp.forward(input);
                let mlp_output = normed(&self.post_feedforward_layernorm, mlp_output);
                x + self.scaled(mlp_output)
            }
        }
    }
}

/// The norm, where there is one.
fn normed(norm: &Option<Norm>, x: Tensor<3>) -> Tensor<3> {
    match norm {
        Some(norm) => norm.forward(x),
        None => x,
    }
}
