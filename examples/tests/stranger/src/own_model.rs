//! A decoder in plain burn, with burn's own attention, made known to PEAR by two traits; and a training loop of its own.

use pear_core::burn::module::Module;
use pear_core::burn::nn::attention::{MultiHeadAttention, MultiHeadAttentionConfig};
use pear_core::burn::nn::{
    Embedding, EmbeddingConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig,
};
use pear_core::burn::optim::{AdamWConfig, GradientsParams};
use pear_core::burn::prelude::*;
use pear_core::burn::{self, tensor::activation::gelu};
use pear_core::forward;
use pear_core::{
    DecoderLayer, DecoderModel, HeadCoefficients, ModelShape, NoEdit, Positions, ProxyTask,
};
use pear_locate::{LocateOptions, Metric, locate, proxy_batches};
use pear_train::{evaluate, proxy_loss};

use crate::worker::Failure;

const VOCAB: usize = 50;
const WIDTH: usize = 24;
const HEADS: usize = 3;
const LAYERS: usize = 2;
const MAX_LEN: usize = 24;

#[derive(Module, Debug)]
struct Block {
    attention_norm: LayerNorm,
    attention: MultiHeadAttention,
    mlp_norm: LayerNorm,
    up: Linear,
    down: Linear,
}

#[derive(Module, Debug)]
struct Gpt {
    tokens: Embedding,
    positions: Embedding,
    blocks: Vec<Block>,
    norm: LayerNorm,
    head: Linear,
}

impl Gpt {
    fn new(device: &Device) -> Self {
        let norm = || LayerNormConfig::new(WIDTH).init(device);
        let block = |_| Block {
            attention_norm: norm(),
            attention: MultiHeadAttentionConfig::new(WIDTH, HEADS).init(device),
            mlp_norm: norm(),
            up: LinearConfig::new(WIDTH, 4 * WIDTH).init(device),
            down: LinearConfig::new(4 * WIDTH, WIDTH).init(device),
        };
        Self {
            tokens: EmbeddingConfig::new(VOCAB, WIDTH).init(device),
            positions: EmbeddingConfig::new(MAX_LEN, WIDTH).init(device),
            blocks: (0..LAYERS).map(block).collect(),
            norm: norm(),
            head: LinearConfig::new(WIDTH, VOCAB).init(device),
        }
    }
}

impl DecoderLayer for Block {
    type Attention = MultiHeadAttention;

    fn attention(&self) -> &MultiHeadAttention {
        &self.attention
    }

    fn attention_input(&self, residual: Tensor<3>) -> Tensor<3> {
        self.attention_norm.forward(residual)
    }

    fn output(&self, residual: Tensor<3>, attention_output: Tensor<3>) -> Tensor<3> {
        let residual = residual + attention_output;
        let inner = gelu(self.up.forward(self.mlp_norm.forward(residual.clone())));
        residual + self.down.forward(inner)
    }
}

impl DecoderModel for Gpt {
    type Layer<'a> = &'a Block;

    fn shape(&self) -> ModelShape {
        ModelShape::new("gpt", LAYERS, HEADS)
    }

    fn hidden_size(&self) -> usize {
        WIDTH
    }

    fn vocab_size(&self) -> usize {
        VOCAB
    }

    fn device(&self) -> Device {
        self.head.weight.val().device()
    }

    fn max_positions(&self) -> Option<usize> {
        Some(MAX_LEN)
    }

    fn embed(&self, tokens: Tensor<2, Int>, positions: Positions) -> Tensor<3> {
        let (start, len) = (positions.start as i64, tokens.dims()[1] as i64);
        let places = Tensor::arange(start..start + len, &tokens.device()).unsqueeze();
        self.tokens.forward(tokens) + self.positions.forward(places)
    }

    fn layer(&self, index: usize) -> pear_core::Result<&Block> {
        Ok(&self.blocks[index])
    }

    fn logits(&self, residual: Tensor<3>) -> Tensor<3> {
        self.head.forward(self.norm.forward(residual))
    }
}

pub fn locate_and_train() -> Result<(), Failure> {
    let device = Device::default();
    device.seed(7);
    let model = Gpt::new(&device);
    let task = ProxyTask::new(VOCAB, &[0], 3)?;

    // The heads' contributions add up to what the attention writes: the traits are implemented as they are meant.
    let tokens = task.batch(8, 0..2)?.tokens(&device);
    if forward::additivity_error(&model, tokens.clone())? > 1e-4 {
        return Err("the heads do not add up".into());
    }

    let options = LocateOptions {
        metric: Metric::LogitDiff,
        ..LocateOptions::default()
    };
    let scores = locate(&model, &proxy_batches(&task, &[(8, 6)])?, &options)?.scores;
    let heads = scores.top(HEADS * LAYERS);

    let few = task.batch(8, 0..4)?;
    let before = evaluate(&model, &few, None)?.loss;
    let mut coefficients = HeadCoefficients::ones(&heads, &model.shape(), &device)?.trainable();
    let mut optimizer = AdamWConfig::new().with_weight_decay(0.0).init();
    for _ in 0..10 {
        let loss = proxy_loss(&model, &few, &coefficients)?;
        let gradients = GradientsParams::from_grads(loss.backward(), &coefficients);
        coefficients = optimizer.step(0.05, coefficients, gradients);
    }
    let mut coefficients = coefficients.fixed();
    let after = evaluate(&model, &few, Some(&coefficients))?.loss;
    println!("a model of its own: loss {before:.3}, then {after:.3}");
    if after >= before {
        return Err("ten steps did not lower the loss".into());
    }

    // Coefficients are an edit of the forward pass, and belong to models of their shape.
    let plain = forward::logits(&model, tokens.clone(), &mut NoEdit)?;
    let edited = forward::logits(&model, tokens, &mut coefficients)?;
    if (plain - edited).abs().max().into_scalar::<f32>() == 0.0 {
        return Err("the coefficients changed nothing".into());
    }
    let other = ModelShape::new("gpt", LAYERS + 1, HEADS);
    if coefficients.check_shape(&other).is_ok() {
        return Err("coefficients were accepted for another shape".into());
    }
    Ok(())
}
