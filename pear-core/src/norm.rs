//! The norms of a decoder: of the residual stream, of branches, of queries and keys.

use burn::module::{Initializer, Module, Param};
use burn::prelude::*;
use burn::tensor::DType;
use burn::tensor::module::layer_norm;
use serde::{Deserialize, Serialize};

use crate::kernels::{rms_norm, rms_norm_rounded_once};
use crate::{Error, Result};

/// Which norm is taken over the last dimension of a tensor.
///
/// ```
/// use burn::prelude::*;
/// use pear_core::NormConfig;
///
/// let device = Device::flex();
/// let norm = NormConfig::Rms { eps: 1e-6 }.init(4, &device);
/// let x = Tensor::<2>::from_floats([[3.0, -3.0, 3.0, -3.0]], &device);
/// assert!((norm.forward(x.clone()) - x / 3.0).abs().max().into_scalar::<f32>() < 1e-6);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NormConfig {
    /// Root mean square ([arXiv 1910.07467](https://arxiv.org/abs/1910.07467)) with a weight and no bias: Llama, Qwen, Baichuan.
    Rms {
        /// Added to the mean square.
        eps: f64,
    },
    /// The same, but in half precision rounded only once, after the weight: OLMo 2.
    RmsRoundedOnce {
        /// Added to the mean square.
        eps: f64,
    },
    /// Root mean square times `1 + weight`, rounded once: Gemma.
    RmsPlusOne {
        /// Added to the mean square.
        eps: f64,
    },
    /// Mean and variance ([arXiv 1607.06450](https://arxiv.org/abs/1607.06450)): GPT-2, OPT, BLOOM, MPT, GPT-NeoX.
    Layer {
        /// Added to the variance.
        eps: f64,
        /// Whether there is a bias (MPT and Cohere have none).
        bias: bool,
    },
    /// Mean and variance, times `1 + weight`, plus a bias: Nemotron.
    LayerPlusOne {
        /// Added to the variance.
        eps: f64,
    },
    /// Mean and variance, with neither weight nor bias: OLMo.
    LayerWithoutWeight {
        /// Added to the variance.
        eps: f64,
    },
}

impl NormConfig {
    /// What is added to the mean square, or to the variance.
    pub fn eps(&self) -> f64 {
        match *self {
            Self::Rms { eps }
            | Self::RmsRoundedOnce { eps }
            | Self::RmsPlusOne { eps }
            | Self::Layer { eps, .. }
            | Self::LayerPlusOne { eps }
            | Self::LayerWithoutWeight { eps } => eps,
        }
    }

    /// The same norm with another epsilon.
    pub fn with_eps(mut self, value: f64) -> Self {
        match &mut self {
            Self::Rms { eps }
            | Self::RmsRoundedOnce { eps }
            | Self::RmsPlusOne { eps }
            | Self::Layer { eps, .. }
            | Self::LayerPlusOne { eps }
            | Self::LayerWithoutWeight { eps } => *eps = value,
        }
        self
    }

    /// Whether there is a bias beside the weight.
    pub fn has_bias(&self) -> bool {
        matches!(
            self,
            Self::Layer { bias: true, .. } | Self::LayerPlusOne { .. }
        )
    }

    /// Whether there is a weight.
    pub fn has_weight(&self) -> bool {
        !matches!(self, Self::LayerWithoutWeight { .. })
    }

    /// # Errors
    /// [`Error::Config`] for an epsilon that is negative or not finite.
    pub fn validate(&self) -> Result<()> {
        let eps = self.eps();
        if (0.0..=1.0).contains(&eps) {
            return Ok(());
        }
        Err(Error::config(
            "norm_eps",
            eps,
            "expected a number from 0 to 1",
        ))
    }

    /// The norm of vectors of `width` numbers: weights of one and a bias of zero, whatever the kind.
    pub fn init(&self, width: usize, device: &Device) -> Norm {
        Norm {
            weight: self
                .has_weight()
                .then(|| Initializer::Ones.init([width], device)),
            bias: self
                .has_bias()
                .then(|| Initializer::Zeros.init([width], device)),
            config: *self,
        }
    }
}

/// A norm over the last dimension, computed in f32, made by [`NormConfig::init`].
#[derive(Module, Debug)]
pub struct Norm {
    /// `[width]`.
    weight: Option<Param<Tensor<1>>>,
    /// `[width]`.
    bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    config: NormConfig,
}

impl Norm {
    /// What the norm was made from.
    pub fn config(&self) -> NormConfig {
        self.config
    }

    /// The norm of each vector along the last dimension, in the type of `x`.
    ///
    /// # Shapes
    /// `x` and the result: `[.., width]`.
    ///
    /// # Panics
    /// If the last dimension is not `width` long.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let weight = self.weight(x.dims()[D - 1], &x.device());
        match self.config {
            NormConfig::Rms { eps } => rms_norm(x, weight, eps),
            NormConfig::RmsRoundedOnce { eps } => rms_norm_rounded_once(x, weight, eps),
            NormConfig::RmsPlusOne { eps } => rms_norm_rounded_once(x, self.factor(weight), eps),
            NormConfig::Layer { eps, .. }
            | NormConfig::LayerPlusOne { eps }
            | NormConfig::LayerWithoutWeight { eps } => {
                let dtype = x.dtype();
                let bias = self.bias.as_ref().map(|bias| bias.val().cast(DType::F32));
                layer_norm(x.cast(DType::F32), self.factor(weight), bias, eps).cast(dtype)
            }
        }
    }

    /// The norm of each row of matrices whose rows have weights of their own: this norm is as wide as all rows together.
    ///
    /// # Shapes
    /// `x` and the result: `[.., rows, width / rows]`.
    ///
    /// # Panics
    /// If a matrix does not hold `width` numbers.
    pub fn forward_rows<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let (dtype, dims, device) = (x.dtype(), x.dims(), x.device());
        let mut of_matrix = [1; D];
        of_matrix[D - 2..].copy_from_slice(&dims[D - 2..]);
        let [rows, width] = [dims[D - 2], dims[D - 1]];
        let (x, ones) = (x.cast(DType::F32), Tensor::ones([width], &device));
        let normed = match self.config {
            NormConfig::Rms { eps }
            | NormConfig::RmsRoundedOnce { eps }
            | NormConfig::RmsPlusOne { eps } => rms_norm(x, ones, eps),
            NormConfig::Layer { eps, .. }
            | NormConfig::LayerPlusOne { eps }
            | NormConfig::LayerWithoutWeight { eps } => layer_norm(x, ones, None, eps),
        };
        let weight = self.weight(rows * width, &device);
        let scaled = normed * self.factor(weight).reshape(of_matrix);
        match &self.bias {
            Some(bias) => scaled + bias.val().cast(DType::F32).reshape(of_matrix),
            None => scaled,
        }
        .cast(dtype)
    }

    /// The weight; ones where there is none.
    fn weight(&self, width: usize, device: &Device) -> Tensor<1> {
        match &self.weight {
            Some(weight) => weight.val(),
            None => Tensor::ones([width], device),
        }
    }

    /// What a vector is multiplied by, in f32: in half precision `1 + weight` would lose digits of a small weight.
    fn factor(&self, weight: Tensor<1>) -> Tensor<1> {
        let weight = weight.cast(DType::F32);
        match self.config {
            NormConfig::RmsPlusOne { .. } | NormConfig::LayerPlusOne { .. } => weight + 1.0,
            _ => weight,
        }
    }
}
