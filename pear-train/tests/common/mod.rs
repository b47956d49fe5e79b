//! A small decoder of one's own, with wide weights, that notes what it is asked for.
#![allow(dead_code)]

pub mod runs;

use std::sync::Mutex;

use burn::module::{Module, ModuleMapper, Param};
use burn::nn::{Linear, LinearConfig};
use burn::prelude::*;
use burn::tensor::activation::silu;
use pear_core::position::{PositionEmbedding, PositionEmbeddingConfig};
use pear_core::{
    Attention, AttentionConfig, DecoderLayer, DecoderModel, ModelShape, Positions, ProxyTask,
};

pub const HEAD_DIM: usize = 4;

#[derive(Module, Debug)]
pub struct Weights {
    embedding: Param<Tensor<2>>,
    positions: Option<PositionEmbedding>,
    attention: Vec<Attention>,
    up: Vec<Linear>,
    down: Vec<Linear>,
}

/// What a run asked for, in order.
#[derive(Debug, Default)]
pub struct Seen {
    /// For each layer run: which, and whether its input was on the autodiff side.
    pub layers: Vec<(usize, bool)>,
    /// For each call of `logits`: rows.
    pub logits: Vec<usize>,
}

#[derive(Debug)]
pub struct Small {
    pub weights: Weights,
    shape: ModelShape,
    vocab: usize,
    seen: Mutex<Seen>,
}

/// Numbers that depend on nothing but their place, so that tests may run side by side.
struct Wide {
    state: u64,
    scale: f64,
}

impl ModuleMapper for Wide {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|tensor| {
            let shape = tensor.dims();
            let scale = self.scale / (shape[0] as f64).sqrt();
            let mut draw = || {
                self.state = self
                    .state
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                let uniform = (self.state >> 11) as f64 / (1u64 << 53) as f64;
                ((uniform - 0.5) * 12f64.sqrt() * scale) as f32
            };
            let values: Vec<f32> = (0..shape.iter().product()).map(|_| draw()).collect();
            Tensor::from_data(TensorData::new(values, shape), &tensor.device())
        })
    }
}

impl Small {
    pub fn new(
        layers: usize,
        heads: usize,
        key_value_heads: usize,
        vocab: usize,
        position: PositionEmbeddingConfig,
    ) -> Self {
        let device = Device::flex();
        let hidden = heads * HEAD_DIM;
        let absolute = position.is_absolute();
        let within = if absolute {
            PositionEmbeddingConfig::None
        } else {
            position.clone()
        };
        let config = AttentionConfig::new(hidden, heads)
            .with_num_key_value_heads(key_value_heads)
            .with_position_embedding(within);
        let linear = |from, to| LinearConfig::new(from, to).init(&device);
        let weights = Weights {
            embedding: Param::from_tensor(Tensor::zeros([vocab, hidden], &device)),
            positions: absolute.then(|| position.init(&device).unwrap()),
            attention: (0..layers).map(|_| config.init(&device).unwrap()).collect(),
            up: (0..layers).map(|_| linear(hidden, 2 * hidden)).collect(),
            down: (0..layers).map(|_| linear(2 * hidden, hidden)).collect(),
        };
        let mut wide = Wide {
            state: 42,
            scale: 1.6,
        };
        let mut weights = weights.map(&mut wide);
        // Rows, not columns, are the vectors here.
        weights.embedding = weights.embedding.map(|e| e * ((vocab as f64).sqrt() / 1.6));
        let shape = ModelShape::new("small", layers, heads);
        Self {
            weights: weights.valid(),
            shape,
            vocab,
            seen: Mutex::default(),
        }
    }

    /// What was asked for since the last call.
    pub fn seen(&self) -> Seen {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }

    pub fn task(&self) -> ProxyTask {
        ProxyTask::new(self.vocab, &[0], 3).unwrap()
    }
}

fn norm(x: Tensor<3>) -> Tensor<3> {
    let scale = (x.clone().square().mean_dim(2) + 1e-6).sqrt().recip();
    x * scale
}

/// One layer, which notes that it was run.
pub struct SmallLayer<'a> {
    model: &'a Small,
    index: usize,
}

impl DecoderLayer for SmallLayer<'_> {
    type Attention = Attention;

    fn attention(&self) -> &Attention {
        &self.model.weights.attention[self.index]
    }

    fn attention_input(&self, residual: Tensor<3>) -> Tensor<3> {
        let mut seen = self.model.seen.lock().unwrap();
        seen.layers.push((self.index, residual.is_autodiff()));
        norm(residual)
    }

    fn output(&self, residual: Tensor<3>, attention_output: Tensor<3>) -> Tensor<3> {
        let weights = &self.model.weights;
        let residual = residual + attention_output;
        let inner = silu(weights.up[self.index].forward(norm(residual.clone())));
        residual + weights.down[self.index].forward(inner)
    }
}

impl DecoderModel for Small {
    type Layer<'a> = SmallLayer<'a>;

    fn shape(&self) -> ModelShape {
        self.shape.clone()
    }

    fn hidden_size(&self) -> usize {
        self.weights.embedding.val().dims()[1]
    }

    fn vocab_size(&self) -> usize {
        self.vocab
    }

    fn device(&self) -> Device {
        self.weights.embedding.val().device()
    }

    fn embed(&self, tokens: Tensor<2, Int>, positions: Positions) -> Tensor<3> {
        let embedded = burn::tensor::module::embedding(self.weights.embedding.val(), tokens);
        match &self.weights.positions {
            Some(learned) => learned.add(embedded, positions),
            None => embedded,
        }
    }

    fn layer(&self, index: usize) -> pear_core::Result<SmallLayer<'_>> {
        Ok(SmallLayer { model: self, index })
    }

    fn logits(&self, residual: Tensor<3>) -> Tensor<3> {
        let [batch, seq, hidden] = residual.dims();
        self.seen.lock().unwrap().logits.push(batch * seq);
        let rows = norm(residual).reshape([batch * seq, hidden]);
        rows.matmul(self.weights.embedding.val().transpose())
            .reshape([batch, seq, self.vocab])
    }
}
