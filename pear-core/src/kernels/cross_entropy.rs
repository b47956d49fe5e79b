//! Cross-entropy of tokens under logits.

use burn::prelude::*;
use burn::tensor::DType;

#[cfg(feature = "cpu")]
use super::{dispatch::run_differentiable, flex::is_flex_f32};

/// The cross-entropy of each row: `logits` is `[rows, vocab]`, `labels` has a token for each row,
/// the result is `[rows]`, f32.
///
/// # Panics
/// If there are not as many labels as rows, or a label is not below `vocab`.
pub fn cross_entropy(logits: Tensor<2>, labels: &[u32]) -> Tensor<1> {
    let [rows, vocab] = logits.dims();
    assert!(
        labels.len() == rows,
        "cross_entropy: {} labels for `logits` of shape [{rows}, {vocab}]",
        labels.len()
    );
    if let Some(label) = labels.iter().find(|&&label| label as usize >= vocab) {
        panic!("cross_entropy: label {label} for `logits` of shape [{rows}, {vocab}]");
    }
    #[cfg(feature = "cpu")]
    if is_flex_f32(&logits) {
        let labels = labels.to_vec();
        return run_differentiable(kernel::CrossEntropy { labels }, [logits.into_dispatch()]);
    }
    cross_entropy_composed(logits, labels)
}

fn cross_entropy_composed(logits: Tensor<2>, labels: &[u32]) -> Tensor<1> {
    let rows = labels.len();
    let labels: Vec<i32> = labels.iter().map(|&label| label as i32).collect();
    let logits = logits.cast(DType::F32);
    // The shift changes no value and so no gradient: it stays out of the graph.
    let plain = if logits.is_autodiff() {
        logits.clone().inner()
    } else {
        logits.clone()
    };
    let labels = Tensor::<2, Int>::from_data(TensorData::new(labels, [rows, 1]), &plain.device());
    let shifted = logits - plain.max_dim(1);
    let total = shifted.clone().exp().sum_dim(1).log();
    (total - shifted.gather(1, labels)).reshape([rows])
}

#[cfg(feature = "cpu")]
mod kernel {
    use burn::backend::TensorMetadata;
    use burn::prelude::*;
    use rayon::prelude::*;

    use crate::kernels::dispatch::{Differentiable, Kernel};
    use crate::kernels::flex::{FlexTensor, tensor, values, values_mut};
    use crate::kernels::loops::{max, sum, vectorised};
    use crate::kernels::math::exp;

    #[derive(Clone, Debug)]
    pub(super) struct CrossEntropy {
        pub labels: Vec<u32>,
    }

    impl Kernel<1> for CrossEntropy {
        fn forward(&self, [logits]: [FlexTensor; 1]) -> FlexTensor {
            let (vocab, logits) = (logits.shape()[1], logits.to_contiguous());
            let losses: Vec<f32> = values(&logits)
                .par_chunks_exact(vocab.max(1))
                .zip(&self.labels)
                .map(|(logits, &label)| {
                    vectorised(
                        #[inline(always)]
                        || cross_entropy(logits, label as usize),
                    )
                })
                .collect();
            tensor(losses, Shape::new([self.labels.len()]))
        }
    }

    impl Differentiable<1> for CrossEntropy {
        /// The logits.
        type Saved = FlexTensor;

        fn forward_saving(&self, [logits]: [FlexTensor; 1]) -> (FlexTensor, FlexTensor) {
            (self.forward([logits.clone()]), logits)
        }

        fn backward(&self, logits: FlexTensor, gradient: FlexTensor) -> [Option<FlexTensor>; 1] {
            let (vocab, gradient) = (logits.shape()[1], gradient.to_contiguous());
            let mut logits = logits.into_data();
            values_mut(&mut logits)
                .par_chunks_exact_mut(vocab.max(1))
                .zip(&self.labels)
                .zip(values::<f32>(&gradient))
                .for_each(|((logits, &label), &gradient)| {
                    vectorised(
                        #[inline(always)]
                        || cross_entropy_gradient(logits, label as usize, gradient),
                    );
                });
            [Some(FlexTensor::from_data(logits))]
        }
    }

    #[inline(always)]
    fn cross_entropy(logits: &[f32], label: usize) -> f32 {
        let highest = max(logits);
        let total = sum(
            logits,
            #[inline(always)]
            |x| exp(x - highest),
        );
        total.ln() + highest - logits[label]
    }

    /// Turns logits into their gradient.
    #[inline(always)]
    fn cross_entropy_gradient(logits: &mut [f32], label: usize, gradient: f32) {
        let highest = max(logits);
        logits.iter_mut().for_each(|x| *x = exp(*x - highest));
        let total = sum(
            logits,
            #[inline(always)]
            |x| x,
        );
        let scale = gradient / total;
        logits.iter_mut().for_each(|x| *x *= scale);
        logits[label] -= gradient;
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::super::testing::{assert_rejected, check, random, seed};
    use super::*;

    #[test]
    fn values_and_gradients_are_those_of_the_composed_operations() {
        seed(4);
        let labels: Vec<u32> = (0..40).map(|row| row * 7 % 301).collect();
        check(
            random([40, 301]),
            |x| cross_entropy(x, &labels),
            |x| cross_entropy_composed(x, &labels),
        );
    }

    #[test]
    fn no_rows_have_no_losses() {
        for vocab in [0, 5] {
            let logits = Tensor::<2>::empty([0, vocab], &Device::flex());
            assert_eq!(cross_entropy(logits, &[]).dims(), [0]);
        }
    }

    #[test]
    fn labels_that_do_not_fit_the_logits_are_rejected() {
        for count in [0, 2, 4] {
            let message = format!("cross_entropy: {count} labels for `logits` of shape [3, 5]");
            assert_rejected(&message, |new| {
                cross_entropy(new.ones([3, 5]), &vec![0; count])
            });
        }
        for label in [5, u32::MAX] {
            let message = format!("cross_entropy: label {label} for `logits` of shape [3, 5]");
            assert_rejected(&message, |new| {
                cross_entropy(new.ones([3, 5]), &[0, 4, label])
            });
        }
    }
}
