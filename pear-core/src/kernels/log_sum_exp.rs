//! `log Σ exp` of each row, which turns logits into log-probabilities.

use burn::prelude::*;

/// `log Σ exp` over the vocabulary: `[rows, vocab]` to `[rows, 1]`, in the type of `logits`.
///
/// ```
/// use burn::prelude::*;
/// let logits = Tensor::<2>::from_floats([[0.0, 1000.0], [1.0, 1.0]], &Device::flex());
/// let total: Vec<f32> = pear_core::kernels::log_sum_exp(logits).into_data().iter::<f32>().collect();
/// assert!((total[0] - 1000.0).abs() < 1e-3 && (total[1] - 1.6931472).abs() < 1e-6);
/// ```
pub fn log_sum_exp(logits: Tensor<2>) -> Tensor<2> {
    let largest = logits.clone().max_dim(1);
    (logits - largest.clone()).exp().sum_dim(1).log() + largest
}
