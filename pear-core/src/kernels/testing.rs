//! What the tests of the operations share.

use std::cell::RefCell;
use std::f64::consts::TAU;
use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::prelude::*;
use burn::tensor::DType;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

thread_local! {
    /// Each test draws its own numbers: burn's generator is shared by all threads of a process.
    static GENERATOR: RefCell<ChaCha8Rng> = RefCell::new(ChaCha8Rng::seed_from_u64(0));
}

/// Lets this test draw the same numbers in every run.
pub(super) fn seed(seed: u64) {
    GENERATOR.set(ChaCha8Rng::seed_from_u64(seed));
}

/// Normal numbers with a standard deviation of 2.
pub(super) fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    let count = shape.iter().product();
    let values: Vec<f32> = GENERATOR.with_borrow_mut(|generator| {
        let mut uniform = || ((generator.next_u64() >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        // Box and Muller's transformation.
        let mut normal = || (-2.0 * uniform().ln()).sqrt() * (TAU * uniform()).cos();
        (0..count).map(|_| (2.0 * normal()) as f32).collect()
    });
    Tensor::from_data(TensorData::new(values, shape), &Device::flex())
}

/// The largest difference, relative to the largest number.
pub(super) fn distance<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> f32 {
    let largest: f32 = b.clone().abs().max().into_scalar();
    (a - b).abs().max().into_scalar::<f32>() / largest
}

/// Compares values, and gradients for one random gradient of the output.
pub(super) fn check<const D: usize, const O: usize>(
    x: Tensor<D>,
    fast: impl Fn(Tensor<D>) -> Tensor<O>,
    composed: impl Fn(Tensor<D>) -> Tensor<O>,
) {
    let expected = composed(x.clone());
    let weights = random(expected.dims());
    assert!(distance(fast(x.clone()), expected) < 2e-6);
    let gradient = |f: &dyn Fn(Tensor<D>) -> Tensor<O>| {
        let x = x.clone().autodiff().require_grad();
        let gradients = (f(x.clone() * 1.0) * weights.clone()).sum().backward();
        x.grad(&gradients).expect("a gradient")
    };
    assert!(distance(gradient(&fast), gradient(&composed)) < 5e-6);
}

/// As [`check`], in bf16: equal but for the last of its 8 bits where a sum was taken in another
/// order, or a gradient rounded less often.
pub(super) fn check_bf16<const D: usize>(
    x: Tensor<D>,
    fast: impl Fn(Tensor<D>) -> Tensor<D>,
    composed: impl Fn(Tensor<D>) -> Tensor<D>,
) {
    let x = x.cast(DType::BF16);
    let weights = random(x.dims());
    let outcome = |f: &dyn Fn(Tensor<D>) -> Tensor<D>| {
        let x = x.clone().autodiff().require_grad();
        let output = f(x.clone());
        assert_eq!(output.dtype(), DType::BF16);
        let value = output.clone().inner().cast(DType::F32);
        let gradients = (output.cast(DType::F32) * weights.clone()).sum().backward();
        let gradient = x.grad(&gradients).expect("a gradient");
        assert_eq!(gradient.dtype(), DType::BF16);
        (value, gradient.cast(DType::F32))
    };
    let (value, gradient) = outcome(&fast);
    let (expected, expected_gradient) = outcome(&composed);
    let differs = (value.clone() - expected.clone()).abs().greater_elem(0.0);
    let different = differs.int().sum().into_scalar::<i64>() as usize;
    assert!(
        different * 500 <= x.dims().iter().product(),
        "{different} numbers differ"
    );
    assert!(distance(value, expected) < 4e-3);
    assert!(distance(gradient, expected_gradient) < 1e-2);
}

/// The message with which `f` panics.
pub(super) fn panic_message<R>(f: impl FnOnce() -> R) -> String {
    let Err(payload) = catch_unwind(AssertUnwindSafe(f)) else {
        panic!("this should have panicked");
    };
    match payload.downcast::<String>() {
        Ok(message) => *message,
        Err(payload) => payload.downcast::<&str>().expect("a message").to_string(),
    }
}

/// A device and a type in which an operation is called.
pub(super) struct Setting {
    device: Device,
    dtype: DType,
}

impl Setting {
    pub(super) fn ones<const D: usize>(&self, shape: [usize; D]) -> Tensor<D> {
        Tensor::ones(shape, (&self.device, self.dtype))
    }
}

/// Checks that a call panics with this message, as a kernel and composed, plain and under autodiff.
pub(super) fn assert_rejected<R>(message: &str, call: impl Fn(&Setting) -> R) {
    for dtype in [DType::F32, DType::F64] {
        for device in [Device::flex(), Device::flex().autodiff()] {
            assert_eq!(panic_message(|| call(&Setting { device, dtype })), message);
        }
    }
}
