//! Conversion between float types.

use burn::prelude::*;
use burn::tensor::DType;

#[cfg(feature = "cpu")]
use super::dispatch::run_differentiable;
#[cfg(feature = "cpu")]
use super::flex::is_flex_f32_or_bf16;

/// `x` in another float type, of any shape.
pub(crate) fn cast<const D: usize>(x: Tensor<D>, dtype: DType) -> Tensor<D> {
    if x.dtype() == dtype {
        return x;
    }
    #[cfg(feature = "cpu")]
    if matches!(dtype, DType::F32 | DType::BF16) && is_flex_f32_or_bf16(&x) {
        return run_differentiable(kernel::Cast { to: dtype }, [x.into_dispatch()]);
    }
    x.cast(dtype)
}

/// The type in which to multiply tensors of the type of `x`: on the CPU f32 for bf16, which every
/// product would otherwise widen anew.
pub(crate) fn product_dtype<const D: usize>(x: &Tensor<D>) -> DType {
    #[cfg(feature = "cpu")]
    if is_flex_f32_or_bf16(x) {
        return DType::F32;
    }
    x.dtype()
}

#[cfg(feature = "cpu")]
pub(super) mod kernel {
    use burn::backend::TensorMetadata;
    use burn::tensor::{DType, bf16};

    use crate::kernels::buffer::filled;
    use crate::kernels::dispatch::{Differentiable, Kernel};
    use crate::kernels::flex::{FlexTensor, tensor, values};
    use crate::kernels::stored::Stored;

    #[derive(Clone, Debug)]
    pub(in crate::kernels) struct Cast {
        pub to: DType,
    }

    impl Kernel<1> for Cast {
        fn forward(&self, [x]: [FlexTensor; 1]) -> FlexTensor {
            convert(x, self.to)
        }
    }

    impl Differentiable<1> for Cast {
        type Saved = DType;

        fn forward_saving(&self, [x]: [FlexTensor; 1]) -> (FlexTensor, DType) {
            let from = x.dtype();
            (convert(x, self.to), from)
        }

        fn backward(&self, from: DType, gradient: FlexTensor) -> [Option<FlexTensor>; 1] {
            [Some(convert(gradient, from))]
        }
    }

    /// A tensor of f32 or bf16 in one of these types.
    pub(in crate::kernels) fn convert(x: FlexTensor, dtype: DType) -> FlexTensor {
        if x.dtype() == dtype {
            return x;
        }
        let (shape, x) = (x.shape(), x.to_contiguous());
        if dtype == DType::BF16 {
            tensor(converted::<f32, bf16>(values(&x)), shape)
        } else {
            tensor(converted::<bf16, f32>(values(&x)), shape)
        }
    }

    fn converted<A: Stored, B: Stored>(x: &[A]) -> Vec<B> {
        filled(
            x.len(),
            1,
            #[inline(always)]
            |range, out| out.extend(x[range].iter().map(|x| B::narrow(x.widen()))),
        )
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::super::testing::{check, random, seed};
    use super::*;

    #[test]
    fn numbers_are_rounded_to_half_precision_and_back_as_the_backend_does() {
        seed(9);
        let special = [
            0.0,
            -0.0,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::MAX,
            1e-40,
            1.0 + 1.0 / 256.0,
            1.0 + 3.0 / 256.0,
        ];
        let special = Tensor::from_floats(special, &Device::flex());
        let x = Tensor::cat(vec![random([20_000]), special], 0);
        let half = cast(x.clone(), DType::BF16);
        assert_eq!(half.clone().into_data(), x.cast(DType::BF16).into_data());
        assert_eq!(
            cast(half.clone(), DType::F32).into_data(),
            half.cast(DType::F32).into_data()
        );
        let nan =
            Tensor::<1>::from_floats([f32::NAN, f32::from_bits(0x7fff_ffff)], &Device::flex());
        let still_nan = cast(nan, DType::BF16).cast(DType::F32).is_nan();
        assert!(still_nan.all().into_scalar::<bool>());
        check(
            random([3, 50]),
            |x| cast(cast(x, DType::BF16), DType::F32),
            |x| x.cast(DType::BF16).cast(DType::F32),
        );
    }
}
