//! Products with weights: of several rows by matrix multiplication in pieces, of one, or a few in half
//! precision, by reading the weight once.

#[cfg(feature = "cpu")]
mod few_rows;
#[cfg(feature = "cpu")]
mod many_rows;
#[cfg(feature = "cpu")]
mod native;
#[cfg(all(test, feature = "cpu"))]
mod tests;

use burn::nn::Linear;
use burn::prelude::*;

use super::check;
#[cfg(feature = "cpu")]
use super::dispatch::run_differentiable;
#[cfg(feature = "cpu")]
use super::flex::{is_flex_constant, is_flex_f32_or_bf16};
use super::inner_product;

/// `x · weight + bias` for `x` of `[batch, seq, in]`, `weight` of `[in, out]` (or a view of `[out,
/// in]`) and `bias` of `[out]`, all of the same type.
///
/// Products of several rows are cut in pieces that cores take as they become free: no core waits for a
/// slower or busier one.
///
/// # Panics
/// If the shapes do not match or the types differ.
pub fn linear(x: Tensor<3>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<3> {
    check_arguments(&x, &weight, bias.as_ref());
    #[cfg(feature = "cpu")]
    if is_supported(&x, &weight, bias.as_ref()) {
        let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
        return match bias {
            Some(bias) => run_differentiable(kernel::Linear, [x, weight, bias.into_dispatch()]),
            None => run_differentiable(kernel::Linear, [x, weight]),
        };
    }
    burn::tensor::module::linear(x, weight, bias)
}

/// [`linear`] with the weights of a burn layer.
///
/// # Panics
/// As [`linear`].
pub fn linear_forward(layer: &Linear, x: Tensor<3>) -> Tensor<3> {
    let bias = layer.bias.as_ref().map(|bias| bias.val());
    linear(x, layer.weight.val(), bias)
}

/// What a backward pass through `x · weight` alone starts from, `gradient` being that of the product: a number whose own gradient by `x` is
/// `gradient · weightᵀ`, `[1]`, f32. Its value has no meaning, for the product is not computed.
///
/// `x` is `[batch, seq, in]`, `weight` `[in, out]` and `gradient` `[batch, seq, out]`; only `x` may be tracked.
///
/// # Panics
/// If the shapes do not match or the types differ.
pub fn linear_start(x: Tensor<3>, weight: Tensor<2>, gradient: Tensor<3>) -> Tensor<1> {
    check_arguments(&x, &weight, None);
    const NAME: &str = "linear_start";
    let ([batch, seq, _], outputs) = (x.dims(), weight.dims()[1]);
    let expected = [batch, seq, outputs];
    check::shape(
        NAME,
        ("gradient", &gradient.dims()),
        &expected,
        ("x", &x.dims()),
    );
    check::same_dtype(NAME, &[("x", x.dtype()), ("gradient", gradient.dtype())]);
    let back = weight.transpose();
    #[cfg(feature = "cpu")]
    if is_supported(&gradient, &back, None)
        && is_flex_constant(&gradient)
        && is_flex_f32_or_bf16(&x)
    {
        let (x, gradient) = (x.into_dispatch(), gradient.into_dispatch());
        return run_differentiable(kernel::Start, [x, gradient, back.into_dispatch()]);
    }
    inner_product(x, linear(gradient, back, None))
}

fn check_arguments(x: &Tensor<3>, weight: &Tensor<2>, bias: Option<&Tensor<1>>) {
    const NAME: &str = "linear";
    let (dims, weight_dims) = (x.dims(), weight.dims());
    let expected = [dims[2], weight_dims[1]];
    check::shape(NAME, ("weight", &weight_dims), &expected, ("x", &dims));
    check::same_dtype(NAME, &[("x", x.dtype()), ("weight", weight.dtype())]);
    if let Some(bias) = bias {
        let expected = [weight_dims[1]];
        check::shape(
            NAME,
            ("bias", &bias.dims()),
            &expected,
            ("weight", &weight_dims),
        );
        check::same_dtype(NAME, &[("x", x.dtype()), ("bias", bias.dtype())]);
    }
}

#[cfg(feature = "cpu")]
fn is_supported(x: &Tensor<3>, weight: &Tensor<2>, bias: Option<&Tensor<1>>) -> bool {
    let [batch, seq, inputs] = x.dims();
    batch * seq * inputs * weight.dims()[1] > 0
        && is_flex_f32_or_bf16(x)
        && is_flex_constant(weight)
        && bias.is_none_or(is_flex_constant)
}

#[cfg(feature = "cpu")]
mod kernel {
    use burn::backend::TensorMetadata;
    use burn::prelude::*;
    use burn::tensor::{DType, bf16};

    use super::few_rows::{self, FEW_ROWS};
    use super::many_rows::{self, InPanels};
    use super::native;
    use crate::kernels::cast::kernel::convert;
    use crate::kernels::dispatch::{Differentiable, Kernel};
    use crate::kernels::flex::{FlexTensor, tensor, values};
    use crate::kernels::inner_product::kernel::scaled;
    use crate::kernels::matrix::{Matrix, with_positive_strides};
    use crate::kernels::stored::with_stored;
    use crate::kernels::tiles::Instructions;

    /// `x · weight`, or `x · weight + bias`.
    #[derive(Clone, Debug)]
    pub(super) struct Linear;

    impl Kernel<2> for Linear {
        fn forward(&self, [x, weight]: [FlexTensor; 2]) -> FlexTensor {
            multiply(x, weight, None)
        }
    }

    impl Differentiable<2> for Linear {
        /// The weight.
        type Saved = FlexTensor;

        fn forward_saving(&self, [x, weight]: [FlexTensor; 2]) -> (FlexTensor, FlexTensor) {
            (multiply(x, weight.clone(), None), weight)
        }

        fn backward(&self, weight: FlexTensor, gradient: FlexTensor) -> [Option<FlexTensor>; 2] {
            [Some(multiply(gradient, weight.transpose(0, 1), None)), None]
        }
    }

    impl Kernel<3> for Linear {
        fn forward(&self, [x, weight, bias]: [FlexTensor; 3]) -> FlexTensor {
            multiply(x, weight, Some(bias))
        }
    }

    impl Differentiable<3> for Linear {
        /// The weight.
        type Saved = FlexTensor;

        fn forward_saving(&self, [x, weight, bias]: [FlexTensor; 3]) -> (FlexTensor, FlexTensor) {
            (multiply(x, weight.clone(), Some(bias)), weight)
        }

        fn backward(&self, weight: FlexTensor, gradient: FlexTensor) -> [Option<FlexTensor>; 3] {
            let [gradient, _] = Differentiable::<2>::backward(self, weight, gradient);
            [gradient, None, None]
        }
    }

    /// The number that a backward pass through `x · weight` starts from, of `x`, the gradient of the product and the transposed weight.
    #[derive(Clone, Debug)]
    pub(super) struct Start;

    impl Kernel<3> for Start {
        fn forward(&self, _: [FlexTensor; 3]) -> FlexTensor {
            tensor(vec![0f32], Shape::new([1]))
        }
    }

    impl Differentiable<3> for Start {
        /// The gradient of the product and the transposed weight.
        type Saved = [FlexTensor; 2];

        fn forward_saving(
            &self,
            [x, gradient, back]: [FlexTensor; 3],
        ) -> (FlexTensor, [FlexTensor; 2]) {
            let saved = [gradient.clone(), back.clone()];
            (self.forward([x, gradient, back]), saved)
        }

        fn backward(
            &self,
            [gradient, back]: [FlexTensor; 2],
            factor: FlexTensor,
        ) -> [Option<FlexTensor>; 3] {
            let of_x = multiply(scaled(gradient, &factor), back, None);
            [Some(of_x), None, None]
        }
    }

    /// All are f32 or all are bf16; sums are f32.
    fn multiply(x: FlexTensor, weight: FlexTensor, bias: Option<FlexTensor>) -> FlexTensor {
        let (dtype, mut shape) = (x.dtype(), x.shape().to_vec());
        shape.pop();
        shape.push(weight.shape()[1]);
        let rows: usize = shape[..shape.len() - 1].iter().product();
        let x = x.to_contiguous();
        let bias = bias.map(|bias| convert(bias.to_contiguous(), DType::F32));
        let weight = with_positive_strides(weight);
        if dtype == DType::BF16
            && rows > FEW_ROWS
            && let Some(instructions) = Instructions::best()
        {
            let bias = bias.as_ref().map(values);
            let weight = Matrix::<bf16>::new(&weight);
            let output = native::multiply(instructions, values(&x), weight, bias);
            return tensor(output, Shape::from(shape));
        }
        let x = convert(x, DType::F32);
        let output = with_stored!(weight, T => {
            multiply_rows(values(&x), Matrix::<T>::new(&weight), bias.as_ref().map(values))
        });
        convert(tensor(output, Shape::from(shape)), dtype)
    }

    fn multiply_rows<T: InPanels>(x: &[f32], weight: Matrix<T>, bias: Option<&[f32]>) -> Vec<f32> {
        let rows = x.len() / weight.inputs;
        if rows <= T::FEW_ROWS && weight.strides.contains(&1) {
            few_rows::multiply(x, weight, bias)
        } else {
            many_rows::multiply(x, weight, bias)
        }
    }
}
