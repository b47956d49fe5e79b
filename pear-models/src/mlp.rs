//! The MLP of a layer that is the same for every token, which is also what an expert is.

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::prelude::*;
use pear_core::kernels::{Activation, activate, activate_gated, linear_forward, linear_start};

use crate::dense_mlp_config::DenseMlpConfig;

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
    pub fn new(hidden: usize, config: &DenseMlpConfig, device: &Device) -> Self {
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

    /// # Shapes
    /// `x` and the result: `[batch, seq, hidden]`.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        linear_forward(&self.down_proj, self.inner(x))
    }

    /// What a backward pass through it starts from, `gradient` being that of what `forward` gives: the last projection is not computed.
    ///
    /// # Shapes
    /// `x` and `gradient`: `[batch, seq, hidden]`; the result: `[1]`.
    pub fn start(&self, x: Tensor<3>, gradient: Tensor<3>) -> Tensor<1> {
        linear_start(self.inner(x), self.down_proj.weight.val(), gradient)
    }

    /// `[batch, seq, intermediate_size]`.
    fn inner(&self, x: Tensor<3>) -> Tensor<3> {
        let up = linear_forward(&self.up_proj, x.clone());
        match &self.gate_proj {
            Some(gate) => activate_gated(self.activation, linear_forward(gate, x), up),
            None => activate(self.activation, up),
        }
    }
}
