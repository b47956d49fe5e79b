//! The gradient of a loss, from one graph of the whole model or from those of its layers, one at a time.

use burn::prelude::*;
use burn::tensor::Gradients;
use pear_core::forward::{TokenContext, run_layer_to};
use pear_core::{DecoderLayer, DecoderModel, HeadCoefficients, HeadEdit, Positions};

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
    /// # Errors
    /// As [`backward`](Self::backward).
    pub(crate) fn loss_and_gradients<M: DecoderModel>(
        self,
        model: &M,
        coefficients: &HeadCoefficients,
        pass: Pass<impl RunLayer, impl FnOnce(Tensor<3>) -> Tensor<1>>,
    ) -> Result<(f64, Vec<f32>)> {
        let mut sum = vec![0.0; coefficients.heads().len()];
        let trainable = |fixed: &HeadCoefficients| fixed.clone().trainable();
        let loss = self.backward(model, coefficients, pass, trainable, &mut sum)?;
        Ok((loss, sum))
    }

    /// A loss, with the gradients of leaves that `leaves` makes of the fixed coefficients added to `sum`.
    ///
    /// Where the model's layers are [made on demand](DecoderModel::layers_on_demand), no graph holds more than one of them.
    ///
    /// # Errors
    /// Coefficients for a model of another shape, and what running a layer returns.
    pub(crate) fn backward<M: DecoderModel, L: Leaves>(
        self,
        model: &M,
        coefficients: &HeadCoefficients,
        pass: Pass<impl RunLayer, impl FnOnce(Tensor<3>) -> Tensor<1>>,
        leaves: impl Fn(&HeadCoefficients) -> L,
        sum: &mut L::Sum,
    ) -> Result<f64> {
        coefficients.check_shape(&model.shape())?;
        let fixed = coefficients.fixed().to_device(&model.device());
        let num_layers = model.shape().num_layers;
        let Pass { input, layer, loss } = pass;
        match self {
            Self::Whole if !model.layers_on_demand() => {
                // Leaves of its own: their graph goes with this backward pass.
                let mut leaves = leaves(&fixed);
                let mut residual = input;
                for index in 0..num_layers {
                    residual = leaves.run(|edit| layer(index, residual, edit, End::Output))?;
                }
                let loss = loss(residual);
                let value = loss.clone().into_scalar::<f64>();
                // Backward even where it is not finite: a graph that is dropped instead is kept by burn for ever.
                leaves.add_gradients(&loss.backward(), sum);
                Ok(value)
            }
            Self::Whole | Self::OneLayer => {
                let first = fixed.first_layer().unwrap_or(num_layers);
                let mut inputs = Vec::with_capacity(num_layers - first);
                let mut residual = input;
                for index in 0..num_layers {
                    if index >= first {
                        inputs.push(residual.clone());
                    }
                    residual = layer(index, residual, &mut fixed.clone(), End::Output)?;
                }
                let last = residual.autodiff().require_grad();
                let loss = loss(last.clone());
                let value = loss.clone().into_scalar::<f64>();
                // Backward even where it is not finite, as above.
                let mut of_output = last.grad(&loss.backward());
                for (index, input) in (first..num_layers).zip(inputs).rev() {
                    // No coefficient changes a loss that does not depend on the residual stream.
                    let Some(gradient) = of_output else { break };
                    let mut leaves = leaves(&fixed);
                    let input = match index {
                        _ if index == first => input,
                        _ => input.autodiff().require_grad(),
                    };
                    let end = End::Start(gradient);
                    let start = leaves.run(|edit| layer(index, input.clone(), edit, end))?;
                    let gradients = start.backward();
                    leaves.add_gradients(&gradients, sum);
                    of_output = input.grad(&gradients);
                }
                Ok(value)
            }
        }
    }
}

/// How a loss is computed.
pub(crate) struct Pass<R, L> {
    /// The residual stream before the first layer.
    pub input: Tensor<3>,
    /// Runs the layer of an index on a residual stream.
    pub layer: R,
    /// Makes a loss, `[1]`, of the last one.
    pub loss: L,
}

/// What running a layer gives.
#[allow(clippy::large_enum_variant, reason = "one is made for a layer")]
pub(crate) enum End {
    /// The residual stream after it.
    Output,
    /// What its backward pass starts from, `[1, 1, 1]`, this being the gradient of its output.
    Start(Tensor<3>),
}

impl End {
    /// Of the residual stream before a layer and the output of its attention.
    pub(crate) fn of<L: DecoderLayer>(
        self,
        layer: &L,
        residual: Tensor<3>,
        attention_output: Tensor<3>,
    ) -> Tensor<3> {
        match self {
            Self::Output => layer.output(residual, attention_output),
            Self::Start(gradient) => {
                let start = layer.backward_start(residual, attention_output, gradient);
                start.reshape([1, 1, 1])
            }
        }
    }
}

/// Runs the layer of an index on a residual stream, with an edit of its heads.
pub(crate) trait RunLayer:
    Fn(usize, Tensor<3>, &mut dyn HeadEdit, End) -> Result<Tensor<3>>
{
}

impl<F: Fn(usize, Tensor<3>, &mut dyn HeadEdit, End) -> Result<Tensor<3>>> RunLayer for F {}

/// Tracked numbers that heads are multiplied by.
pub(crate) trait Leaves {
    /// What their gradients are added up in.
    type Sum;

    /// Runs a layer with the edit that multiplies by them.
    fn run(
        &mut self,
        layer: impl FnOnce(&mut dyn HeadEdit) -> Result<Tensor<3>>,
    ) -> Result<Tensor<3>>;

    /// Adds the gradients of those that were used.
    fn add_gradients(&self, gradients: &Gradients, sum: &mut Self::Sum);
}

impl Leaves for HeadCoefficients {
    /// In the order of [`HeadCoefficients::heads`].
    type Sum = Vec<f32>;

    fn run(
        &mut self,
        layer: impl FnOnce(&mut dyn HeadEdit) -> Result<Tensor<3>>,
    ) -> Result<Tensor<3>> {
        layer(&mut self.tracked())
    }

    fn add_gradients(&self, gradients: &Gradients, sum: &mut Vec<f32>) {
        let parts = self.gradients(gradients);
        sum.iter_mut()
            .zip(parts)
            .for_each(|(sum, part)| *sum += part);
    }
}

/// Runs layers on whole sequences of `seq` tokens.
pub(crate) fn whole_sequences<M: DecoderModel>(model: &M, seq: usize) -> impl RunLayer + '_ {
    move |index, residual, edit: &mut dyn HeadEdit, end: End| {
        let context = TokenContext::uncached(Positions::first(seq));
        let end = |layer: &_, residual, output| end.of(layer, residual, output);
        Ok(run_layer_to(model, index, residual, context, edit, end)?)
    }
}
