//! One layer of a decoder: norms, attention, MLP.

use std::ops::Deref;
use std::sync::Arc;

use burn::module::Module;
use burn::prelude::*;
use pear_core::kernels::inner_product;
use pear_core::position::PositionEmbedding;
use pear_core::{Attention, DecoderLayer, Norm};

use crate::experts::MixtureOfExperts;
use crate::layer_config::{LayerConfig, MlpConfig, Residual};
use crate::mlp::Mlp;
use crate::param::ModuleId;

/// One layer of a [`Decoder`](crate::Decoder).
#[derive(Module, Debug)]
pub struct Layer {
    input_layernorm: Option<Norm>,
    pub(crate) self_attn: Attention,
    post_attention_layernorm: Option<Norm>,
    pre_feedforward_layernorm: Option<Norm>,
    post_feedforward_layernorm: Option<Norm>,
    /// Absent where there are experts.
    mlp: Option<Mlp>,
    moe: Option<MixtureOfExperts>,
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
        let (mlp, moe) = match &config.mlp {
            MlpConfig::Dense(mlp) => (Some(Mlp::new(hidden, mlp, device)), None),
            MlpConfig::Experts(experts) => {
                (None, Some(MixtureOfExperts::new(hidden, experts, device)))
            }
        };
        Ok(Self {
            input_layernorm: norm(ModuleId::InputNorm),
            self_attn: config.attention.init_with(positions, device)?,
            post_attention_layernorm: norm(ModuleId::PostAttentionNorm),
            pre_feedforward_layernorm: norm(ModuleId::PreFeedforwardNorm),
            post_feedforward_layernorm: norm(ModuleId::PostFeedforwardNorm),
            mlp,
            moe,
            residual: config.residual,
            residual_scale: config.residual_scale,
        })
    }

    /// The MLP, or the mixture of experts in its place.
    fn mlp(&self, x: Tensor<3>) -> Tensor<3> {
        match (&self.mlp, &self.moe) {
            (Some(mlp), _) => mlp.forward(x),
            (None, Some(moe)) => moe.forward(x),
            (None, None) => unreachable!("a layer is made with an MLP or with experts"),
        }
    }

    /// What the MLP's output is added to, and its input.
    fn mlp_site(&self, residual: Tensor<3>, attention_output: Tensor<3>) -> (Tensor<3>, Tensor<3>) {
        match self.residual {
            Residual::Serial => {
                let x = residual + self.scaled(attention_output);
                (x.clone(), normed(&self.post_attention_layernorm, x))
            }
            Residual::SerialFromNorm => {
                let normed_residual = normed(&self.input_layernorm, residual);
                let x = normed_residual + self.scaled(attention_output);
                let input = normed(&self.post_attention_layernorm, x);
                (input.clone(), input)
            }
            Residual::Parallel => {
                let input = normed(&self.post_attention_layernorm, residual.clone());
                (residual + self.scaled(attention_output), input)
            }
            Residual::ParallelOneNorm => {
                let input = normed(&self.input_layernorm, residual.clone());
                (residual + self.scaled(attention_output), input)
            }
            Residual::PostNorm => {
                let sum = residual + self.scaled(attention_output);
                let x = normed(&self.input_layernorm, sum);
                (x.clone(), x)
            }
            Residual::NormedBranches | Residual::Sandwich => {
                let attention_output = normed(&self.post_attention_layernorm, attention_output);
                let x = residual + self.scaled(attention_output);
                (x.clone(), normed(&self.pre_feedforward_layernorm, x))
            }
        }
    }

    /// What a backward pass through the MLP starts from, `gradient` being that of what it gives.
    fn mlp_start(&self, x: Tensor<3>, gradient: Tensor<3>) -> Tensor<1> {
        match &self.mlp {
            Some(mlp) => mlp.start(x, gradient),
            None => inner_product(self.mlp(x), gradient),
        }
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
        let (sum, input) = self.mlp_site(residual, attention_output);
        let mlp_output = self.mlp(input);
        match self.residual {
            Residual::PostNorm => {
                let sum = sum + self.scaled(mlp_output);
                normed(&self.post_attention_layernorm, sum)
            }
            Residual::NormedBranches | Residual::Sandwich => {
                sum + self.scaled(normed(&self.post_feedforward_layernorm, mlp_output))
            }
            _ => sum + self.scaled(mlp_output),
        }
    }

    fn backward_start(
        &self,
        residual: Tensor<3>,
        attention_output: Tensor<3>,
        gradient: Tensor<3>,
    ) -> Tensor<1> {
        // A norm stands between the MLP's last product and the output.
        if matches!(
            self.residual,
            Residual::PostNorm | Residual::NormedBranches | Residual::Sandwich
        ) {
            return inner_product(self.output(residual, attention_output), gradient);
        }
        let (sum, input) = self.mlp_site(residual, attention_output);
        let of_mlp = self.mlp_start(input, self.scaled(gradient.clone()));
        inner_product(sum, gradient) + of_mlp
    }
}

/// A layer of a [`Decoder`](crate::Decoder), as the decoder hands it out.
#[derive(Debug)]
#[non_exhaustive]
pub enum LayerRef<'a> {
    /// One that is in memory with the decoder.
    Resident(&'a Layer),
    /// One that was read when it was asked for. It is freed once it is dropped and another one has been asked for.
    Streamed(Arc<Layer>),
}

impl Deref for LayerRef<'_> {
    type Target = Layer;

    fn deref(&self) -> &Layer {
        match self {
            Self::Resident(layer) => layer,
            Self::Streamed(layer) => layer,
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
