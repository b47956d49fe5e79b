//! Softmax over the keys that each query sees.

use burn::prelude::*;
use burn::tensor::{DType, activation};

#[cfg(feature = "cpu")]
use super::{dispatch::run_differentiable, flex::is_flex_f32};

/// Softmax over the last dimension of scores `[batch, heads, queries, keys]`, f32. The queries are
/// the last of the positions that have keys; each sees the keys up to its own position and, with a
/// window, only the last `window` of them.
///
/// # Panics
/// If there are more queries than keys, the window is 0, or the scores are not f32.
pub(crate) fn causal_softmax(scores: Tensor<4>, window: Option<usize>) -> Tensor<4> {
    let dims = scores.dims();
    let [_, _, queries, keys] = dims;
    assert!(
        queries <= keys,
        "causal_softmax: `scores` of shape {dims:?} have more queries than keys"
    );
    assert!(
        window != Some(0),
        "causal_softmax: a window must be at least 1"
    );
    assert!(
        scores.dtype() == DType::F32,
        "causal_softmax: `scores` must be F32, but are {:?}",
        scores.dtype()
    );
    #[cfg(feature = "cpu")]
    if is_flex_f32(&scores) {
        let window = window.unwrap_or(usize::MAX);
        return run_differentiable(kernel::CausalSoftmax { window }, [scores.into_dispatch()]);
    }
    causal_softmax_composed(scores, window)
}

fn causal_softmax_composed(scores: Tensor<4>, window: Option<usize>) -> Tensor<4> {
    let [_, _, queries, keys] = scores.dims();
    let scores = match causal_mask(queries, keys, window, &scores.device()) {
        Some(mask) => scores.mask_fill(mask.unsqueeze::<4>(), f32::NEG_INFINITY),
        None => scores,
    };
    activation::softmax(scores, 3)
}

/// `[queries, keys]`, `true` where a query must not look; `None` where every query may look
/// everywhere.
fn causal_mask(
    queries: usize,
    keys: usize,
    window: Option<usize>,
    device: &Device,
) -> Option<Tensor<2, Bool>> {
    let hides_past = window.is_some_and(|window| window < keys);
    if queries == 1 && !hides_past {
        return None;
    }
    let positions =
        |first: usize, end: usize| Tensor::<1, Int>::arange(first as i64..end as i64, device);
    let distance = positions(keys - queries, keys).reshape([queries, 1])
        - positions(0, keys).reshape([1, keys]);
    let future = distance.clone().lower_elem(0);
    Some(match window {
        Some(window) if hides_past => future.bool_or(distance.greater_equal_elem(window as i64)),
        _ => future,
    })
}

#[cfg(feature = "cpu")]
pub(super) mod kernel {
    use burn::backend::TensorMetadata;

    use crate::kernels::dispatch::{Differentiable, Kernel};
    use crate::kernels::flex::{FlexTensor, values, values_mut};
    use crate::kernels::loops::{dot, in_blocks, max, sum};
    use crate::kernels::math::exp;

    #[derive(Clone, Debug)]
    pub(super) struct CausalSoftmax {
        pub window: usize,
    }

    impl Kernel<1> for CausalSoftmax {
        /// In place if the scores are not shared.
        fn forward(&self, [scores]: [FlexTensor; 1]) -> FlexTensor {
            let shape = scores.shape();
            let mut scores = scores.into_data();
            self.softmax(values_mut(&mut scores), shape[2], shape[3]);
            FlexTensor::from_data(scores)
        }
    }

    impl Differentiable<1> for CausalSoftmax {
        /// The output.
        type Saved = FlexTensor;

        fn forward_saving(&self, inputs: [FlexTensor; 1]) -> (FlexTensor, FlexTensor) {
            let weights = self.forward(inputs);
            (weights.clone(), weights)
        }

        fn backward(&self, weights: FlexTensor, gradient: FlexTensor) -> [Option<FlexTensor>; 1] {
            let (keys, weights) = (weights.shape()[3], weights.to_contiguous());
            let mut gradient = gradient.into_data();
            softmax_gradient(values(&weights), values_mut(&mut gradient), keys);
            [Some(FlexTensor::from_data(gradient))]
        }
    }

    impl CausalSoftmax {
        fn softmax(&self, scores: &mut [f32], queries: usize, keys: usize) {
            in_blocks(
                scores,
                keys,
                #[inline(always)]
                |first, rows| {
                    for (row, scores) in (first..).zip(rows.chunks_exact_mut(keys)) {
                        let end = keys - queries + row % queries + 1;
                        let start = end.saturating_sub(self.window);
                        scores[..start].fill(0.0);
                        scores[end..].fill(0.0);
                        softmax_row(&mut scores[start..end]);
                    }
                },
            );
        }
    }

    /// Turns the scores of one query into weights.
    #[inline(always)]
    pub(in crate::kernels) fn softmax_row(scores: &mut [f32]) {
        let highest = max(scores);
        scores.iter_mut().for_each(|x| *x = exp(*x - highest));
        let scale = sum(
            scores,
            #[inline(always)]
            |x| x,
        )
        .recip();
        scores.iter_mut().for_each(|x| *x *= scale);
    }

    /// Turns the gradient of the weights into that of the scores.
    fn softmax_gradient(weights: &[f32], gradient: &mut [f32], keys: usize) {
        in_blocks(
            gradient,
            keys,
            #[inline(always)]
            |first, rows| {
                let weights = weights[first * keys..].chunks_exact(keys);
                for (gradient, weights) in rows.chunks_exact_mut(keys).zip(weights) {
                    let along = dot(gradient, weights);
                    gradient
                        .iter_mut()
                        .zip(weights)
                        .for_each(|(gradient, weight)| *gradient = weight * (*gradient - along));
                }
            },
        );
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::super::testing::{check, panic_message, random, seed};
    use super::*;

    #[test]
    fn values_and_gradients_are_those_of_the_composed_operations() {
        seed(3);
        for (queries, keys, window) in [
            (37, 37, None),
            (5, 37, None),
            (1, 37, None),
            (37, 37, Some(4)),
            (1, 37, Some(4)),
            (5, 37, Some(100)),
        ] {
            check(
                random([2, 3, queries, keys]),
                |x| causal_softmax(x, window),
                |x| causal_softmax_composed(x, window),
            );
        }
    }

    #[test]
    fn shared_scores_are_not_changed() {
        let scores = random([1, 1, 4, 8]);
        let before = scores.clone().into_data();
        let _ = causal_softmax(scores.clone(), None);
        assert_eq!(scores.into_data(), before);
    }

    #[test]
    fn no_scores_have_no_softmax() {
        for shape in [[0, 2, 3, 4], [1, 2, 0, 4], [1, 2, 0, 0]] {
            let scores = Tensor::<4>::empty(shape, &Device::flex());
            assert_eq!(causal_softmax(scores, None).dims(), shape);
        }
    }

    #[test]
    fn scores_that_are_not_causal_are_rejected() {
        let more_queries = panic_message(|| causal_softmax(random([1, 2, 5, 4]), None));
        assert_eq!(
            more_queries,
            "causal_softmax: `scores` of shape [1, 2, 5, 4] have more queries than keys"
        );
        let no_window = panic_message(|| causal_softmax(random([1, 2, 3, 4]), Some(0)));
        assert_eq!(no_window, "causal_softmax: a window must be at least 1");
        let half = random([1, 2, 3, 4]).cast(DType::BF16);
        let not_f32 = panic_message(|| causal_softmax(half, None));
        assert_eq!(
            not_f32,
            "causal_softmax: `scores` must be F32, but are BF16"
        );
    }
}
