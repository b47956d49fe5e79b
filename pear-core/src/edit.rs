//! Changing or watching head outputs between the two halves of attention.

use burn::prelude::*;

use crate::coefficients::HeadCoefficients;
use crate::head::HeadId;

/// Sees the head outputs of each layer in turn and returns what the layer goes on with.
///
/// Any `FnMut(usize, Tensor<4>) -> Tensor<4>` is one; so are [`HeadCoefficients`] and the types of this module.
pub trait HeadEdit {
    /// `heads`: the outputs of all query heads of `layer`, `[batch, heads, seq, head_dim]`. The result has the same shape.
    fn edit(&mut self, layer: usize, heads: Tensor<4>) -> Tensor<4>;
}

impl<F: FnMut(usize, Tensor<4>) -> Tensor<4>> HeadEdit for F {
    fn edit(&mut self, layer: usize, heads: Tensor<4>) -> Tensor<4> {
        self(layer, heads)
    }
}

/// Leaves every head as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoEdit;

impl HeadEdit for NoEdit {
    fn edit(&mut self, _layer: usize, heads: Tensor<4>) -> Tensor<4> {
        heads
    }
}

impl HeadEdit for HeadCoefficients {
    fn edit(&mut self, layer: usize, heads: Tensor<4>) -> Tensor<4> {
        match self.layer(layer) {
            Some(coefficients) => coefficients.scale(heads),
            None => heads,
        }
    }
}

/// Keeps the head outputs of every layer: `outputs[layer]` is `[batch, heads, seq, head_dim]`.
#[derive(Clone, Debug, Default)]
pub struct CaptureHeads {
    /// What was seen, layer by layer.
    pub outputs: Vec<Tensor<4>>,
}

impl HeadEdit for CaptureHeads {
    fn edit(&mut self, _layer: usize, heads: Tensor<4>) -> Tensor<4> {
        self.outputs.push(heads.clone());
        heads
    }
}

/// What one head's output is replaced by.
#[derive(Clone, Debug)]
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
/// let after = ablate.edit(0, heads);
/// assert_eq!(after.clone().slice([0..1, 1..2, 2..3]).sum().into_scalar::<f32>(), 0.0);
/// assert_eq!(after.sum().into_scalar::<f32>(), 20.0);
/// ```
#[derive(Clone, Debug)]
pub struct ReplaceHead {
    /// The head.
    pub head: HeadId,
    /// The position counted from the start of what is being run; all of them if `None`.
    pub position: Option<usize>,
    /// What stands there instead.
    pub with: Replacement,
}

impl HeadEdit for ReplaceHead {
    fn edit(&mut self, layer: usize, heads: Tensor<4>) -> Tensor<4> {
        if layer != self.head.layer {
            return heads;
        }
        let [batch, _, seq, head_dim] = heads.dims();
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
            Replacement::Vector(vector) => vector
                .clone()
                .reshape([batch, 1, 1, head_dim])
                .expand(shape),
            Replacement::Scale(factor) => heads.clone().slice(place.clone()) * *factor,
        };
        heads.slice_assign(place, value)
    }
}
