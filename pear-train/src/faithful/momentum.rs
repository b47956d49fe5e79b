//! Gradient descent with momentum, and the mean of its last iterates.

use serde::{Deserialize, Serialize};

/// Share of the old momentum that is kept at each step.
const DECAY: f64 = 0.8;

/// The optimizer of whitened coordinates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Momentum {
    pub theta: Vec<f64>,
    mean: Vec<f64>,
    steps: i32,
    /// Sum of the iterates of this stage that its result is the mean of, and how many there were.
    sum: Vec<f64>,
    summed: usize,
}

impl Momentum {
    pub(super) fn new(len: usize) -> Self {
        Self {
            theta: vec![0.0; len],
            mean: vec![0.0; len],
            steps: 0,
            sum: vec![0.0; len],
            summed: 0,
        }
    }

    /// Whether it can have come to this for `len` coordinates.
    pub(super) fn fits(&self, len: usize, steps: usize, summed: usize) -> bool {
        let whole = |numbers: &[f64]| numbers.len() == len && numbers.iter().all(|x| x.is_finite());
        whole(&self.theta)
            && whole(&self.mean)
            && whole(&self.sum)
            && i32::try_from(steps) == Ok(self.steps)
            && self.summed == summed
    }

    /// A step down a gradient, no longer than `longest`. Returns its length.
    pub(super) fn step(&mut self, gradient: &[f64], rate: f64, longest: f64) -> f64 {
        self.steps += 1;
        for (mean, gradient) in self.mean.iter_mut().zip(gradient) {
            *mean = DECAY * *mean + (1.0 - DECAY) * gradient;
        }
        // The mean starts at 0.
        let rate = rate / (1.0 - DECAY.powi(self.steps));
        let length = rate * norm(&self.mean);
        let cut = if length > longest {
            longest / length
        } else {
            1.0
        };
        for (theta, mean) in self.theta.iter_mut().zip(&self.mean) {
            *theta -= cut * rate * mean;
        }
        length.min(longest)
    }

    /// Takes the iterate into the mean.
    pub(super) fn include(&mut self) {
        self.summed += 1;
        for (sum, theta) in self.sum.iter_mut().zip(&self.theta) {
            *sum += theta;
        }
    }

    /// The mean of the iterates taken in, which are forgotten. The iterate itself stays.
    pub(super) fn take_mean(&mut self) -> Vec<f64> {
        let count = self.summed.max(1) as f64;
        self.summed = 0;
        let len = self.sum.len();
        let sum = std::mem::replace(&mut self.sum, vec![0.0; len]);
        sum.into_iter().map(|x| x / count).collect()
    }
}

pub(super) fn norm(numbers: &[f64]) -> f64 {
    numbers.iter().map(|x| x * x).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_step_is_the_gradient_and_long_ones_are_cut() {
        let mut momentum = Momentum::new(2);
        assert!((momentum.step(&[3.0, 4.0], 0.01, 1.0) - 0.05).abs() < 1e-12);
        assert!((momentum.theta[0] + 0.03).abs() < 1e-12);
        let mut cut = Momentum::new(2);
        assert_eq!(cut.step(&[3.0, 4.0], 1.0, 0.5), 0.5);
        assert!((cut.theta[1] + 0.4).abs() < 1e-12);
    }

    #[test]
    fn the_mean_is_of_the_iterates_taken_in() {
        let mut momentum = Momentum::new(1);
        let mut iterates = Vec::new();
        for step in 0..4 {
            momentum.step(&[1.0], 0.1, 1.0);
            if step >= 2 {
                momentum.include();
                iterates.push(momentum.theta[0]);
            }
        }
        let theta = momentum.theta.clone();
        assert_eq!(momentum.take_mean(), [(iterates[0] + iterates[1]) / 2.0]);
        assert_eq!(momentum.theta, theta);
        assert_eq!(momentum.take_mean(), [0.0]);
    }
}
