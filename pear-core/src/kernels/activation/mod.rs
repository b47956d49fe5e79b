//! The nonlinearities of an MLP, plain and gated.

#[cfg(feature = "cpu")]
mod functions;

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_PI};

use burn::prelude::*;
use burn::tensor::{DType, activation};
use serde::{Deserialize, Serialize};

use super::cast::cast;
use super::check;
#[cfg(feature = "cpu")]
use super::{dispatch::run_differentiable, flex::is_flex_f32};

/// The nonlinearity of an MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Activation {
    /// `x · sigmoid(x)`.
    Silu,
    /// With the error function.
    Gelu,
    /// With the tanh approximation (`gelu_new`, `gelu_pytorch_tanh`, BLOOM's own).
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
    /// `max(x, 0)²` (`relu2`).
    ReluSquared,
}

/// `act(x)`, of any shape. Half precision is computed in f32 and rounded once.
pub fn activate<const D: usize>(kind: Activation, x: Tensor<D>) -> Tensor<D> {
    let dtype = x.dtype();
    if is_half(dtype) {
        return cast(activate(kind, cast(x, DType::F32)), dtype);
    }
    #[cfg(feature = "cpu")]
    if is_flex_f32(&x) {
        return run_differentiable(kernel::Activate { kind }, [x.into_dispatch()]);
    }
    activate_composed(kind, x)
}

/// `act(gate) · up`, both of the same shape and type. Half precision is computed in f32 and rounded
/// once.
///
/// # Panics
/// If the shapes or types differ.
pub fn activate_gated<const D: usize>(
    kind: Activation,
    gate: Tensor<D>,
    up: Tensor<D>,
) -> Tensor<D> {
    const NAME: &str = "activate_gated";
    let dims = gate.dims();
    check::shape(NAME, ("up", &up.dims()), &dims, ("gate", &dims));
    check::same_dtype(NAME, &[("gate", gate.dtype()), ("up", up.dtype())]);
    let dtype = gate.dtype();
    if is_half(dtype) {
        let (gate, up) = (cast(gate, DType::F32), cast(up, DType::F32));
        return cast(activate_gated(kind, gate, up), dtype);
    }
    #[cfg(feature = "cpu")]
    if is_flex_f32(&gate) && is_flex_f32(&up) {
        let inputs = [gate.into_dispatch(), up.into_dispatch()];
        return run_differentiable(kernel::ActivateGated { kind }, inputs);
    }
    activate_composed(kind, gate) * up
}

fn is_half(dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::BF16)
}

fn activate_composed<const D: usize>(kind: Activation, x: Tensor<D>) -> Tensor<D> {
    match kind {
        Activation::Silu => x.clone() * activation::sigmoid(x),
        // Not burn's own: its gradient is that of the form with tanh.
        Activation::Gelu => x.clone() * 0.5 * ((x * FRAC_1_SQRT_2).erf() + 1.0),
        Activation::GeluTanh => {
            // (1 + tanh(u)) / 2 = sigmoid(2u), and one sigmoid is cheaper than a tanh.
            let cubic = x.clone().square() * x.clone() * 0.044715 + x.clone();
            x * activation::sigmoid(cubic * (2.0 * FRAC_2_PI.sqrt()))
        }
        Activation::Relu => activation::relu(x),
        Activation::ReluSquared => activation::relu(x).square(),
    }
}

#[cfg(feature = "cpu")]
mod kernel {
    use burn::backend::TensorMetadata;
    use rayon::prelude::*;

    use super::Activation;
    use super::functions::{Function, with_function};
    use crate::kernels::buffer::filled;
    use crate::kernels::dispatch::{Differentiable, Kernel};
    use crate::kernels::flex::{FlexTensor, tensor, values, values_mut};
    use crate::kernels::loops::{BLOCK, in_blocks, vectorised};

    #[derive(Clone, Debug)]
    pub(super) struct Activate {
        pub kind: Activation,
    }

    impl Kernel<1> for Activate {
        fn forward(&self, [x]: [FlexTensor; 1]) -> FlexTensor {
            with_function!(self.kind, F => map(x, F::value))
        }
    }

    impl Differentiable<1> for Activate {
        type Saved = FlexTensor;

        fn forward_saving(&self, [x]: [FlexTensor; 1]) -> (FlexTensor, FlexTensor) {
            (self.forward([x.clone()]), x)
        }

        fn backward(&self, x: FlexTensor, gradient: FlexTensor) -> [Option<FlexTensor>; 1] {
            let gradient = with_function!(self.kind, F => {
                zip(gradient, x, #[inline(always)] |gradient, x| gradient * F::value_and_slope(x).1)
            });
            [Some(gradient)]
        }
    }

    #[derive(Clone, Debug)]
    pub(super) struct ActivateGated {
        pub kind: Activation,
    }

    impl Kernel<2> for ActivateGated {
        fn forward(&self, [gate, up]: [FlexTensor; 2]) -> FlexTensor {
            with_function!(self.kind, F => {
                zip(gate, up, #[inline(always)] |gate, up| F::value(gate) * up)
            })
        }
    }

    impl Differentiable<2> for ActivateGated {
        type Saved = [FlexTensor; 2];

        fn forward_saving(&self, inputs: [FlexTensor; 2]) -> (FlexTensor, [FlexTensor; 2]) {
            (self.forward(inputs.clone()), inputs)
        }

        fn backward(
            &self,
            [gate, up]: [FlexTensor; 2],
            gradient: FlexTensor,
        ) -> [Option<FlexTensor>; 2] {
            let gradient = gradient.to_contiguous();
            let (mut gate, mut up) = (gate.into_data(), up.into_data());
            let blocks = values_mut(&mut gate)
                .par_chunks_mut(BLOCK)
                .zip(values_mut(&mut up).par_chunks_mut(BLOCK))
                .zip(values::<f32>(&gradient).par_chunks(BLOCK));
            with_function!(self.kind, F => blocks.for_each(|((gate, up), gradient)| {
                vectorised(#[inline(always)] || gated_gradients::<F>(gate, up, gradient))
            }));
            [gate, up].map(|gradient| Some(FlexTensor::from_data(gradient)))
        }
    }

    /// Turns the inputs into their gradients.
    #[inline(always)]
    fn gated_gradients<F: Function>(gate: &mut [f32], up: &mut [f32], gradient: &[f32]) {
        for ((gate, up), &gradient) in gate.iter_mut().zip(up.iter_mut()).zip(gradient) {
            let (value, slope) = F::value_and_slope(*gate);
            (*gate, *up) = (gradient * *up * slope, gradient * value);
        }
    }

    /// `f(x)`, in place if `x` is not shared.
    fn map(x: FlexTensor, f: impl Fn(f32) -> f32 + Sync) -> FlexTensor {
        let mut x = x.into_data();
        in_blocks(
            values_mut(&mut x),
            1,
            #[inline(always)]
            |_, x| x.iter_mut().for_each(|x| *x = f(*x)),
        );
        FlexTensor::from_data(x)
    }

    /// `f(a, b)` of tensors of the same shape, in place if `a` is not shared.
    fn zip(a: FlexTensor, b: FlexTensor, f: impl Fn(f32, f32) -> f32 + Sync) -> FlexTensor {
        let b = b.to_contiguous();
        let b = values::<f32>(&b);
        if a.is_unique() {
            let mut a = a.into_data();
            in_blocks(
                values_mut(&mut a),
                1,
                #[inline(always)]
                |first, a| {
                    a.iter_mut()
                        .zip(&b[first..])
                        .for_each(|(a, &b)| *a = f(*a, b));
                },
            );
            return FlexTensor::from_data(a);
        }
        let (shape, a) = (a.shape(), a.to_contiguous());
        let a = values::<f32>(&a);
        let output = filled(
            a.len(),
            1,
            #[inline(always)]
            |range, out| {
                let pairs = a[range.clone()].iter().zip(&b[range]);
                out.extend(pairs.map(|(&a, &b)| f(a, b)));
            },
        );
        tensor(output, shape)
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::super::testing::{assert_rejected, check, random, seed};
    use super::*;

    const KINDS: [Activation; 5] = [
        Activation::Silu,
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::Relu,
        Activation::ReluSquared,
    ];

    #[test]
    fn values_and_gradients_are_those_of_the_composed_operations() {
        seed(1);
        // More than a block, and not a whole number of vectors.
        let (x, up) = (random([3, 5, 999]), random([3, 5, 999]));
        for kind in KINDS {
            check(
                x.clone(),
                |x| activate(kind, x),
                |x| activate_composed(kind, x),
            );
            check(
                x.clone(),
                |x| activate_gated(kind, x, up.clone()),
                |x| activate_composed(kind, x) * up.clone(),
            );
            check(
                up.clone(),
                |up| activate_gated(kind, x.clone(), up),
                |up| activate_composed(kind, x.clone()) * up,
            );
        }
    }

    #[test]
    fn a_shared_tensor_is_not_changed() {
        let x = random([4, 8]);
        let before = x.clone().into_data();
        let _ = activate(Activation::Silu, x.clone());
        let _ = activate_gated(Activation::Silu, x.clone(), x.clone());
        assert_eq!(x.into_data(), before);
    }

    #[test]
    fn nothing_is_activated_where_there_is_nothing() {
        let empty = || Tensor::<3>::empty([2, 0, 5], &Device::flex());
        assert_eq!(activate(Activation::Silu, empty()).dims(), [2, 0, 5]);
        let gated = activate_gated(Activation::Silu, empty(), empty());
        assert_eq!(gated.dims(), [2, 0, 5]);
    }

    #[test]
    fn a_gate_of_another_shape_is_rejected() {
        let gate = [2, 3, 8];
        for up in [
            [2, 3, 7],
            [2, 3, 9],
            [2, 3, 1],
            [1, 3, 8],
            [2, 1, 8],
            [3, 2, 8],
        ] {
            let message = format!(
                "activate_gated: `up` must have shape {gate:?} where `gate` has shape {gate:?}, but has {up:?}"
            );
            assert_rejected(&message, |new| {
                activate_gated(Activation::Silu, new.ones(gate), new.ones(up))
            });
        }
    }

    #[test]
    #[should_panic = "activate_gated: `up` must have the type of `gate`, BF16, but has F32"]
    fn a_gate_of_another_type_is_rejected() {
        let gate = random([2, 8]).cast(DType::BF16);
        activate_gated(Activation::Silu, gate, random([2, 8]));
    }
}
