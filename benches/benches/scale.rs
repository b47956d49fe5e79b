//! Models of real shapes, of random weights made on the device: reading a prompt, generating, locating, a training step.
//!
//! ```sh
//! cargo bench --bench scale -- gpt2-small                                                    # on the CPU, in f32
//! cargo bench --bench scale --features cuda -- llama-3.1-8b --device cuda --dtype bf16
//! ```
//!
//! Shapes: `gpt2-small`, `qwen2.5-0.5b`, `llama-3.2-1b`, `llama-2-7b`, `llama-3.1-8b`, `llama-3.1-70b`, `llama-3.1-405b`. `--layers N` keeps the first N layers only: where a
//! whole model is too large, one can still see what a layer costs.

use std::ops::ControlFlow;
use std::time::Instant;

use burn::module::Module;
use burn::prelude::*;
use burn::tensor::DType;
use pear_benches::shapes::shape;
use pear_benches::{Flops, dense, device_memory_rate, in_dtype, matmul_rate_in, read_rate};
use pear_core::{DecoderModel, HeadId, NoEdit, ProxyTask};
use pear_examples::cli::half_of;
use pear_examples::device::DeviceName;
use pear_examples::memory::{peak_memory, reset_peak_memory};
use pear_locate::{LocateOptions, Mode, patched_logits};
use pear_models::{Decoder, DecoderConfig, Error, GenerateOptions, Generator};
use pear_train::{TrainOptions, Trainer};

const PROMPT: usize = 512;
const NEW: usize = 32;

fn main() {
    pear_examples::allocator::keep_pages();
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let value = |flag: &str| {
        arguments
            .iter()
            .position(|a| a == flag)
            .and_then(|at| arguments.get(at + 1))
            .cloned()
    };
    let name = arguments
        .first()
        .filter(|name| !name.starts_with('-'))
        .map_or("gpt2-small", String::as_str);
    let device: DeviceName = value("--device")
        .unwrap_or_else(|| "flex".into())
        .parse()
        .expect("a device");
    let mut config = shape(name);
    if let Some(layers) = value("--layers") {
        config["num_hidden_layers"] = layers.parse::<u64>().expect("a number of layers").into();
    }
    let config = DecoderConfig::from_json(&config).expect("a valid config");
    let is_cpu = device.is_cpu();
    let device = device
        .open()
        .expect("a device that this bench was built with");
    let dtype = match value("--dtype").as_deref() {
        None if is_cpu => DType::F32,
        None => half_of(&device).unwrap_or(DType::F32),
        Some("bf16") => DType::BF16,
        Some("f16") => DType::F16,
        Some("f32") => DType::F32,
        Some(other) => panic!("--dtype {other}: expected f32, bf16 or f16"),
    };
    // First, so that the memory it takes is there for the model.
    let rates = Rates {
        compute: matmul_rate_in(
            dtype,
            &device,
            config.hidden_size,
            dense(&config.layers[0]).intermediate_size,
        ),
        bandwidth: if is_cpu {
            read_rate()
        } else {
            device_memory_rate(&device)
        },
    };
    device.memory_cleanup();
    println!(
        "this device: {:.0} GFLOP/s in matrix products, {:.1} GB/s of memory",
        rates.compute / 1e9,
        rates.bandwidth / 1e9
    );
    device.seed(0);
    let start = Instant::now();
    // Weights are drawn as they are cast, a tensor at a time.
    let model = in_dtype(config.init(&device).expect("a valid config"), dtype);
    let layers = config.layers.len();
    println!(
        "{name}, {layers} layers, {:.2} billion parameters in {dtype:?}, made in {:.1} s",
        model.num_params() as f64 / 1e9,
        start.elapsed().as_secs_f64()
    );
    println!();
    reset_peak_memory();
    measure(&model, dtype, &rates);
}

/// What the device can do: FLOPs and bytes a second.
struct Rates {
    compute: f64,
    bandwidth: f64,
}

/// What the device holds, pages kept for the next tensors included; where it does not tell, the most that this process has held.
fn memory(device: &Device) -> u64 {
    device
        .memory_pool_usage()
        .map_or_else(peak_memory, |usage| usage.bytes_reserved)
}

fn measure(model: &Decoder, dtype: DType, rates: &Rates) {
    let config = model.config();
    let (flops, layers) = (Flops::of(config), config.layers.len() as f64);
    let weights =
        if dtype == DType::F32 { 4.0 } else { 2.0 } * (layers * flops.block + flops.logits) / 2.0;
    let row = |what: &str, seconds: f64, work: f64, bytes: f64| {
        let floor = (work / rates.compute).max(bytes / rates.bandwidth);
        println!(
            "{what:<40} {:>10.1} ms {:>9.1} GFLOP/s {:>8.1} GB/s {:>4.0} % of the floor {:>8.2} GB",
            1e3 * seconds,
            work / seconds / 1e9,
            bytes / seconds / 1e9,
            100.0 * floor / seconds,
            memory(&model.device()) as f64 / 1e9
        );
    };
    // Once to compile and to choose kernels, once to measure.
    let timed = |run: &mut dyn FnMut()| {
        run();
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64()
    };

    let prompt: Vec<u32> = (0..PROMPT as u32).map(|i| i * 7 % 31991 + 5).collect();
    let options = GenerateOptions {
        max_new_tokens: NEW,
        ..GenerateOptions::default()
    };
    let (mut first, mut each) = (0.0, 0.0);
    timed(&mut || {
        let (start, mut read) = (Instant::now(), 0.0);
        let generator = Generator::new(model, options.clone()).expect("options");
        let tokens = generator.run_with(&[&prompt], &mut NoEdit, |_, _| {
            read = if read == 0.0 {
                start.elapsed().as_secs_f64()
            } else {
                read
            };
            Ok::<_, Error>(ControlFlow::Continue(()))
        });
        tokens.expect("tokens");
        (first, each) = (
            read,
            (start.elapsed().as_secs_f64() - read) / (NEW - 1) as f64,
        );
    });
    let prefill = flops.layers_once(PROMPT as f64) + flops.logits;
    row(&format!("reading {PROMPT} tokens"), first, prefill, weights);
    let token = layers * (flops.block + flops.attention * PROMPT as f64) + flops.logits;
    row("a token", each, token, weights);

    let task = ProxyTask::new(model.vocab_size(), &[], 0).expect("a vocabulary");
    let batch = task.batch(20, 0..4).expect("sequences");
    for mode in [Mode::Activation, Mode::Path] {
        let options = LocateOptions {
            mode,
            ..LocateOptions::default()
        };
        let seconds = timed(&mut || drop(patched_logits(model, &batch, &options).expect("scores")));
        let work = flops.sweep(&options, std::slice::from_ref(&batch));
        row(
            &format!("locating all heads, {mode}, 4 × n = 20"),
            seconds,
            work,
            weights,
        );
    }

    let heads: Vec<HeadId> = (0..10)
        .map(|i| HeadId::new(i % config.layers.len(), i))
        .collect();
    let options = TrainOptions {
        steps: 10,
        length: 50,
        batch_size: 4,
        ..TrainOptions::default()
    };
    let mut trainer = Trainer::new(model, &heads, options).expect("valid options");
    let batch = task.batch(50, 0..4).expect("sequences");
    let seconds = timed(&mut || drop(trainer.step(&batch).expect("a step")));
    row(
        "a training step, all layers, 4 × n = 50",
        seconds,
        flops.training_step(0, 4, 50),
        weights,
    );
}
