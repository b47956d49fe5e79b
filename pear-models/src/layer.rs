//! One layer of a decoder: norms, attention, MLP.

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::prelude::*;
use pear_core::kernels::{Activation, activate, activate_gated, linear_forward};
use pear_core::position::PositionEmbedding;
use pear_core::{Attention, DecoderLayer, Norm};

use crate::config::{DecoderConfig, Residual};

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
    fn new(config: &DecoderConfig, device: &Device) -> Self {
        let linear = |from, to| {
            LinearConfig::new(from, to)
                .with_bias(config.mlp_bias)
                .init(device)
        };
        let (hidden, inner) = (config.hidden_size(), config.intermediate_size);
        Self {
            gate_proj: config.gated_mlp.then(|| linear(hidden, inner)),
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
    pub(crate) fn new(
        config: &DecoderConfig,
        layer: usize,
        positions: PositionEmbedding,
        device: &Device,
    ) -> pear_core::Result<Self> {
        let names = config.residual.norms();
        let norm = |name| {
            names
                .contains(&name)
                .then(|| config.norm().init(config.hidden_size(), device))
        };
        Ok(Self {
            input_layernorm: norm("input_layernorm"),
            self_attn: config.layer_attention(layer).init_with(positions, device)?,
            post_attention_layernorm: norm("post_attention_layernorm"),
            pre_feedforward_layernorm: norm("pre_feedforward_layernorm"),
            post_feedforward_layernorm: norm("post_feedforward_layernorm"),
            mlp: Mlp::new(config, device),
            residual: config.residual,
            residual_scale: config.residual_scale,
        })
    }
}

impl DecoderLayer for Layer {
    type Attention = Attention;

    fn attention(&self) -> &Attention {
        &self.self_attn
    }

    fn attention_input(&self, residual: Tensor<3>) -> Tensor<3> {
        match self.residual {
            Residual::PostNorm => residual,
            _ => normed(&self.input_layernorm, residual),
        }
    }

    fn output(&self, residual: Tensor<3>, attention_output: Tensor<3>) -> Tensor<3> {
        let scaled = |branch: Tensor<3>| match self.residual_scale {
            Some(scale) => branch * scale,
            None => branch,
        };
        match self.residual {
            Residual::Serial => {
                let residual = residual + scaled(attention_output);
                residual.clone()
                    + scaled(
                        self.mlp
                            .forward(normed(&self.post_attention_layernorm, residual)),
                    )
            }
            Residual::SerialFromNorm => {
                let residual = normed(&self.input_layernorm, residual) + scaled(attention_output);
                let normed = normed(&self.post_attention_layernorm, residual);
                normed.clone() + scaled(self.mlp.forward(normed))
            }
            Residual::Parallel => {
                let mlp = self
                    .mlp
                    .forward(normed(&self.post_attention_layernorm, residual.clone()));
                residual + scaled(attention_output) + scaled(mlp)
            }
            Residual::ParallelOneNorm => {
                let mlp = self
                    .mlp
                    .forward(normed(&self.input_layernorm, residual.clone()));
                residual + scaled(attention_output) + scaled(mlp)
            }
            Residual::PostNorm => {
                let residual = normed(&self.input_layernorm, residual + scaled(attention_output));
                normed(
                    &self.post_attention_layernorm,
                    residual.clone() + scaled(self.mlp.forward(residual)),
                )
            }
            Residual::NormedBranches | Residual::Sandwich => {
                let residual =
                    residual + scaled(normed(&self.post_attention_layernorm, attention_output));
                let mlp = self
                    .mlp
                    .forward(normed(&self.pre_feedforward_layernorm, residual.clone()));
                residual + scaled(normed(&self.post_feedforward_layernorm, mlp))
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
