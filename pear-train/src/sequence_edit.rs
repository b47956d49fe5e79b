//! A gradient for each sequence of a batch, from one backward pass.

use burn::prelude::*;
use burn::tensor::{DType, Gradients};
use pear_core::{DecoderModel, HeadCoefficients, HeadEdit, ModelShape};

use crate::Result;
use crate::recompute::{Graph, Leaves, Pass, RunLayer};

/// Multiplies heads by coefficients to which every sequence adds a number of its own. These numbers are 0 and tracked: their
/// gradients are those of the coefficients, one sequence at a time.
struct SequenceEdit {
    coefficients: HeadCoefficients,
    /// For each layer that was run: its index, and the numbers, `[batch, heads, 1, 1]`.
    leaves: Vec<(usize, Tensor<4>)>,
}

impl HeadEdit for SequenceEdit {
    fn edit(&mut self, layer: usize, heads: Tensor<4>) -> pear_core::Result<Tensor<4>> {
        let Some(coefficients) = self.coefficients.layer(layer) else {
            return Ok(heads);
        };
        let [batch, num_heads, _, _] = heads.dims();
        let leaf = Tensor::<4>::zeros(
            [batch, num_heads, 1, 1],
            (&heads.device().inner(), DType::F32),
        );
        let leaf = leaf.autodiff().require_grad();
        self.leaves.push((layer, leaf.clone()));
        let factors = leaf + coefficients.per_head().reshape([1, num_heads, 1, 1]);
        let dtype = heads.dtype();
        Ok((heads.cast(DType::F32) * factors).cast(dtype))
    }

    fn check(&self, model: &ModelShape) -> pear_core::Result<()> {
        self.coefficients.check_shape(model)
    }

    fn reweights(&self) -> bool {
        self.coefficients.first_layer().is_some()
    }
}

impl Leaves for SequenceEdit {
    /// `[sequence][head]`, heads in the order of [`HeadCoefficients::heads`].
    type Sum = Vec<Vec<f64>>;

    fn run(
        &mut self,
        layer: impl FnOnce(&mut dyn HeadEdit) -> Result<Tensor<3>>,
    ) -> Result<Tensor<3>> {
        layer(self)
    }

    fn add_gradients(&self, gradients: &Gradients, sum: &mut Vec<Vec<f64>>) {
        let heads = self.coefficients.heads();
        for (layer, leaf) in &self.leaves {
            let [_, num_heads, _, _] = leaf.dims();
            let Some(of_layer) = leaf.grad(gradients) else {
                continue;
            };
            let of_layer: Vec<f64> = of_layer.into_data().iter::<f64>().collect();
            for (sequence, row) in sum.iter_mut().zip(of_layer.chunks(num_heads)) {
                for (place, head) in sequence.iter_mut().zip(&heads) {
                    if head.layer == *layer {
                        *place += row[head.head];
                    }
                }
            }
        }
    }
}

/// A loss of `sequences` sequences, and the gradient of each: `[sequence][head]`, heads in the order of [`HeadCoefficients::heads`].
///
/// Where the loss is a mean over the sequences, the gradients are parts of its gradient, and sum to it.
pub(crate) fn sequence_gradients<M: DecoderModel>(
    model: &M,
    coefficients: &HeadCoefficients,
    sequences: usize,
    pass: Pass<impl RunLayer, impl FnOnce(Tensor<3>) -> Tensor<1>>,
) -> Result<(f64, Vec<Vec<f64>>)> {
    let mut sum = vec![vec![0.0; coefficients.heads().len()]; sequences];
    let leaves = |fixed: &HeadCoefficients| SequenceEdit {
        coefficients: fixed.clone(),
        leaves: Vec::new(),
    };
    let loss = Graph::Whole.backward(model, coefficients, pass, leaves, &mut sum)?;
    Ok((loss, sum))
}
