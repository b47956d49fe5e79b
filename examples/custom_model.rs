//! PEAR on a model of your own: a small decoder in plain burn, made known to PEAR by three traits.
//!
//! ```sh
//! cargo run --release --example custom_model
//! ```
//!
//! Random weights would have nothing to locate. So the model is trained for a few seconds on the task that heads are located on, and
//! then one head is turned against copying by hand: its output is made to count −2 times. What PEAR should find is thus known. What
//! to copy for your own model are the three `impl`s and, of `run`, the stages 1 to 3.

use std::process::ExitCode;

use anyhow::Result;
use burn::module::Module;
use burn::nn::{
    Embedding, EmbeddingConfig, Gelu, LayerNorm, LayerNormConfig, Linear, LinearConfig,
};
use burn::optim::{AdamConfig, AdamWConfig, GradientsParams};
use burn::prelude::*;
use burn::tensor::activation::log_softmax;
use clap::Parser;
use pear_core::forward::{additivity_error, logits, training_logits};
use pear_core::reparam::HeadScaling;
use pear_core::{
    DecoderLayer, DecoderModel, HeadAttention, HeadCoefficients, HeadId, ModelShape, NoEdit,
    Positions, ProxyTask, Qkv,
};
use pear_examples::cli::{self, TopK, print};
use pear_examples::draw::terminal_heat_map;
use pear_locate::{LocateOptions, Metric, locate, proxy_batches};
use pear_train::{Sequences, TrainOptions, Trainer, evaluate, proxy_loss};

// ---------------------------------------------------------------- the model, as anybody would write it

const VOCAB: usize = 64;
const MAX_LEN: usize = 32;
const WIDTH: usize = 64;
const HEADS: usize = 8;
const LAYERS: usize = 2;

#[derive(Module, Debug)]
struct SelfAttention {
    /// Queries, keys and values in one projection.
    qkv: Linear,
    out: Linear,
}

#[derive(Module, Debug)]
struct Block {
    attention_norm: LayerNorm,
    attention: SelfAttention,
    mlp_norm: LayerNorm,
    up: Linear,
    down: Linear,
}

#[derive(Module, Debug)]
struct TinyGpt {
    tokens: Embedding,
    positions: Embedding,
    blocks: Vec<Block>,
    norm: LayerNorm,
    unembed: Linear,
}

impl TinyGpt {
    fn new(device: &Device) -> Self {
        let norm = || LayerNormConfig::new(WIDTH).init(device);
        let linear = |from, to| LinearConfig::new(from, to).init(device);
        let block = |_| Block {
            attention_norm: norm(),
            attention: SelfAttention {
                qkv: linear(WIDTH, 3 * WIDTH),
                out: linear(WIDTH, WIDTH),
            },
            mlp_norm: norm(),
            up: linear(WIDTH, 4 * WIDTH),
            down: linear(4 * WIDTH, WIDTH),
        };
        Self {
            tokens: EmbeddingConfig::new(VOCAB, WIDTH).init(device),
            positions: EmbeddingConfig::new(MAX_LEN, WIDTH).init(device),
            blocks: (0..LAYERS).map(block).collect(),
            norm: norm(),
            unembed: linear(WIDTH, VOCAB),
        }
    }
}

// ---------------------------------------------------------------- the three traits: all that PEAR needs to know

/// Attention in two halves. The softmax between them is PEAR's, so that it can get at the heads.
impl HeadAttention for SelfAttention {
    fn project_qkv(&self, input: Tensor<3>, _positions: Positions) -> Qkv {
        let [batch, seq, width] = input.dims();
        let qkv = self
            .qkv
            .forward(input)
            .reshape([batch, seq, 3, HEADS, width / HEADS]);
        // [batch, heads, seq, head_dim]; a model with rotary positions rotates queries and keys here.
        let part = |index| {
            qkv.clone()
                .narrow(2, index, 1)
                .reshape([batch, seq, HEADS, width / HEADS])
                .swap_dims(1, 2)
        };
        Qkv {
            query: part(0),
            key: part(1),
            value: part(2),
        }
    }

    fn output_projection(&self, heads: Tensor<4>) -> Tensor<3> {
        let [batch, num_heads, seq, head_dim] = heads.dims();
        self.out.forward(
            heads
                .swap_dims(1, 2)
                .reshape([batch, seq, num_heads * head_dim]),
        )
    }
}

/// A layer cut where attention begins and ends.
impl DecoderLayer for Block {
    type Attention = SelfAttention;

    fn attention(&self) -> &SelfAttention {
        &self.attention
    }

    fn attention_input(&self, residual: Tensor<3>) -> Tensor<3> {
        self.attention_norm.forward(residual)
    }

    fn output(&self, residual: Tensor<3>, attention_output: Tensor<3>) -> Tensor<3> {
        let residual = residual + attention_output;
        let inner = Gelu::new().forward(self.up.forward(self.mlp_norm.forward(residual.clone())));
        residual + self.down.forward(inner)
    }
}

/// The model hands out its layers.
impl DecoderModel for TinyGpt {
    type Layer<'a> = &'a Block;

    fn shape(&self) -> ModelShape {
        ModelShape::new("tiny-gpt", LAYERS, HEADS)
    }

    fn hidden_size(&self) -> usize {
        WIDTH
    }

    fn vocab_size(&self) -> usize {
        VOCAB
    }

    fn device(&self) -> Device {
        self.unembed.weight.val().device()
    }

    fn max_positions(&self) -> Option<usize> {
        Some(MAX_LEN)
    }

    fn embed(&self, tokens: Tensor<2, Int>, positions: Positions) -> Tensor<3> {
        // Where rows of a batch start with padding, their tokens are counted from behind it.
        let [batch, seq] = tokens.dims();
        let places = positions.ids(batch, seq, &tokens.device());
        self.tokens.forward(tokens) + self.positions.forward(places)
    }

    fn layer(&self, index: usize) -> pear_core::Result<&Block> {
        Ok(&self.blocks[index])
    }

    fn logits(&self, residual: Tensor<3>) -> Tensor<3> {
        self.unembed.forward(self.norm.forward(residual))
    }
}

// ---------------------------------------------------------------- and PEAR

/// Tokens that are repeated.
const N: usize = 12;
/// The head that is turned against copying.
const PLANTED: HeadId = HeadId::new(0, 5);

/// PEAR on a decoder written in plain burn
#[derive(Parser, Debug)]
#[command(name = "custom_model")]
struct Arguments {
    /// Heads that get a coefficient
    #[arg(long, value_name = "K", default_value_t = 1)]
    top_k: usize,

    /// Steps that the model itself is trained for
    #[arg(long, default_value_t = 80)]
    pretraining_steps: usize,
}

fn main() -> ExitCode {
    cli::main_with(run)
}

fn run(arguments: Arguments) -> Result<()> {
    let device = Device::flex();
    device.seed(0);
    let task = ProxyTask::new(VOCAB, &[], 0)?;
    let held_out = ProxyTask::new(VOCAB, &[], 1)?.batch(N, 0..200)?;
    let show =
        |name: &str, model: &TinyGpt, coefficients: Option<&HeadCoefficients>| -> Result<()> {
            let m = evaluate(model, &held_out, coefficients)?;
            print(&format!(
                "{name:<42} {:>5.1} % right, cross-entropy {:.3}\n",
                100.0 * m.accuracy,
                m.cross_entropy
            ))
        };

    let model = pretrain(TinyGpt::new(&device), &task, arguments.pretraining_steps)?;
    show("the model, trained for a moment", &model, None)?;
    let shape = model.shape();
    let model = scale_heads(
        model,
        &HeadCoefficients::new(&[(PLANTED, -2.0)], &shape, &device)?,
    )?;
    show(
        &format!("with head {PLANTED} turned against copying"),
        &model,
        None,
    )?;

    // A test of the two halves: do the contributions of single heads add up to what attention writes? About 1e-6, from rounding;
    // much more if, say, `project_qkv` mixes up heads and channels, or `output_projection` does more than the output projection.
    let tokens = held_out.slice(0..4).tokens(&device);
    print(&format!(
        "heads add up to attention, but for          {:.1e}\n",
        additivity_error(&model, tokens.clone())?
    ))?;

    // Stage 1: locate. This model knows one length only; take several with one of your own.
    let options = LocateOptions {
        metric: Metric::LogProbDiff,
        ..LocateOptions::default()
    };
    let scores = locate(&model, &proxy_batches(&task, &[(N, 100)])?, &options)?.scores;
    let heads =
        TopK::checked(Some(TopK::Count(arguments.top_k)), 1, LAYERS * HEADS)?.of(&scores)?;
    print(&format!(
        "\n{}\n",
        terminal_heat_map(&scores.grid(), &heads)
    ))?;

    // Stage 2: learn one coefficient for each head.
    let options = TrainOptions {
        steps: 40,
        length: N,
        learning_rate: 0.02,
        ..TrainOptions::default()
    };
    let mut trainer = Trainer::new(&model, &heads, options)?;
    trainer.run(&Sequences::Drawn(task.clone()))?;
    show(
        "with the trainer's coefficients",
        &model,
        Some(trainer.coefficients()),
    )?;

    // The same by hand, from there on: coefficients are a burn module, and any optimizer updates them. The model stays on the
    // plain side of the device; only the coefficients are tracked.
    let mut coefficients = trainer.coefficients().clone().trainable();
    let mut optimizer = AdamWConfig::new()
        .with_epsilon(1e-8)
        .with_weight_decay(0.0)
        .init();
    for step in 40..60 {
        let batch = task.batch(N, step * 20..(step + 1) * 20)?;
        let loss = proxy_loss(&model, &batch, &coefficients)?;
        let gradients = GradientsParams::from_grads(loss.backward(), &coefficients);
        coefficients = optimizer.step(0.01, coefficients, gradients);
    }
    // What is not learned from must not be tracked.
    let mut coefficients = coefficients.fixed();
    show(
        "after 20 more steps of a loop of our own",
        &model,
        Some(&coefficients),
    )?;
    for (head, value) in coefficients.heads().iter().zip(coefficients.values()) {
        print(&format!("    head {head}  × {value:.3}\n"))?;
    }

    // Stage 3: into the weights. Afterwards the model is plain burn again: save it as any other, run it without PEAR.
    let folded = scale_heads(model.clone(), &coefficients)?;
    let applied = logits(&model, tokens.clone(), &mut coefficients)?;
    let difference: f32 = (applied - logits(&folded, tokens, &mut NoEdit)?)
        .abs()
        .max()
        .into_scalar();
    show("folded into the weights", &folded, None)?;
    print(&format!(
        "largest difference of a logit               {difference:.1e}\n"
    ))
}

/// The model with coefficients multiplied into its output projections, which are known by their paths.
fn scale_heads(model: TinyGpt, coefficients: &HeadCoefficients) -> Result<TinyGpt> {
    let layer_of = |path: &str| {
        path.strip_prefix("blocks.")?
            .strip_suffix(".attention.out.weight")?
            .parse()
            .ok()
    };
    let scaling = HeadScaling::new(coefficients.clone(), layer_of);
    Ok(scaling.attach(model)?.materialize())
}

/// A few steps on the proxy task, all weights learning: what your model already has behind it.
fn pretrain(model: TinyGpt, task: &ProxyTask, steps: usize) -> Result<TinyGpt> {
    let mut model = model.train();
    let device = model.device();
    let mut optimizer = AdamConfig::new().init();
    for step in 0..steps {
        // Counted from a million on: the sequences that coefficients are learned from are not among them.
        let start = 1_000_000 + step * 32;
        let batch = task.batch(N, start..start + 32)?;
        // The forward pass over the traits trains a model as well as it runs one.
        let logits =
            training_logits(&model, batch.tokens(&device), &mut NoEdit)?.narrow(1, N - 1, N);
        let labels = batch.labels(&device).unsqueeze_dim(2);
        let loss = log_softmax(logits, 2).gather(2, labels).mean().neg();
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        model = optimizer.step(0.002, model, gradients);
    }
    Ok(model.valid())
}
