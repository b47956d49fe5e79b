//! Changing or watching head outputs between the two halves of attention.

use burn::prelude::*;

use crate::coefficients::HeadCoefficients;
use crate::head::{HeadId, ModelShape};
use crate::{Error, Result};

/// Sees the head outputs of each layer in turn and returns what the layer goes on with.
///
/// Any `FnMut(usize, Tensor<4>) -> Tensor<4>` is one; so are [`HeadCoefficients`] and the types of this module.
///
/// ```
/// use burn::prelude::*;
/// use pear_core::{HeadEdit, Result};
///
/// /// Halves every head of the layers from `first` on.
/// struct HalveAbove { first: usize }
///
/// impl HeadEdit for HalveAbove {
///     fn edit(&mut self, layer: usize, heads: Tensor<4>) -> Result<Tensor<4>> {
///         Ok(if layer < self.first { heads } else { heads * 0.5 })
///     }
/// }
/// let halved = HalveAbove { first: 1 }.edit(2, Tensor::ones([1, 2, 3, 4], &Device::flex()))?;
/// assert_eq!(halved.sum().into_scalar::<f32>(), 12.0);
/// # Ok::<(), pear_core::Error>(())
/// ```
pub trait HeadEdit {
    /// `heads`: the outputs of all query heads of `layer`, `[batch, heads, seq, head_dim]`. The result has the same shape.
    ///
    /// # Errors
    /// What keeps the edit from being made; the forward pass ends with it.
    fn edit(&mut self, layer: usize, heads: Tensor<4>) -> Result<Tensor<4>>;

    /// Whether the edit can be made to a model of this shape; called before the first layer of a forward pass.
    ///
    /// # Errors
    /// A head or layer that the model does not have, or another shape of model.
    fn check(&self, model: &ModelShape) -> Result<()> {
        let _ = model;
        Ok(())
    }

    /// Whether the edit multiplies heads by learned coefficients: a model whose attention [applies
    /// some](crate::HeadAttention::coefficients) already refuses others on top.
    fn reweights(&self) -> bool {
        false
    }
}

impl<F: FnMut(usize, Tensor<4>) -> Tensor<4>> HeadEdit for F {
    fn edit(&mut self, layer: usize, heads: Tensor<4>) -> Result<Tensor<4>> {
        Ok(self(layer, heads))
    }
}

/// Leaves every head as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoEdit;

impl HeadEdit for NoEdit {
    fn edit(&mut self, _layer: usize, heads: Tensor<4>) -> Result<Tensor<4>> {
        Ok(heads)
    }
}

/// As fixed numbers: no graph is made, even of trainable coefficients.
impl HeadEdit for HeadCoefficients {
    fn edit(&mut self, layer: usize, heads: Tensor<4>) -> Result<Tensor<4>> {
        Ok(match self.layer(layer) {
            Some(coefficients) if coefficients.is_tracked() => {
                coefficients.clone().fixed().scale(heads)
            }
            Some(coefficients) => coefficients.scale(heads),
            None => heads,
        })
    }

    fn check(&self, model: &ModelShape) -> Result<()> {
        self.check_shape(model)
    }

    fn reweights(&self) -> bool {
        self.first_layer().is_some()
    }
}

/// Coefficients as an edit whose outcome can be differentiated; made by [`HeadCoefficients::tracked`].
///
/// burn keeps the graph of a forward pass until `backward` is called on its outcome: use this edit for losses alone.
#[derive(Clone, Debug)]
pub struct TrackedCoefficients<'a>(&'a HeadCoefficients);

impl HeadCoefficients {
    /// The edit for a loss of your own: [trainable](Self::trainable) coefficients stay tracked.
    pub fn tracked(&self) -> TrackedCoefficients<'_> {
        TrackedCoefficients(self)
    }
}

impl HeadEdit for TrackedCoefficients<'_> {
    fn edit(&mut self, layer: usize, heads: Tensor<4>) -> Result<Tensor<4>> {
        Ok(match self.0.layer(layer) {
            Some(coefficients) => coefficients.scale(heads),
            None => heads,
        })
    }

    fn check(&self, model: &ModelShape) -> Result<()> {
        self.0.check_shape(model)
    }

    fn reweights(&self) -> bool {
        self.0.first_layer().is_some()
    }
}

/// Keeps the head outputs of every layer: `outputs[layer]` is `[batch, heads, seq, head_dim]`.
#[derive(Clone, Debug, Default)]
pub struct CaptureHeads {
    /// The head outputs, layer by layer.
    pub outputs: Vec<Tensor<4>>,
}

impl HeadEdit for CaptureHeads {
    fn edit(&mut self, _layer: usize, heads: Tensor<4>) -> Result<Tensor<4>> {
        self.outputs.push(heads.clone());
        Ok(heads)
    }
}

/// What one head's output is replaced by.
#[derive(Clone, Debug)]
#[non_exhaustive]
#[allow(
    clippy::large_enum_variant,
    reason = "a tensor's handle; one is made for a whole run"
)]
pub enum Replacement {
    /// Nothing: zero ablation.
    Zero,
    /// These vectors, one a sample, at every position concerned: `[batch, head_dim]`.
    Vector(Tensor<2>),
    /// Its own output times a number.
    Scale(f64),
}

/// Replaces the output of one head, at one position or at all.
///
/// ```
/// use burn::prelude::*;
/// use pear_core::{HeadEdit, HeadId, edit::{ReplaceHead, Replacement}};
///
/// let heads = Tensor::<4>::ones([1, 2, 3, 4], &Device::flex());
/// let mut ablate = ReplaceHead { head: HeadId::new(0, 1), position: Some(2), with: Replacement::Zero };
/// let after = ablate.edit(0, heads)?;
/// assert_eq!(after.clone().slice([0..1, 1..2, 2..3]).sum().into_scalar::<f32>(), 0.0);
/// assert_eq!(after.sum().into_scalar::<f32>(), 20.0);
/// # Ok::<(), pear_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ReplaceHead {
    /// The head.
    pub head: HeadId,
    /// The position counted from the start of what is being run; all of them if `None`.
    pub position: Option<usize>,
    /// The replacement.
    pub with: Replacement,
}

impl HeadEdit for ReplaceHead {
    /// # Errors
    /// [`Error::Edit`] for a position beyond the sequence, a head beyond the layer's, or vectors of another shape than
    /// `[batch, head_dim]`.
    fn edit(&mut self, layer: usize, heads: Tensor<4>) -> Result<Tensor<4>> {
        if layer != self.head.layer {
            return Ok(heads);
        }
        let [batch, num_heads, seq, head_dim] = heads.dims();
        let refuse = |problem: String| {
            Err(Error::Edit {
                head: self.head,
                problem,
            })
        };
        if self.head.head >= num_heads {
            return refuse(format!("the layer has {num_heads} heads"));
        }
        if let Some(position) = self.position.filter(|&position| position >= seq) {
            return refuse(format!("position {position} of a sequence of {seq}"));
        }
        let positions = self.position.map_or(0..seq, |p| p..p + 1);
        let place = [
            0..batch,
            self.head.head..self.head.head + 1,
            positions.clone(),
            0..head_dim,
        ];
        let shape = [batch, 1, positions.len(), head_dim];
        let value = match &self.with {
            Replacement::Zero => Tensor::zeros(shape, (&heads.device(), heads.dtype())),
            Replacement::Vector(vector) if vector.dims() != [batch, head_dim] => {
                let found = vector.dims();
                return refuse(format!(
                    "vectors of shape {found:?}: expected [batch, head_dim] = [{batch}, {head_dim}]"
                ));
            }
            Replacement::Vector(vector) => vector
                .clone()
                .reshape([batch, 1, 1, head_dim])
                .expand(shape),
            Replacement::Scale(factor) => heads.clone().slice(place.clone()) * *factor,
        };
        Ok(heads.slice_assign(place, value))
    }

    fn check(&self, model: &ModelShape) -> Result<()> {
        model.check_heads([self.head])
    }
}
