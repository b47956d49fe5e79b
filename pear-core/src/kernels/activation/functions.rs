//! The activations as functions of one number.

use crate::kernels::math::{erf, exp, sigmoid};

/// An [`Activation`] that loops can be compiled for.
pub(super) trait Function {
    fn value(x: f32) -> f32;

    /// The value and the derivative.
    fn value_and_slope(x: f32) -> (f32, f32);
}

pub(super) struct Silu;
pub(super) struct Gelu;
pub(super) struct GeluTanh;
pub(super) struct Relu;
pub(super) struct ReluSquared;

impl Function for Silu {
    #[inline(always)]
    fn value(x: f32) -> f32 {
        x * sigmoid(x)
    }

    #[inline(always)]
    fn value_and_slope(x: f32) -> (f32, f32) {
        let s = sigmoid(x);
        (x * s, (x * (1.0 - s)).mul_add(s, s))
    }
}

impl Function for Gelu {
    #[inline(always)]
    fn value(x: f32) -> f32 {
        0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
    }

    #[inline(always)]
    fn value_and_slope(x: f32) -> (f32, f32) {
        const DENSITY: f32 = 0.398_942_3; // 1 / √(2π)
        let below = 0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2));
        (x * below, (x * DENSITY).mul_add(exp(-0.5 * x * x), below))
    }
}

impl Function for GeluTanh {
    #[inline(always)]
    fn value(x: f32) -> f32 {
        x * sigmoid(GeluTanh::twice(x))
    }

    #[inline(always)]
    fn value_and_slope(x: f32) -> (f32, f32) {
        let s = sigmoid(GeluTanh::twice(x));
        let slope = GeluTanh::SCALE * (3.0 * GeluTanh::CUBIC * x).mul_add(x, 1.0);
        (x * s, (x * (1.0 - s) * slope).mul_add(s, s))
    }
}

impl GeluTanh {
    const SCALE: f32 = 1.595_769; // 2 √(2/π)
    const CUBIC: f32 = 0.044_715;

    /// `(1 + tanh u) / 2 = sigmoid(2u)`; this is `2u`.
    #[inline(always)]
    fn twice(x: f32) -> f32 {
        Self::SCALE * x * (Self::CUBIC * x).mul_add(x, 1.0)
    }
}

impl Function for Relu {
    #[inline(always)]
    fn value(x: f32) -> f32 {
        x.max(0.0)
    }

    #[inline(always)]
    fn value_and_slope(x: f32) -> (f32, f32) {
        (x.max(0.0), if x > 0.0 { 1.0 } else { 0.0 })
    }
}

impl Function for ReluSquared {
    #[inline(always)]
    fn value(x: f32) -> f32 {
        x.max(0.0) * x.max(0.0)
    }

    #[inline(always)]
    fn value_and_slope(x: f32) -> (f32, f32) {
        let positive = x.max(0.0);
        (positive * positive, 2.0 * positive)
    }
}

/// Runs `$body` with `$F` standing for the [`Function`] of an [`Activation`](super::Activation).
macro_rules! with_function {
    ($kind:expr, $F:ident => $body:expr) => {
        match $kind {
            $crate::kernels::Activation::Silu => {
                type $F = $crate::kernels::activation::functions::Silu;
                $body
            }
            $crate::kernels::Activation::Gelu => {
                type $F = $crate::kernels::activation::functions::Gelu;
                $body
            }
            $crate::kernels::Activation::GeluTanh => {
                type $F = $crate::kernels::activation::functions::GeluTanh;
                $body
            }
            $crate::kernels::Activation::Relu => {
                type $F = $crate::kernels::activation::functions::Relu;
                $body
            }
            $crate::kernels::Activation::ReluSquared => {
                type $F = $crate::kernels::activation::functions::ReluSquared;
                $body
            }
        }
    };
}
pub(super) use with_function;

#[cfg(test)]
mod tests {
    use super::super::Activation;
    use super::*;

    #[test]
    fn slopes_are_the_derivatives_of_the_values() {
        for kind in [
            Activation::Silu,
            Activation::Gelu,
            Activation::GeluTanh,
            Activation::Relu,
            Activation::ReluSquared,
        ] {
            for i in -60..60 {
                let x = i as f32 * 0.1 + 0.05;
                let (value, slope, difference) = with_function!(kind, F => {
                    let (value, slope) = F::value_and_slope(x);
                    (value - F::value(x), slope, (F::value(x + 0.01) - F::value(x - 0.01)) / 0.02)
                });
                assert!(
                    value.abs() < 1e-6 && (slope - difference).abs() < 2e-4 * slope.abs().max(1.0),
                    "{kind:?} at {x}: {slope}, {difference}"
                );
            }
        }
    }
}
