//! Functions of one number, written so that loops over them become vector instructions.

/// Within 2 units in the last place; what would underflow gives the smallest normal number.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2²³: adding it leaves an integer in the lowest bits.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.336_54, 88.376_26);
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let power = shifted - ROUND;
    let r = power.mul_add(-LN_2_LOW, power.mul_add(-LN_2_HIGH, x));
    let mut series = 1.987_569_1e-4_f32;
    for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_58e-2, 0.166_666_66, 0.5] {
        series = series.mul_add(r, coefficient);
    }
    let series = series.mul_add(r * r, r) + 1.0;
    series
        * f32::from_bits(
            shifted
                .to_bits()
                .wrapping_sub(ROUND.to_bits())
                .wrapping_add(127)
                << 23,
        )
}

/// The error function, as a rational function of `x` between −4 and 4.
#[inline(always)]
fn erf(x: f32) -> f32 {
    let x = x.clamp(-4.0, 4.0);
    let square = x * x;
    let mut above = -2.726_142_3e-10_f32;
    for c in [
        2.770_681_4e-8,
        -2.101_024e-6,
        -5.692_506_5e-5,
        -7.349_906e-4,
        -2.954_6e-3,
        -1.609_603_3e-2,
    ] {
        above = above.mul_add(square, c);
    }
    let mut below = -1.456_607_2e-5_f32;
    for c in [-2.133_740_6e-4, -1.682_827e-3, -7.373_329e-3, -1.426_474e-2] {
        below = below.mul_add(square, c);
    }
    x * above / below
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// An [`Activation`](super::Activation) that loops can be compiled for.
pub(super) trait Function {
    fn value(x: f32) -> f32;
    /// With the derivative.
    fn value_and_slope(x: f32) -> (f32, f32);
}

pub(super) struct Silu;
pub(super) struct Gelu;
pub(super) struct GeluTanh;
pub(super) struct Relu;

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

/// Runs `$body` with `$function` standing for the [`Function`] of an [`Activation`].
macro_rules! with_function {
    ($kind:expr, $function:ident => $body:expr) => {
        match $kind {
            Activation::Silu => {
                type $function = $crate::kernels::math::Silu;
                $body
            }
            Activation::Gelu => {
                type $function = $crate::kernels::math::Gelu;
                $body
            }
            Activation::GeluTanh => {
                type $function = $crate::kernels::math::GeluTanh;
                $body
            }
            Activation::Relu => {
                type $function = $crate::kernels::math::Relu;
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
    fn the_exponential_is_within_two_units_in_the_last_place() {
        for i in -870_000..=880_000 {
            let x = i as f32 * 1e-4;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 2.4e-7, "exp({x}) is off by {error:e}");
        }
    }

    #[test]
    fn slopes_are_those_of_the_values() {
        for kind in [
            Activation::Silu,
            Activation::Gelu,
            Activation::GeluTanh,
            Activation::Relu,
        ] {
            for i in -60..60 {
                let x = i as f32 * 0.1 + 0.05;
                let (value, slope, difference) = with_function!(kind, F => {
                    let (value, slope) = F::value_and_slope(x);
                    (value - F::value(x), slope, (F::value(x + 0.01) - F::value(x - 0.01)) / 0.02)
                });
                assert!(
                    value.abs() < 1e-6 && (slope - difference).abs() < 2e-4,
                    "{kind:?} at {x}: {slope}, {difference}"
                );
            }
        }
    }
}
