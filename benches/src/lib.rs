//! What the benches share: work counted, memory read, medians taken, the Python references called.

#[cfg(feature = "candle")]
pub mod candle;

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use burn::prelude::*;
use burn::tensor::{DType, Distribution};
use pear_core::proxy::ProxyBatch;
use pear_locate::Mode;
use pear_models::{DecoderConfig, DecoderSizes, DenseMlpConfig, LayerConfig, MlpConfig};

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

/// Floating-point operations that the parts of a model need; a multiplication and an addition are two.
#[derive(Clone, Copy, Debug)]
pub struct Flops {
    /// Projections and MLP of one layer, for one position.
    pub block: f64,
    /// The same without queries, keys and values: what a variant needs where its attention's output is known, or replaced.
    pub block_without_qkv: f64,
    /// The MLP of one layer, for one position.
    pub mlp: f64,
    /// Scores and values of one query against one key, over all heads of a layer.
    pub attention: f64,
    /// All logits of one position.
    pub logits: f64,
    layers: f64,
    heads: f64,
}

impl Flops {
    /// Of a model with this config, whose layers are alike.
    pub fn of(config: &DecoderConfig) -> Self {
        let layer = &config.layers[0];
        let (attention, mlp) = (&layer.attention, dense(layer));
        let (hidden, inner) = (config.hidden_size as f64, mlp.intermediate_size as f64);
        let query = (attention.num_attention_heads * attention.head_dim) as f64;
        let key_value = (attention.num_key_value_heads * attention.head_dim) as f64;
        let mlp = 2.0 * hidden * inner * if mlp.gated { 3.0 } else { 2.0 };
        let block_without_qkv = 2.0 * hidden * query + mlp;
        Self {
            block: block_without_qkv + 2.0 * hidden * (query + 2.0 * key_value),
            block_without_qkv,
            mlp,
            attention: 4.0 * query,
            logits: 2.0 * hidden * config.vocab_size as f64,
            layers: config.layers.len() as f64,
            heads: attention.num_attention_heads as f64,
        }
    }

    /// Locating every head: one run of the sequences, each head's variant through its own and all higher layers, the logits of the
    /// second half (for the accuracy on the proxy task) and of one token a variant.
    pub fn sweep(&self, mode: Mode, batches: &[ProxyBatch]) -> f64 {
        let (layers, heads) = (self.layers, self.heads);
        let above = layers * (layers - 1.0) / 2.0;
        let one = |batch: &ProxyBatch| {
            let (seq, n) = (batch.seq_len() as f64, batch.n() as f64);
            let run = layers * seq * (self.block + self.attention * (seq + 1.0) / 2.0)
                + (n - 1.0) * self.logits;
            let through = match mode {
                Mode::Activation => self.block + self.attention * seq,
                Mode::Path => self.mlp,
            };
            // A head's own layer: only its own rows of the output projection change.
            let own = self.mlp + (self.block_without_qkv - self.mlp) / heads;
            batch.len() as f64 * (run + heads * (layers * own + above * through))
        };
        batches.iter().map(one).sum()
    }

    /// One training step with the lowest re-weighted head in layer `first`: a run, the logits of one half, and the way back through
    /// activations down to that layer's output projection.
    pub fn training_step(&self, first: usize, sequences: usize, n: usize) -> f64 {
        let (seq, above) = (2.0 * n as f64, self.layers - 1.0 - first as f64);
        let attention = self.attention * (seq + 1.0) / 2.0;
        let run = seq * self.layers * (self.block + attention) + n as f64 * self.logits;
        // Weights get no gradient: the way back costs what the way there did, twice for the products within attention.
        let back = seq * (above * (self.block + 2.0 * attention) + self.block_without_qkv)
            + n as f64 * self.logits;
        sequences as f64 * (run + back)
    }
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
