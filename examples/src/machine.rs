//! What this machine can do, measured in a moment.

use std::time::Instant;

use burn::prelude::*;
use burn::tensor::{DType, Distribution};

/// Sizes of the product by which the machine's speed is measured.
const SPEED: [usize; 3] = [256, 1024, 1024];

/// Share of that speed that a model reaches, with its attention, norms and products of odd sizes.
pub const EFFICIENCY: f64 = 0.5;

/// Operations a second of a matrix product.
pub fn speed(device: &Device, dtype: DType) -> f64 {
    let [m, k, n] = SPEED;
    let random = |shape: [usize; 2]| {
        Tensor::<2>::random(shape, Distribution::Normal(0.0, 1.0), device).cast(dtype)
    };
    let (a, b) = (random([m, k]), random([k, n]));
    let run = || {
        let since = Instant::now();
        // Reading the sum waits for the device.
        let _ = a.clone().matmul(b.clone()).sum().into_data();
        since.elapsed().as_secs_f64()
    };
    // The first ones warm up.
    let fastest = (0..5).map(|_| run()).fold(f64::INFINITY, f64::min);
    2.0 * (m * k * n) as f64 / fastest.max(1e-9)
}
