//! The gradient of a loss, from one graph of the whole model or from those of its layers, one at a time.

use burn::prelude::*;
use burn::tensor::DType;
use pear_core::forward::{TokenContext, run_layer};
use pear_core::{DecoderModel, HeadCoefficients, HeadEdit, Positions};

use crate::Result;

/// Whether the graph of the whole model is kept for the backward pass, or that of each layer is made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Graph {
    /// Of all layers from the first re-weighted one upwards.
    Whole,
    /// Of one layer at a time. The forward pass keeps the residual stream before each layer, and the backward pass runs each layer once
    /// more ([arXiv 1604.06174](https://arxiv.org/abs/1604.06174)). The gradients are the same but for rounding.
    OneLayer,
}

impl Graph {
    pub(crate) fn new(recompute: bool) -> Self {
        if recompute {
            Self::OneLayer
        } else {
            Self::Whole
        }
    }

    /// A loss and its gradient for each coefficient in the order of [`HeadCoefficients::heads`]. Trainable or not, the coefficients are
    /// left as they are.
    ///
    /// `input` is the residual stream before the first layer. `layer` runs the layer of an index on a residual stream, and `loss` makes a
    /// loss, `[1]`, of the last one.
    pub(crate) fn loss_and_gradients<M: DecoderModel>(
        self,
        model: &M,
        coefficients: &HeadCoefficients,
        input: Tensor<3>,
        layer: impl Fn(usize, Tensor<3>, &mut dyn HeadEdit) -> Result<Tensor<3>>,
        loss: impl FnOnce(Tensor<3>) -> Tensor<1>,
    ) -> Result<(f64, Vec<f32>)> {
        coefficients.check_shape(&model.shape())?;
        let fixed = coefficients.fixed().to_device(&model.device());
        let num_layers = model.shape().num_layers;
        match self {
            Self::Whole => {
                // A leaf of its own: its graph goes with this backward pass.
                let leaves = fixed.trainable();
                let mut residual = input;
                for index in 0..num_layers {
                    residual = layer(index, residual, &mut leaves.tracked())?;
                }
                let loss = loss(residual);
                let value = loss.clone().into_scalar::<f64>();
                // Backward even where it is not finite: a graph that is dropped instead is kept by burn for ever.
                Ok((value, leaves.gradients(&loss.backward())))
            }
            Self::OneLayer => {
                let first = fixed.first_layer().unwrap_or(num_layers);
                let mut inputs = Vec::with_capacity(num_layers - first);
                let mut residual = input;
                for index in 0..num_layers {
                    if index >= first {
                        inputs.push(residual.clone());
                    }
                    residual = layer(index, residual, &mut fixed.clone())?;
                }
                let last = residual.autodiff().require_grad();
                let loss = loss(last.clone());
                let value = loss.clone().into_scalar::<f64>();
                // Backward even where it is not finite, as above.
                let mut of_output = last.grad(&loss.backward());
                let mut sum = vec![0.0; fixed.heads().len()];
                for (index, input) in (first..num_layers).zip(inputs).rev() {
                    // No coefficient changes a loss that does not depend on the residual stream.
                    let Some(gradient) = of_output else { break };
                    let leaves = fixed.clone().trainable();
                    let input = match index {
                        _ if index == first => input,
                        _ => input.autodiff().require_grad(),
                    };
                    let output = layer(index, input.clone(), &mut leaves.tracked())?;
                    let gradients = (output.cast(DType::F32) * gradient.cast(DType::F32))
                        .sum()
                        .backward();
                    let of_layer = leaves.gradients(&gradients);
                    sum.iter_mut()
                        .zip(of_layer)
                        .for_each(|(sum, part)| *sum += part);
                    of_output = input.grad(&gradients);
                }
                Ok((value, sum))
            }
        }
    }
}

/// Runs layers on whole sequences of `seq` tokens.
pub(crate) fn whole_sequences<M: DecoderModel>(
    model: &M,
    seq: usize,
) -> impl Fn(usize, Tensor<3>, &mut dyn HeadEdit) -> Result<Tensor<3>> + '_ {
    move |index, residual, edit| {
        let context = TokenContext::uncached(Positions::first(seq));
        Ok(run_layer(model, index, residual, context, edit)?)
    }
}
