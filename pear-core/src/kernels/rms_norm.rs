//! The root-mean-square norm.

use burn::prelude::*;
use burn::tensor::DType;

use super::cast::cast;
use super::check;
#[cfg(feature = "cpu")]
use super::dispatch::run_differentiable;
#[cfg(feature = "cpu")]
use super::flex::{is_flex_constant, is_flex_f32_or_bf16};

/// Root-mean-square norm over the last dimension of `x`, times `weight`, which is as long as that
/// dimension and has the same type.
///
/// It is computed in f32. Half precision is rounded before the multiplication with the weight and
/// after it, as Llama's is.
///
/// # Panics
/// If the shapes do not match or the types differ.
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, eps: f64) -> Tensor<D> {
    check_weight("rms_norm", &x, &weight);
    check::same_dtype("rms_norm", &[("x", x.dtype()), ("weight", weight.dtype())]);
    #[cfg(feature = "cpu")]
    if is_flex_f32_or_bf16(&x) && is_flex_constant(&weight) {
        let kernel = kernel::RmsNorm { eps: eps as f32 };
        return run_differentiable(kernel, [x.into_dispatch(), weight.into_dispatch()]);
    }
    rms_norm_composed(x, weight, eps)
}

/// As [`rms_norm`], but rounded only after the multiplication with the weight, as OLMo 2's and
/// Gemma's are. The result has the type of `x`, whatever that of the weight.
///
/// # Panics
/// If the shapes do not match.
pub fn rms_norm_rounded_once<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<1>,
    eps: f64,
) -> Tensor<D> {
    check_weight("rms_norm_rounded_once", &x, &weight);
    let dtype = x.dtype();
    let (x, weight) = (cast(x, DType::F32), cast(weight, DType::F32));
    cast(rms_norm(x, weight, eps), dtype)
}

fn check_weight<const D: usize>(operation: &str, x: &Tensor<D>, weight: &Tensor<1>) {
    let dims = x.dims();
    let expected = [dims[D - 1]];
    check::shape(
        operation,
        ("weight", &weight.dims()),
        &expected,
        ("x", &dims),
    );
}

fn rms_norm_composed<const D: usize>(x: Tensor<D>, weight: Tensor<1>, eps: f64) -> Tensor<D> {
    let dtype = x.dtype();
    let x = x.cast(DType::F32);
    let scale = (x.clone().square().mean_dim(D - 1) + eps).sqrt().recip();
    (x * scale).cast(dtype) * weight.unsqueeze::<D>()
}

#[cfg(feature = "cpu")]
mod kernel {
    use burn::backend::TensorMetadata;
    use burn::tensor::DType;

    use crate::kernels::buffer::filled;
    use crate::kernels::cast::kernel::convert;
    use crate::kernels::dispatch::{Differentiable, Kernel};
    use crate::kernels::flex::{FlexTensor, tensor, values, values_mut};
    use crate::kernels::loops::{dot, in_blocks, sum};
    use crate::kernels::stored::{Stored, with_stored};

    #[derive(Clone, Debug)]
    pub(super) struct RmsNorm {
        pub eps: f32,
    }

    impl Kernel<2> for RmsNorm {
        fn forward(&self, [x, weight]: [FlexTensor; 2]) -> FlexTensor {
            let (shape, x, weight) = (x.shape(), x.to_contiguous(), weight.to_contiguous());
            with_stored!(x, T => tensor(self.norm::<T>(values(&x), values(&weight)), shape))
        }
    }

    impl Differentiable<2> for RmsNorm {
        type Saved = [FlexTensor; 2];

        fn forward_saving(&self, inputs: [FlexTensor; 2]) -> (FlexTensor, [FlexTensor; 2]) {
            (self.forward(inputs.clone()), inputs)
        }

        fn backward(
            &self,
            saved: [FlexTensor; 2],
            gradient: FlexTensor,
        ) -> [Option<FlexTensor>; 2] {
            let dtype = gradient.dtype();
            let [x, weight] = saved.map(|x| convert(x.to_contiguous(), DType::F32));
            let mut gradient = convert(gradient, DType::F32).into_data();
            self.norm_gradient(values(&x), values(&weight), values_mut(&mut gradient));
            [Some(convert(FlexTensor::from_data(gradient), dtype)), None]
        }
    }

    impl RmsNorm {
        fn norm<T: Stored>(&self, x: &[T], weight: &[T]) -> Vec<T> {
            let width = weight.len();
            filled(
                x.len().checked_div(width).unwrap_or(0),
                width,
                #[inline(always)]
                |rows, out| {
                    for x in x[rows.start * width..rows.end * width].chunks_exact(width) {
                        let scale = self.scale(x);
                        out.extend(x.iter().zip(weight).map(|(x, weight)| {
                            T::narrow(T::narrow(x.widen() * scale).widen() * weight.widen())
                        }));
                    }
                },
            )
        }

        /// Turns the gradient of the output into that of `x`.
        fn norm_gradient(&self, x: &[f32], weight: &[f32], gradient: &mut [f32]) {
            let width = weight.len();
            in_blocks(
                gradient,
                width,
                #[inline(always)]
                |first, gradient| {
                    let rows = x[first * width..].chunks_exact(width);
                    for (gradient, x) in gradient.chunks_exact_mut(width).zip(rows) {
                        let scale = self.scale(x);
                        gradient
                            .iter_mut()
                            .zip(weight)
                            .for_each(|(gradient, weight)| *gradient *= weight);
                        let along = scale * scale * dot(gradient, x) / width as f32;
                        gradient
                            .iter_mut()
                            .zip(x)
                            .for_each(|(gradient, x)| *gradient = scale * (*gradient - x * along));
                    }
                },
            );
        }

        /// The reciprocal of the root mean square.
        #[inline(always)]
        fn scale<T: Stored>(&self, x: &[T]) -> f32 {
            let squares = sum(
                x,
                #[inline(always)]
                |x| x.widen() * x.widen(),
            );
            (squares / x.len() as f32 + self.eps).sqrt().recip()
        }
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::super::testing::{assert_rejected, check, check_bf16, random, seed};
    use super::*;

    #[test]
    fn values_and_gradients_are_those_of_the_composed_operations() {
        seed(2);
        let weight = random([130]);
        let view = random([2, 7, 3, 130]).swap_dims(1, 2);
        check(
            random([2, 90, 130]),
            |x| rms_norm(x, weight.clone(), 1e-3),
            |x| rms_norm_composed(x, weight.clone(), 1e-3),
        );
        check(
            view,
            |x| rms_norm(x, weight.clone(), 1e-3),
            |x| rms_norm_composed(x, weight.clone(), 1e-3),
        );
        let weight = weight.cast(DType::BF16);
        check_bf16(
            random([2, 90, 130]),
            |x| rms_norm(x, weight.clone(), 1e-3),
            |x| rms_norm_composed(x, weight.clone(), 1e-3),
        );
    }

    #[test]
    fn no_rows_have_no_norms() {
        let weight = random([5]);
        assert_eq!(rms_norm(random([2, 0, 5]), weight, 1e-6).dims(), [2, 0, 5]);
        let empty = Tensor::<1>::empty([0], &Device::flex());
        let x = Tensor::<2>::empty([3, 0], &Device::flex());
        assert_eq!(rms_norm(x, empty, 1e-6).dims(), [3, 0]);
    }

    #[test]
    fn a_weight_of_another_length_is_rejected() {
        for length in [1, 4, 7, 9, 16] {
            let message = |name| {
                format!(
                    "{name}: `weight` must have shape [8] where `x` has shape [2, 3, 8], but has [{length}]"
                )
            };
            assert_rejected(&message("rms_norm"), |new| {
                rms_norm(new.ones([2, 3, 8]), new.ones([length]), 1e-6)
            });
            assert_rejected(&message("rms_norm_rounded_once"), |new| {
                rms_norm_rounded_once(new.ones([2, 3, 8]), new.ones([length]), 1e-6)
            });
        }
    }

    #[test]
    #[should_panic = "rms_norm: `weight` must have the type of `x`, F32, but has BF16"]
    fn a_weight_of_another_type_is_rejected() {
        rms_norm(random([3, 8]), random([8]).cast(DType::BF16), 1e-6);
    }
}
