//! Alternative to the attention module: coefficients on the output projections of any burn model, without touching its code.
//!
//! Multiplying a head's output by α equals multiplying that head's input rows of the output projection by α. burn's
//! [`Reparameterization`] does just that to a stored weight, wherever in a model it stands:
//!
//! ```
//! use burn::module::Module;
//! use burn::nn::{Linear, LinearConfig};
//! use burn::prelude::*;
//! use pear_core::reparam::HeadScaling;
//! use pear_core::{HeadCoefficients, HeadId, ModelShape};
//!
//! // Somebody else's layer: 3 heads of 4 channels.
//! #[derive(Module, Debug)]
//! struct Layer { o_proj: Linear }
//!
//! let device = Device::flex();
//! let layer = Layer { o_proj: LinearConfig::new(12, 12).with_bias(false).init(&device) };
//! let before = layer.o_proj.weight.val();
//!
//! let shape = ModelShape::new("theirs", 1, 3);
//! let coefficients = HeadCoefficients::new(&[(HeadId::new(0, 2), 0.5)], &shape, &device)?;
//! let scaling = HeadScaling::new(coefficients, |path| (path == "o_proj.weight").then_some(0));
//! let layer = scaling.attach(layer)?.materialize();
//!
//! let after = layer.o_proj.weight.val();
//! assert_eq!(after.clone().slice([0..8]).into_data(), before.clone().slice([0..8]).into_data());
//! assert_eq!(after.slice([8..12]).into_data(), (before.slice([8..12]) * 0.5).into_data());
//! # Ok::<(), pear_core::Error>(())
//! ```
//!
//! Without `materialize` the coefficients stay parameters of the model that an optimizer can train; give it
//! [`trainable`](HeadCoefficients::trainable) ones and [freeze](HeadScaling::freezing) the rest.

use std::collections::BTreeMap;

use burn::module::{Module, Param, Reparameterization, Reparameterizer};
use burn::prelude::*;

use crate::coefficients::{HeadCoefficients, LayerCoefficients};
use crate::{Error, Result};

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

/// Attaches [`ScaledHeads`] to the output projections of a model.
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

    /// The model with its output projections scaled.
    ///
    /// # Errors
    /// [`Error::Unattached`] for a layer with coefficients for which no parameter, or more than one, was found, or one whose rows
    /// are not a multiple of the number of heads.
    pub fn attach<M: Module>(self, model: M) -> Result<M> {
        let mut attached = BTreeMap::new();
        let layers: Vec<usize> = self
            .coefficients
            .layers()
            .iter()
            .map(LayerCoefficients::layer)
            .collect();
        let model = model.apply_reparameterization(Attaching {
            scaling: self,
            attached: &mut attached,
        });
        for layer in layers {
            let problem = match attached.get(&layer).map(Vec::as_slice) {
                Some([Attached { problem: None, .. }]) => continue,
                Some(
                    [
                        Attached {
                            path,
                            problem: Some(problem),
                        },
                    ],
                ) => format!("`{path}` {problem}"),
                None => "no parameter's path was recognised as its own".into(),
                Some(several) => {
                    let paths: Vec<&str> = several
                        .iter()
                        .map(|attached| attached.path.as_str())
                        .collect();
                    format!("expected one parameter, found {}", paths.join(", "))
                }
            };
            return Err(Error::Unattached { layer, problem });
        }
        Ok(model)
    }
}

/// A parameter that was recognised as the output projection of a layer with coefficients.
struct Attached {
    path: String,
    /// Why its heads cannot be scaled.
    problem: Option<String>,
}

struct Attaching<'a, F> {
    scaling: HeadScaling<F>,
    attached: &'a mut BTreeMap<usize, Vec<Attached>>,
}

impl<F: FnMut(&str) -> Option<usize>> Reparameterizer for Attaching<'_, F> {
    type Reparam = ScaledHeads;

    fn reparameterize<const D: usize>(
        &mut self,
        path: &str,
        param: Param<Tensor<D>>,
    ) -> (Param<Tensor<D>>, Option<Self::Reparam>) {
        let shape = param.lazy_shape();
        let param = if self.scaling.freeze {
            param.set_require_grad(false)
        } else {
            param
        };
        let coefficients = (self.scaling.layer_of)(path)
            .and_then(|layer| self.scaling.coefficients.layer(layer).cloned());
        let Some(coefficients) = coefficients else {
            return (param, None);
        };
        let heads = coefficients.num_heads();
        let problem = (D != 2 || !shape[0].is_multiple_of(heads)).then(|| {
            format!(
                "is of shape {:?}: expected [{heads} * head_dim, hidden]",
                shape.to_vec()
            )
        });
        let fits = problem.is_none();
        self.attached
            .entry(coefficients.layer())
            .or_default()
            .push(Attached {
                path: path.into(),
                problem,
            });
        (param, fits.then_some(ScaledHeads { coefficients }))
    }
}
