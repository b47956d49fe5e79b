//! AdamW on a handful of numbers, as PyTorch defines it, with a state that is saved and restored bit for bit.

use serde::{Deserialize, Serialize};

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPSILON: f64 = 1e-8;

/// AdamW ([arXiv 1711.05101](https://arxiv.org/abs/1711.05101)) with betas 0.9 and 0.999 and epsilon 1e-8.
///
/// Weight decay, if any, pulls towards 1, where a coefficient does nothing, and not towards 0, where it removes its head.
///
/// The price `sparsity · Σ|value − 1|` is not differentiated, which would leave values about 1 and never on it, but paid in a proximal
/// step afterwards: each value goes towards 1 by `sparsity` times the length of a step along a gradient of 1, and stays on 1 where it
/// would pass it. That length is the optimizer's own, different for each value ([arXiv 2007.14780](https://arxiv.org/abs/2007.14780)),
/// so that a value rests where the gradient equals the price, and on exactly 1 where the gradient there is smaller.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct AdamW {
    steps: i32,
    mean: Vec<f64>,
    square: Vec<f64>,
}

impl AdamW {
    pub(crate) fn new(len: usize) -> Self {
        Self {
            steps: 0,
            mean: vec![0.0; len],
            square: vec![0.0; len],
        }
    }

    /// Whether it can have kept account of `len` numbers for so many steps.
    pub(crate) fn fits(&self, len: usize, steps: usize) -> bool {
        let whole = |values: &[f64], least: f64| {
            values.len() == len && values.iter().all(|v| v.is_finite() && *v >= least)
        };
        i32::try_from(steps) == Ok(self.steps)
            && whole(&self.mean, f64::MIN)
            && whole(&self.square, 0.0)
    }

    pub(crate) fn step(
        &mut self,
        values: &mut [f64],
        gradients: &[f64],
        rate: f64,
        weight_decay: f64,
        sparsity: f64,
    ) {
        self.steps += 1;
        let (correct1, correct2) = (
            1.0 - BETA1.powi(self.steps),
            (1.0 - BETA2.powi(self.steps)).sqrt(),
        );
        for (i, (value, &gradient)) in values.iter_mut().zip(gradients).enumerate() {
            let (mean, square) = (&mut self.mean[i], &mut self.square[i]);
            *mean += (gradient - *mean) * (1.0 - BETA1);
            *square = *square * BETA2 + gradient * gradient * (1.0 - BETA2);
            *value += (1.0 - *value) * rate * weight_decay;
            let scale = square.sqrt() / correct2 + EPSILON;
            *value -= rate / correct1 * *mean / scale;
            if sparsity > 0.0 {
                *value = shrunk(*value, sparsity * rate / scale);
            }
        }
    }
}

/// `value`, nearer to 1 by `by`; exactly 1 if it is no further away.
fn shrunk(value: f64, by: f64) -> f64 {
    let from_one = value - 1.0;
    if from_one.abs() <= by {
        1.0
    } else {
        value - by.copysign(from_one)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_steps_are_those_of_torch() {
        // torch.optim.AdamW([p], lr=0.1, weight_decay=0), p = 1, gradients 0.5, -2.0, 0.25.
        let (mut adam, mut value) = (AdamW::new(1), [1.0]);
        for (gradient, expected) in [(0.5, 0.900000002), (-2.0, 0.955950351), (0.25, 0.991190828)] {
            adam.step(&mut value, &[gradient], 0.1, 0.0, 0.0);
            assert!(
                (value[0] - expected).abs() < 1e-8,
                "{value:?}, expected {expected}"
            );
        }
    }

    #[test]
    fn a_rate_of_zero_moves_nothing_but_counts() {
        let (mut adam, mut value) = (AdamW::new(1), [1.0]);
        adam.step(&mut value, &[3.0], 0.0, 0.0, 0.0);
        assert_eq!(value, [1.0]);
        assert_eq!((adam.steps, adam.mean[0]), (1, 3.0 * (1.0 - BETA1)));
    }

    #[test]
    fn decay_pulls_towards_one() {
        let (mut adam, mut values) = (AdamW::new(2), [0.0, 2.0]);
        adam.step(&mut values, &[0.0, 0.0], 0.1, 0.5, 0.0);
        assert_eq!(values, [0.05, 1.95]);
    }

    #[test]
    fn a_value_leaves_one_only_if_its_gradient_exceeds_the_price() {
        let (mut adam, mut values) = (AdamW::new(4), [1.0; 4]);
        let gradients = [0.19, -0.21, 0.21, 0.0];
        adam.step(&mut values, &gradients, 0.1, 0.0, 0.2);
        assert_eq!((values[0], values[3]), (1.0, 1.0));
        // A step of 0.1, and the price of 0.2 of a gradient of 0.21 back.
        let moved = 0.1 * (1.0 - 0.2 / 0.21);
        assert!((values[1] - (1.0 + moved)).abs() < 1e-6, "{values:?}");
        assert!((values[2] - (1.0 - moved)).abs() < 1e-6, "{values:?}");
    }

    #[test]
    fn values_rest_where_gradient_and_price_are_equal() {
        // ½ (v − target)², its minimum with the price where v is nearer to 1 by the price, or 1.
        let (targets, price) = ([0.2, 1.6, 0.9], 0.3);
        let (mut adam, mut values) = (AdamW::new(3), [1.0; 3]);
        for step in 0..4000 {
            let gradients: Vec<f64> = values.iter().zip(targets).map(|(v, t)| v - t).collect();
            let rate = 0.02 * (1.0 - f64::from(step) / 4000.0);
            adam.step(&mut values, &gradients, rate, 0.0, price);
        }
        assert!((values[0] - 0.5).abs() < 1e-3, "{values:?}");
        assert!((values[1] - 1.3).abs() < 1e-3, "{values:?}");
        assert_eq!(values[2], 1.0);
    }
}
