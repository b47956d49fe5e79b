//! What locating and training would take on this machine: memory, bytes read, work and time, of a config alone.

use std::fmt::Write;

use anyhow::Result;
use pear_core::DecoderModel;
use pear_core::proxy::ProxyBatch;
use pear_locate::{LocateOptions, readings_of_layers};
use pear_models::{Decoder, DecoderConfig, MlpConfig};
use pear_train::TrainOptions;

use crate::cli::{ModelArgs, duration, name_of};
use crate::flops::Flops;
use crate::machine::{EFFICIENCY, speed};
use crate::memory::available_memory;

/// Bytes a second that files are taken to be read at, there being none to measure with.
const READ_RATE: f64 = 1e9;
/// Layers that are in memory where they are streamed.
const STREAMED_LAYERS: u64 = 2;

/// One way of doing one thing.
struct Row {
    name: String,
    /// Bytes, at the peak.
    memory: u64,
    /// Bytes of the files.
    read: u64,
    flops: f64,
}

/// The plan as a table: locating on these sequences, and training with these options, the model resident and streamed.
///
/// # Errors
/// A device that is not there.
pub fn plan(
    flags: &ModelArgs,
    config: &DecoderConfig,
    batches: &[ProxyBatch],
    options: &LocateOptions,
    training: &TrainOptions,
) -> Result<String> {
    // A config has no weights that are stored in some type.
    let dtype = flags.dtype(None)?;
    let size = dtype.size() as u64;
    let shape = config.shape();
    let layers: Vec<u64> = (0..shape.num_layers)
        .map(|layer| config.num_layer_parameters(layer))
        .collect();
    let largest = layers.iter().copied().max().unwrap_or(0);
    let parameters = config.num_parameters();
    let in_layers: u64 = layers.iter().sum();
    let resident = size * parameters;
    let streamed = size * (parameters - in_layers + STREAMED_LAYERS * largest);
    let flops = Flops::of(config);

    let sweep = flops.sweep(options, batches);
    let passes = readings_of_layers(&shape, config.hidden_size, batches, options) as u64;
    let for_sweep = options.memory_budget as u64;

    let sequences = training.micro_batch_size.unwrap_or(training.batch_size);
    let steps = training.steps as f64;
    let step = flops.training_step(0, training.batch_size, training.length);
    // The way up once more, for the graph of each layer.
    let again = flops.run(training.batch_size, training.length);
    let parts = training.batch_size.div_ceil(sequences) as u64;
    let graph = Graph::of(config, sequences, training.length);
    let rows = [
        Row {
            name: "locate".into(),
            memory: resident + for_sweep,
            read: resident,
            flops: sweep,
        },
        Row {
            name: "locate --stream".into(),
            memory: streamed + for_sweep,
            read: size * (parameters + in_layers * passes.saturating_sub(1)),
            flops: sweep,
        },
        Row {
            name: format!("train, {} steps", training.steps),
            memory: resident + graph.whole(),
            read: resident,
            flops: steps * step,
        },
        Row {
            name: "train --recompute".into(),
            memory: resident + graph.one_layer(),
            read: resident,
            flops: steps * (step + again),
        },
        Row {
            name: "train --stream".into(),
            memory: streamed + graph.one_layer(),
            // Up, and down again; the layer where it turns round is still there.
            read: size
                * (parameters
                    + training.steps as u64 * parts * 2 * in_layers.saturating_sub(largest)),
            flops: steps * (step + again),
        },
    ];

    let speed = speed(&flags.device.open()?, dtype);
    let available = available_memory().filter(|_| flags.device.is_cpu());
    let mut text = format!(
        "model    {shape}, {:.0} M parameters, {} in {}\n\
         machine  {}: {:.0} GFLOP/s in products, of which {:.0} % are counted on{}; files at {}/s\n\n\
         {:24}{:>10}{:>12}{:>14}{:>10}\n",
        parameters as f64 / 1e6,
        bytes(resident),
        name_of(dtype),
        flags.device,
        speed / 1e9,
        100.0 * EFFICIENCY,
        available.map_or(String::new(), |available| format!(
            "; {} of memory free",
            bytes(available)
        )),
        bytes(READ_RATE as u64),
        "",
        "memory",
        "read",
        "work",
        "time",
    );
    for row in rows {
        let computing = row.flops / (EFFICIENCY * speed);
        // One goes on beside the other.
        let seconds = computing.max(row.read as f64 / READ_RATE);
        let fits = available.is_none_or(|available| row.memory <= available);
        let _ = writeln!(
            text,
            "{:24}{:>10}{:>12}{:>14}{:>10}{}",
            row.name,
            bytes(row.memory),
            bytes(row.read),
            operations(row.flops),
            duration(seconds),
            if fits { "" } else { "  does not fit" }
        );
    }
    Ok(text)
}

/// Seconds that locating takes with streamed layers, all of which take `reading` seconds to be read once.
pub fn streamed_seconds(
    model: &Decoder,
    batches: &[ProxyBatch],
    options: &LocateOptions,
    reading: f64,
) -> f64 {
    let config = model.config();
    let passes = readings_of_layers(&config.shape(), config.hidden_size, batches, options);
    let speed = speed(&model.device(), model.dtype());
    let computing = Flops::of(config).sweep(options, batches) / (EFFICIENCY * speed);
    computing.max(passes as f64 * reading)
}

/// Memory of a step of training beside the weights, estimated.
struct Graph {
    /// What one layer keeps for its backward pass.
    layer: u64,
    /// The residual stream before a layer.
    border: u64,
    num_layers: u64,
}

impl Graph {
    /// Of so many sequences that run together, of `2 n` tokens each.
    fn of(config: &DecoderConfig, sequences: usize, n: usize) -> Self {
        let seq = 2 * n;
        let widest = |layer: &pear_models::LayerConfig| {
            let attention = &layer.attention;
            let heads = attention.num_attention_heads + 2 * attention.num_key_value_heads;
            let inner = match &layer.mlp {
                MlpConfig::Dense(mlp) => mlp.intermediate_size,
                MlpConfig::Experts(experts) => {
                    experts.num_experts_per_token * experts.expert.intermediate_size
                }
                other => unreachable!("dense, or of experts: {other:?}"),
            };
            // Norms, residual sums and head outputs; queries, keys and values; the weights of attention; what stands in the MLP. The bench
            // `train` measures 12,600 numbers a position for 768 channels, 12 heads and an inner size of 2,048; these are 12,500.
            5 * config.hidden_size
                + heads * attention.head_dim
                + attention.num_attention_heads * seq
                + 5 * inner / 2
        };
        let numbers = config.layers.iter().map(widest).max().unwrap_or(0);
        let positions = (sequences * seq) as u64;
        Self {
            layer: 4 * positions * numbers as u64,
            border: 4 * positions * config.hidden_size as u64,
            num_layers: config.layers.len() as u64,
        }
    }

    fn whole(&self) -> u64 {
        self.num_layers * self.layer
    }

    fn one_layer(&self) -> u64 {
        self.layer + self.num_layers * self.border
    }
}

fn bytes(bytes: u64) -> String {
    match bytes as f64 {
        b if b < 1e9 => format!("{:.0} MB", b / 1e6),
        b if b < 1e12 => format!("{:.1} GB", b / 1e9),
        b => format!("{:.1} TB", b / 1e12),
    }
}

fn operations(flops: f64) -> String {
    match flops {
        f if f < 1e12 => format!("{:.0} GFLOP", f / 1e9),
        f if f < 1e15 => format!("{:.0} TFLOP", f / 1e12),
        f => format!("{:.1} PFLOP", f / 1e15),
    }
}
