//! The Kullback–Leibler divergence of predictions from a reference.

use burn::prelude::*;
use burn::tensor::DType;

use super::check;
use super::log_sum_exp;
#[cfg(feature = "cpu")]
use super::{dispatch::run_differentiable, flex::is_flex_f32};

/// The divergence `Σ p₀ (log p₀ − log p)` of each row, in nats: `p` are the probabilities that `logits` stand for, `p₀` those of
/// `reference`, both `[rows, vocab]`. The result is `[rows]`, f32.
///
/// Equal rows have a divergence of exactly 0. The gradient by `logits` is `p − p₀`; there is none by `reference`, which is constant.
///
/// ```
/// use burn::prelude::*;
/// use pear_core::kernels::kl_divergence;
///
/// let rows = |p: [[f32; 2]; 1]| Tensor::<2>::from_floats(p, &Device::flex()).log();
/// let kl = kl_divergence(rows([[0.25, 0.75]]), rows([[0.5, 0.5]])).into_scalar::<f32>();
/// assert!((kl - 0.5 * (4f32 / 3.0).ln()).abs() < 1e-6);
/// ```
///
/// # Panics
/// If the shapes differ.
pub fn kl_divergence(logits: Tensor<2>, reference: Tensor<2>) -> Tensor<1> {
    let dims = logits.dims();
    check::shape(
        "kl_divergence",
        ("reference", &reference.dims()),
        &dims,
        ("logits", &dims),
    );
    let reference = if reference.is_autodiff() {
        reference.inner()
    } else {
        reference
    };
    let (logits, reference) = (logits.cast(DType::F32), reference.cast(DType::F32));
    #[cfg(feature = "cpu")]
    if is_flex_f32(&logits) && is_flex_f32(&reference) {
        let inputs = [logits.into_dispatch(), reference.into_dispatch()];
        return run_differentiable(kernel::KlDivergence, inputs);
    }
    kl_divergence_composed(logits, reference)
}

fn kl_divergence_composed(logits: Tensor<2>, reference: Tensor<2>) -> Tensor<1> {
    let rows = logits.dims()[0];
    let reference = reference.clone() - log_sum_exp(reference);
    let probs = reference.clone().exp();
    // A token of probability 0 adds nothing, but 0 · (−∞ − …) would be NaN.
    let impossible = probs.clone().equal_elem(0.0);
    let (reference, probs, impossible) = if logits.is_autodiff() {
        (
            reference.autodiff(),
            probs.autodiff(),
            impossible.autodiff(),
        )
    } else {
        (reference, probs, impossible)
    };
    let log_probs = logits.clone() - log_sum_exp(logits);
    let terms = (probs * (reference - log_probs)).mask_fill(impossible, 0.0);
    terms.sum_dim(1).reshape([rows])
}

#[cfg(feature = "cpu")]
mod kernel {
    use burn::backend::TensorMetadata;
    use burn::prelude::*;
    use rayon::prelude::*;

    use crate::kernels::dispatch::{Differentiable, Kernel};
    use crate::kernels::flex::{FlexTensor, tensor, values, values_mut};
    use crate::kernels::loops::{max, sum, sum_of_pairs, vectorised};
    use crate::kernels::math::exp;

    #[derive(Clone, Debug)]
    pub(super) struct KlDivergence;

    impl Kernel<2> for KlDivergence {
        fn forward(&self, inputs: [FlexTensor; 2]) -> FlexTensor {
            let shape = inputs[0].shape();
            let (rows, vocab) = (shape[0], shape[1].max(1));
            let [logits, reference] = inputs.map(|x| x.to_contiguous());
            let divergences: Vec<f32> = values(&logits)
                .par_chunks_exact(vocab)
                .zip(values(&reference).par_chunks_exact(vocab))
                .map(|(logits, reference)| {
                    vectorised(
                        #[inline(always)]
                        || divergence(logits, reference),
                    )
                })
                .collect();
            tensor(divergences, Shape::new([rows]))
        }
    }

    impl Differentiable<2> for KlDivergence {
        /// Logits and reference.
        type Saved = [FlexTensor; 2];

        fn forward_saving(&self, inputs: [FlexTensor; 2]) -> (FlexTensor, [FlexTensor; 2]) {
            (self.forward(inputs.clone()), inputs)
        }

        fn backward(
            &self,
            [logits, reference]: [FlexTensor; 2],
            gradient: FlexTensor,
        ) -> [Option<FlexTensor>; 2] {
            let vocab = logits.shape()[1].max(1);
            let (reference, gradient) = (reference.to_contiguous(), gradient.to_contiguous());
            let mut logits = logits.into_data();
            values_mut(&mut logits)
                .par_chunks_exact_mut(vocab)
                .zip(values::<f32>(&reference).par_chunks_exact(vocab))
                .zip(values::<f32>(&gradient))
                .for_each(|((logits, reference), &gradient)| {
                    vectorised(
                        #[inline(always)]
                        || divergence_gradient(logits, reference, gradient),
                    );
                });
            [Some(FlexTensor::from_data(logits)), None]
        }
    }

    /// Logarithm of the least probability that counts, relative to the likeliest token: about the smallest normal number.
    const LOWEST: f32 = -87.0;

    /// The highest logit, and `Σ exp` of how far the others are below it.
    #[inline(always)]
    fn normalizer(logits: &[f32]) -> (f32, f32) {
        let highest = max(logits);
        let total = sum(
            logits,
            #[inline(always)]
            |x| exp(x - highest),
        );
        (highest, total)
    }

    #[inline(always)]
    fn divergence(logits: &[f32], reference: &[f32]) -> f32 {
        let (highest, total) = normalizer(logits);
        let (reference_highest, reference_total) = normalizer(reference);
        let weighted = sum_of_pairs(
            logits,
            reference,
            #[inline(always)]
            |x, x0| {
                let log_p0 = x0 - reference_highest;
                // A token of probability 0 adds nothing, but 0 · (−∞ − …) would be NaN, and `exp` never gives 0.
                if log_p0 < LOWEST {
                    0.0
                } else {
                    exp(log_p0) * (log_p0 - (x - highest))
                }
            },
        );
        weighted / reference_total - (reference_total.ln() - total.ln())
    }

    /// Turns logits into their gradient.
    #[inline(always)]
    fn divergence_gradient(logits: &mut [f32], reference: &[f32], gradient: f32) {
        let (highest, total) = normalizer(logits);
        let (reference_highest, reference_total) = normalizer(reference);
        let (scale, reference_scale) = (gradient / total, gradient / reference_total);
        logits.iter_mut().zip(reference).for_each(|(x, &x0)| {
            *x = exp(*x - highest) * scale - exp(x0 - reference_highest) * reference_scale;
        });
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::super::testing::{assert_rejected, check, random, seed};
    use super::*;

    #[test]
    fn values_and_gradients_are_those_of_the_composed_operations() {
        seed(4);
        let reference = random([40, 301]);
        check(
            random([40, 301]),
            |x| kl_divergence(x, reference.clone()),
            |x| kl_divergence_composed(x, reference.clone()),
        );
    }

    #[test]
    fn the_gradient_is_the_difference_of_the_probabilities() {
        seed(5);
        let (logits, reference) = (random::<2>([3, 70]), random::<2>([3, 70]));
        let tracked = logits.clone().autodiff().require_grad();
        let gradients = kl_divergence(tracked.clone(), reference.clone())
            .sum()
            .backward();
        let probs = |x: Tensor<2>| burn::tensor::activation::softmax(x, 1);
        let expected = probs(logits) - probs(reference);
        let apart = (tracked.grad(&gradients).unwrap() - expected).abs().max();
        assert!(apart.into_scalar::<f32>() < 1e-6);
    }

    #[test]
    fn equal_rows_do_not_diverge_and_impossible_tokens_add_nothing() {
        seed(6);
        let same = random::<2>([4, 99]);
        let kl = kl_divergence(same.clone() + 3.0, same + 3.0);
        assert_eq!(kl.abs().max().into_scalar::<f32>(), 0.0);

        let rows = |p: [[f32; 3]; 1]| Tensor::<2>::from_floats(p, &Device::flex()).log();
        let (logits, reference) = (rows([[0.5, 0.5, 0.0]]), rows([[0.25, 0.75, 0.0]]));
        let expected = 0.25 * 0.5f32.ln() + 0.75 * 1.5f32.ln();
        for found in [
            kl_divergence(logits.clone(), reference.clone()),
            kl_divergence_composed(logits, reference),
        ] {
            assert!((found.into_scalar::<f32>() - expected).abs() < 1e-6);
        }
    }

    #[test]
    fn other_shapes_are_rejected() {
        assert_rejected(
            "kl_divergence: `reference` must have shape [3, 5] where `logits` has shape [3, 5], but has [3, 4]",
            |new| kl_divergence(new.ones([3, 5]), new.ones([3, 4])),
        );
    }
}
