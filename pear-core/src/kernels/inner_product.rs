//! The inner product of two tensors.

use burn::prelude::*;
use burn::tensor::DType;

use super::check;
#[cfg(feature = "cpu")]
use super::dispatch::run_differentiable;
#[cfg(feature = "cpu")]
use super::flex::{is_flex_constant, is_flex_f32_or_bf16};

/// The sum of all products of the numbers of `a` and `b`, which have the same shape and type: `[1]`, f32.
///
/// The gradient by `a` is `b`, so that a backward pass can start anywhere in a model from a gradient that is known:
///
/// ```
/// use burn::prelude::*;
/// use pear_core::kernels::inner_product;
///
/// let x = Tensor::<1>::from_floats([1.0, 2.0], &Device::flex()).autodiff().require_grad();
/// let of_square = Tensor::<1>::from_floats([3.0, 5.0], &Device::flex());
/// let gradients = inner_product(x.clone() * x.clone(), of_square).backward();
/// let found: Vec<f32> = x.grad(&gradients).unwrap().into_data().iter::<f32>().collect();
/// assert_eq!(found, [6.0, 20.0]);
/// ```
///
/// # Panics
/// If the shapes or the types differ.
pub fn inner_product<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> Tensor<1> {
    const NAME: &str = "inner_product";
    check::shape(NAME, ("b", &b.dims()), &a.dims(), ("a", &a.dims()));
    check::same_dtype(NAME, &[("a", a.dtype()), ("b", b.dtype())]);
    #[cfg(feature = "cpu")]
    if is_flex_f32_or_bf16(&a) && is_flex_constant(&b) {
        let inputs = [a.into_dispatch(), b.into_dispatch()];
        return run_differentiable(kernel::InnerProduct, inputs);
    }
    inner_product_composed(a, b)
}

fn inner_product_composed<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> Tensor<1> {
    (a.cast(DType::F32) * b.cast(DType::F32)).sum()
}

#[cfg(feature = "cpu")]
pub(super) mod kernel {
    use burn::backend::TensorMetadata;
    use burn::prelude::*;
    use rayon::prelude::*;

    use crate::kernels::buffer::filled;
    use crate::kernels::dispatch::{Differentiable, Kernel};
    use crate::kernels::flex::{FlexTensor, tensor, values};
    use crate::kernels::loops::{BLOCK, sum_of_pairs, vectorised};
    use crate::kernels::stored::{Stored, with_stored};

    #[derive(Clone, Debug)]
    pub(super) struct InnerProduct;

    impl Kernel<2> for InnerProduct {
        fn forward(&self, inputs: [FlexTensor; 2]) -> FlexTensor {
            let [a, b] = inputs.map(|x| x.to_contiguous());
            let sum = with_stored!(a, T => inner_product::<T>(values(&a), values(&b)));
            tensor(vec![sum], Shape::new([1]))
        }
    }

    impl Differentiable<2> for InnerProduct {
        /// `b`.
        type Saved = FlexTensor;

        fn forward_saving(&self, [a, b]: [FlexTensor; 2]) -> (FlexTensor, FlexTensor) {
            (self.forward([a, b.clone()]), b)
        }

        fn backward(&self, b: FlexTensor, gradient: FlexTensor) -> [Option<FlexTensor>; 2] {
            [Some(scaled(b, &gradient)), None]
        }
    }

    /// A tensor times the number in another one; not copied where that is 1.
    pub(in crate::kernels) fn scaled(x: FlexTensor, factor: &FlexTensor) -> FlexTensor {
        let factor = values::<f32>(&factor.to_contiguous())[0];
        if factor == 1.0 {
            return x;
        }
        let (shape, x) = (x.shape(), x.to_contiguous());
        with_stored!(x, T => tensor(times::<T>(values(&x), factor), shape))
    }

    /// Each block in f32, the blocks in f64.
    fn inner_product<T: Stored>(a: &[T], b: &[T]) -> f32 {
        let of_block = |(a, b): (&[T], &[T])| {
            vectorised(
                #[inline(always)]
                || {
                    sum_of_pairs(
                        a,
                        b,
                        #[inline(always)]
                        |a, b| a.widen() * b.widen(),
                    )
                },
            )
        };
        let blocks: Vec<f32> = a
            .par_chunks(BLOCK)
            .zip(b.par_chunks(BLOCK))
            .map(of_block)
            .collect();
        blocks.into_iter().map(f64::from).sum::<f64>() as f32
    }

    fn times<T: Stored>(x: &[T], factor: f32) -> Vec<T> {
        filled(
            x.len(),
            1,
            #[inline(always)]
            |range, out| out.extend(x[range].iter().map(|x| T::narrow(x.widen() * factor))),
        )
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::super::testing::{assert_rejected, check, distance, random, seed};
    use super::*;

    #[test]
    fn values_and_gradients_are_those_of_the_composed_operations() {
        seed(11);
        // Several blocks, and numbers that are not contiguous.
        let b = random::<2>([70, 301]).transpose();
        check(
            random([301, 70]),
            |x| inner_product(x, b.clone()),
            |x| inner_product_composed(x, b.clone()),
        );
    }

    #[test]
    fn the_gradient_in_half_precision_is_the_other_tensor() {
        seed(12);
        let [a, b] = [random::<2>([5, 70]), random([5, 70])].map(|x| x.cast(DType::BF16));
        let a = a.autodiff().require_grad();
        let product = inner_product(a.clone(), b.clone());
        assert_eq!(product.dtype(), DType::F32);
        let composed = inner_product_composed(a.clone(), b.clone());
        assert!(distance(product.clone().inner(), composed.inner()) < 2e-6);
        let gradient = a.grad(&product.backward()).unwrap();
        assert_eq!(gradient.into_data(), b.clone().into_data());
        let gradient = a
            .grad(&(inner_product(a.clone(), b.clone()) * -2.0).backward())
            .unwrap();
        assert_eq!(gradient.into_data(), (b * -2.0).into_data());
    }

    #[test]
    fn a_tracked_second_tensor_has_a_gradient_too() {
        let [a, b] = [3.0, 4.0].map(|x| {
            let x = Tensor::<1>::from_floats([x], &Device::flex());
            x.autodiff().require_grad()
        });
        let gradients = inner_product(a.clone(), b.clone()).backward();
        assert_eq!(a.grad(&gradients).unwrap().into_scalar::<f32>(), 4.0);
        assert_eq!(b.grad(&gradients).unwrap().into_scalar::<f32>(), 3.0);
    }

    #[test]
    fn nothing_has_an_inner_product_of_zero() {
        let empty = || Tensor::<2>::empty([0, 5], &Device::flex());
        assert_eq!(inner_product(empty(), empty()).into_scalar::<f32>(), 0.0);
    }

    #[test]
    fn other_shapes_are_rejected() {
        assert_rejected(
            "inner_product: `b` must have shape [3, 5] where `a` has shape [3, 5], but has [3, 4]",
            |new| inner_product(new.ones([3, 5]), new.ones([3, 4])),
        );
    }
}
