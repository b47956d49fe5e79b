//! A gradient for each sequence of a batch, from one backward pass.

use burn::module::Module;
use burn::prelude::*;
use burn::tensor::DType;
use pear_core::{DecoderModel, HeadCoefficients, HeadEdit, ModelShape};

use crate::Result;

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

/// A loss of a batch, and the gradient of each sequence: `[sequence][head]`, heads in the order of [`HeadCoefficients::heads`].
///
/// `loss` computes it, `[1]`, from a run of the model with the edit that it is given. Where the loss is a mean over the batch, the
/// gradients are parts of its gradient, and sum to it.
pub(crate) fn sequence_gradients<M: DecoderModel>(
    model: &M,
    coefficients: &HeadCoefficients,
    loss: impl FnOnce(&mut dyn HeadEdit) -> Result<Tensor<1>>,
) -> Result<(f64, Vec<Vec<f64>>)> {
    let heads = coefficients.heads();
    let mut edit = SequenceEdit {
        coefficients: coefficients.fixed().to_device(&model.device()),
        leaves: Vec::new(),
    };
    let loss = loss(&mut edit)?;
    let value = loss.clone().into_scalar::<f64>();
    // Backward even where it is not finite: a graph that is dropped instead is kept by burn for ever.
    let gradients = loss.backward();
    let mut of_sequences = Vec::new();
    for (layer, leaf) in edit.leaves {
        let [batch, num_heads, _, _] = leaf.dims();
        of_sequences.resize(batch, vec![0.0; heads.len()]);
        let Some(of_layer) = leaf.grad(&gradients) else {
            continue;
        };
        let of_layer: Vec<f64> = of_layer.into_data().iter::<f64>().collect();
        for (sequence, row) in of_sequences.iter_mut().zip(of_layer.chunks(num_heads)) {
            for (place, head) in sequence.iter_mut().zip(&heads) {
                if head.layer == layer {
                    *place = row[head.head];
                }
            }
        }
    }
    Ok((value, of_sequences))
}
