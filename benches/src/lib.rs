//! What the benches share: work counted, memory read, medians taken, the Python references called.

#[cfg(feature = "candle")]
pub mod candle;
pub mod shapes;

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use burn::module::{Module, ModuleMapper, Param};
use burn::prelude::*;
use burn::tensor::{DType, Distribution};
pub use pear_examples::flops::Flops;
use pear_models::{Decoder, DecoderSizes, DenseMlpConfig, LayerConfig, MlpConfig};

/// A decoder of about the size of GPT-2, and a vocabulary of the size of Llama's.
pub const SMALL: DecoderSizes = DecoderSizes {
    vocab_size: 32000,
    hidden_size: 768,
    intermediate_size: 2048,
    num_hidden_layers: 12,
    num_attention_heads: 12,
};

/// The MLP of a layer of the benches' models.
///
/// # Panics
/// If it is not dense.
pub fn dense(layer: &LayerConfig) -> DenseMlpConfig {
    match layer.mlp {
        MlpConfig::Dense(mlp) => mlp,
        other => panic!("expected a dense MLP, found {other:?}"),
    }
}

/// The model with its weights in another type.
pub fn in_dtype(model: Decoder, dtype: DType) -> Decoder {
    struct Cast(DType);

    impl ModuleMapper for Cast {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            Param::initialized(param.id, param.val().cast(self.0))
        }
    }

    model.map(&mut Cast(dtype))
}

/// The number after `name` at the start of a line of a script's output.
///
/// # Panics
/// If there is no such line.
pub fn number_in(output: &str, name: &str) -> f64 {
    let rest = output.lines().find_map(|line| {
        line.strip_prefix(name)?
            .split_whitespace()
            .next()?
            .parse()
            .ok()
    });
    rest.unwrap_or_else(|| panic!("no `{name}` in: {output}"))
}

/// Floating-point operations a second of matrix products of the sizes that a layer has, at their fastest, in f32.
pub fn matmul_rate(device: &Device, hidden: usize, inner: usize) -> f64 {
    matmul_rate_in(DType::F32, device, hidden, inner)
}

/// As [`matmul_rate`], in another type.
pub fn matmul_rate_in(dtype: DType, device: &Device, hidden: usize, inner: usize) -> f64 {
    let random =
        |shape| Tensor::<2>::random(shape, Distribution::Normal(0.0, 1.0), device).cast(dtype);
    let (x, w) = (random([2048, hidden]), random([hidden, inner]));
    let once = || {
        let start = Instant::now();
        let _: f32 = x
            .clone()
            .matmul(w.clone())
            .slice([0..1, 0..1])
            .into_scalar();
        start.elapsed().as_secs_f64()
    };
    once();
    2.0 * (2048 * hidden * inner) as f64 / fastest(9, once)
}

/// Bytes a second that all cores together read from memory, at their fastest: the floor of decoding, which reads every weight for every token.
pub fn read_rate() -> f64 {
    let numbers = vec![1.0f32; 1 << 28];
    let once = || {
        let start = Instant::now();
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let sum: f32 = std::thread::scope(|scope| {
            let parts = numbers.chunks(numbers.len() / threads);
            let sums: Vec<_> = parts.map(|part| scope.spawn(|| lanes(part))).collect();
            sums.into_iter().map(|sum| sum.join().expect("a sum")).sum()
        });
        assert!(sum > 0.0);
        start.elapsed().as_secs_f64()
    };
    4.0 * numbers.len() as f64 / fastest(9, once)
}

/// Bytes a second that a device reads and writes in the simplest operation there is, at their fastest.
pub fn device_memory_rate(device: &Device) -> f64 {
    let numbers = Tensor::<1>::ones([1 << 28], device);
    let once = || {
        let start = Instant::now();
        let _: f32 = (numbers.clone() + 1.0).narrow(0, 0, 1).into_scalar();
        start.elapsed().as_secs_f64()
    };
    once();
    8.0 * f64::from(1 << 28) / fastest(9, once)
}

fn fastest(times: usize, once: impl Fn() -> f64) -> f64 {
    (0..times).map(|_| once()).fold(f64::INFINITY, f64::min)
}

fn lanes(numbers: &[f32]) -> f32 {
    let mut lanes = [0f32; 64];
    numbers
        .as_chunks::<64>()
        .0
        .iter()
        .for_each(|chunk| lanes.iter_mut().zip(chunk).for_each(|(lane, x)| *lane += x));
    lanes.iter().sum()
}

/// The middle one.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Bytes as gigabytes.
pub fn gigabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}

/// What a script of `benches/reference` prints, run by the Python that `PEAR_PYTHON` names; `None` where it names none.
///
/// # Panics
/// If the script fails.
pub fn python(script: &str, arguments: &[&str]) -> Option<String> {
    let python = std::env::var_os("PEAR_PYTHON")?;
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("reference")
        .join(script);
    let output = Command::new(python)
        .arg(path)
        .args(arguments)
        .output()
        .expect("the Python that PEAR_PYTHON names");
    assert!(
        output.status.success(),
        "{script}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}
