//! The second door: coefficients on the output projection of any burn model, without touching its code.
//!
//! Multiplying a head's output by α equals multiplying that head's input rows of the output projection by α. burn's
//! [`Reparameterization`] does just that to a stored weight, wherever in a model it stands:
//!
//! ```
//! use burn::module::Module;
//! use burn::nn::{Linear, LinearConfig};
//! use burn::prelude::*;
//! use pear_core::reparam::HeadScaling;
//! use pear_core::{HeadCoefficients, HeadId};
//!
//! // Somebody else's layer: 3 heads of 4 channels.
//! #[derive(Module, Debug)]
//! struct Layer { o_proj: Linear }
//!
//! let device = Device::flex();
//! let layer = Layer { o_proj: LinearConfig::new(12, 12).with_bias(false).init(&device) };
//! let before = layer.o_proj.weight.val();
//!
//! let coefficients = HeadCoefficients::new(&[(HeadId::new(0, 2), 0.5)], 3, &device)?;
//! let scaling = HeadScaling::new(coefficients, |path| (path == "o_proj.weight").then_some(0));
//! let layer = layer.apply_reparameterization(scaling).materialize();
//!
//! let after = layer.o_proj.weight.val();
//! assert_eq!(after.clone().slice([0..8]).into_data(), before.clone().slice([0..8]).into_data());
//! assert_eq!(after.slice([8..12]).into_data(), (before.slice([8..12]) * 0.5).into_data());
//! # Ok::<(), pear_core::Error>(())
//! ```
//!
//! Without `materialize` the coefficients stay parameters of the model that an optimizer can train; give it
//! [`trainable`](HeadCoefficients::trainable) ones and [freeze](HeadScaling::freezing) the rest.

use burn::module::{Module, Param, Reparameterization, Reparameterizer};
use burn::prelude::*;

use crate::coefficients::{HeadCoefficients, LayerCoefficients};

/// Scales an output projection `[heads * head_dim, hidden]` in blocks of `head_dim` rows.
#[derive(Module, Debug)]
pub struct ScaledHeads {
    coefficients: LayerCoefficients,
}

impl ScaledHeads {
    /// The coefficients, as they are now.
    pub fn coefficients(&self) -> &LayerCoefficients {
        &self.coefficients
    }
}

impl Reparameterization for ScaledHeads {
    const NAME: &'static str = "head_coefficients";

    fn apply<const D: usize>(&self, base: Tensor<D>) -> Tensor<D> {
        let dims = base.dims();
        let weight = self.coefficients.fold(base.reshape([dims[0] as i32, -1]));
        weight.reshape(dims)
    }
}

/// Attaches [`ScaledHeads`] to the output projections of a model; hand it to
/// [`Module::apply_reparameterization`].
pub struct HeadScaling<F> {
    coefficients: HeadCoefficients,
    layer_of: F,
    freeze: bool,
}

impl<F: FnMut(&str) -> Option<usize>> HeadScaling<F> {
    /// `layer_of` tells, from a parameter's path such as `layers.3.attn.o_proj.weight`, the layer whose output projection it is.
    /// The weight must be `[heads * head_dim, hidden]`, as burn's `Linear` holds it.
    pub fn new(coefficients: HeadCoefficients, layer_of: F) -> Self {
        Self {
            coefficients,
            layer_of,
            freeze: false,
        }
    }

    /// Also stops every parameter of the model from being trained, so that the coefficients alone are.
    pub fn freezing(mut self) -> Self {
        self.freeze = true;
        self
    }
}

impl<F: FnMut(&str) -> Option<usize>> Reparameterizer for HeadScaling<F> {
    type Reparam = ScaledHeads;

    fn reparameterize<const D: usize>(
        &mut self,
        path: &str,
        param: Param<Tensor<D>>,
    ) -> (Param<Tensor<D>>, Option<Self::Reparam>) {
        let scaled = (D == 2).then(|| (self.layer_of)(path)).flatten();
        let scaled = scaled.and_then(|layer| self.coefficients.layer(layer).cloned());
        let param = if self.freeze {
            param.set_require_grad(false)
        } else {
            param
        };
        (
            param,
            scaled.map(|coefficients| ScaledHeads { coefficients }),
        )
    }
}
