//! The normal distribution.

/// The number that a normal variable exceeds with probability `p`, `0 < p ≤ 0.5`, to 4.5e-4 (Abramowitz and Stegun, 26.2.23).
pub(crate) fn upper_quantile(p: f64) -> f64 {
    let t = (-2.0 * p.ln()).sqrt();
    t - (2.515517 + t * (0.802853 + t * 0.010328))
        / (1.0 + t * (1.432788 + t * (0.189269 + t * 0.001308)))
}

/// The same for Student's t with `degrees` of freedom, by the first term of the expansion of Cornish and Fisher.
pub(crate) fn upper_t_quantile(p: f64, degrees: f64) -> f64 {
    let z = upper_quantile(p);
    z + (z.powi(3) + z) / (4.0 * degrees)
}

/// The probability that a normal variable exceeds `z`, to a relative error of 1.2e-7 (Numerical Recipes, `erfcc`).
pub(crate) fn upper_tail(z: f64) -> f64 {
    const TERMS: [f64; 10] = [
        -1.26551223,
        1.00002368,
        0.37409196,
        0.09678418,
        -0.18628806,
        0.27886807,
        -1.13520398,
        1.48851587,
        -0.82215223,
        0.17087277,
    ];
    let x = z.abs() / std::f64::consts::SQRT_2;
    if x.is_infinite() {
        return if z > 0.0 { 0.0 } else { 1.0 };
    }
    let t = 1.0 / (1.0 + 0.5 * x);
    let exponent = TERMS.iter().rev().fold(0.0, |sum, term| sum * t + term);
    let tail = 0.5 * t * (exponent - x * x).exp();
    if z > 0.0 { tail } else { 1.0 - tail }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_the_normal_distribution() {
        for (p, z) in [
            (0.5, 0.0),
            (0.05, 1.644854),
            (0.025, 1.959964),
            (0.001, 3.090232),
            (0.05 / 1024.0, 3.8963),
        ] {
            assert!(
                (upper_quantile(p) - z).abs() < 5e-4,
                "{p}: {}",
                upper_quantile(p)
            );
        }
    }

    #[test]
    fn quantiles_of_students_distribution() {
        for (p, degrees, t) in [(0.025, 30.0, 2.0423), (0.001, 40.0, 3.3069)] {
            let found = upper_t_quantile(p, degrees);
            assert!((found - t).abs() < 0.02, "{p}, {degrees}: {found}");
        }
    }

    #[test]
    fn tails_of_the_normal_distribution() {
        for (z, p) in [
            (0.0, 0.5),
            (1.644854, 0.05),
            (-1.644854, 0.95),
            (5.0, 2.866516e-7),
            (10.0, 7.619853e-24),
            (f64::INFINITY, 0.0),
            (f64::NEG_INFINITY, 1.0),
        ] {
            assert!(
                (upper_tail(z) - p).abs() <= 2e-6 * p,
                "{z}: {}",
                upper_tail(z)
            );
        }
    }
}
