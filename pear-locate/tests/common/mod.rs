//! A small decoder with wide weights, and models built by hand.
#![allow(dead_code)]

use burn::module::{Module, ModuleMapper, Param};
use burn::nn::{Linear, LinearConfig, RmsNorm, RmsNormConfig};
use burn::prelude::*;
use burn::tensor::DType;
use burn::tensor::activation::silu;
use pear_core::position::{
    PositionEmbedding, PositionEmbeddingConfig, RelativeConfig, RotaryConfig, RotaryScaling,
};
use pear_core::{
    Attention, AttentionConfig, AttentionScoreConfig, DecoderLayer, DecoderModel, HeadAttention,
    ModelShape, NormConfig, Positions, QkNorm, Qkv,
};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

pub const VOCAB: usize = 31;

/// Replaces every weight by one drawn uniformly from ±0.5: attention far from uniform, the same in every run.
struct Wide(ChaCha8Rng);

impl ModuleMapper for Wide {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let shape: [usize; D] = param.lazy_shape().dims();
        let count = shape.iter().product();
        let values: Vec<f32> = (0..count)
            .map(|_| (self.0.next_u64() >> 40) as f32 / (1 << 24) as f32 - 0.5)
            .collect();
        Param::initialized(
            param.id,
            Tensor::from_data(TensorData::new(values, shape), &Device::flex()),
        )
    }
}

/// Casts every weight.
pub struct To(pub DType);

impl ModuleMapper for To {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        Param::initialized(param.id, param.val().cast(self.0))
    }
}

#[derive(Module, Debug)]
pub struct Block {
    norm: RmsNorm,
    attention: Attention,
    mlp_norm: RmsNorm,
    up: Linear,
    down: Linear,
    parallel: bool,
}

/// A decoder of the usual kind.
#[derive(Module, Debug)]
pub struct TestDecoder {
    embedding: Param<Tensor<2>>,
    positions: PositionEmbedding,
    blocks: Vec<Block>,
    norm: RmsNorm,
    unembedding: Linear,
    max_positions: Option<usize>,
    heads: usize,
}

impl TestDecoder {
    pub fn new(layers: usize, attention: AttentionConfig, parallel: bool) -> Self {
        let device = Device::flex();
        let hidden = attention.hidden_size;
        let absolute = attention.position_embedding.is_absolute();
        let max_positions = attention.position_embedding.max_positions();
        let at_embedding = if absolute {
            attention.position_embedding.clone()
        } else {
            PositionEmbeddingConfig::None
        };
        let in_attention = if absolute {
            PositionEmbeddingConfig::None
        } else {
            attention.position_embedding.clone()
        };
        let norm = || RmsNormConfig::new(hidden).init(&device);
        let heads = attention.num_attention_heads;
        let config = attention.with_position_embedding(in_attention);
        let block = || Block {
            norm: norm(),
            attention: config.init(&device).unwrap(),
            mlp_norm: norm(),
            up: LinearConfig::new(hidden, 3 * hidden).init(&device),
            down: LinearConfig::new(3 * hidden, hidden).init(&device),
            parallel,
        };
        let plain = Self {
            embedding: Param::from_tensor(Tensor::zeros([VOCAB, hidden], &device)),
            positions: at_embedding.init(&device).unwrap(),
            blocks: (0..layers).map(|_| block()).collect(),
            norm: norm(),
            unembedding: LinearConfig::new(hidden, VOCAB)
                .with_bias(false)
                .init(&device),
            max_positions,
            heads,
        };
        plain.map(&mut Wide(ChaCha8Rng::seed_from_u64(3)))
    }
}

impl DecoderLayer for Block {
    type Attention = Attention;

    fn attention(&self) -> &Attention {
        &self.attention
    }

    fn attention_input(&self, residual: Tensor<3>) -> Tensor<3> {
        self.norm.forward(residual) * 6.0
    }

    fn output(&self, residual: Tensor<3>, attention_output: Tensor<3>) -> Tensor<3> {
        let mlp = |x: Tensor<3>| {
            self.down
                .forward(silu(self.up.forward(self.mlp_norm.forward(x) * 2.0)))
        };
        if self.parallel {
            return residual.clone() + attention_output + mlp(residual);
        }
        let residual = residual + attention_output;
        residual.clone() + mlp(residual)
    }
}

impl DecoderModel for TestDecoder {
    type Layer<'a> = &'a Block;

    fn shape(&self) -> ModelShape {
        ModelShape::new("test", self.blocks.len(), self.heads)
    }

    fn hidden_size(&self) -> usize {
        self.embedding.val().dims()[1]
    }

    fn vocab_size(&self) -> usize {
        VOCAB
    }

    fn device(&self) -> Device {
        self.embedding.val().device()
    }

    fn max_positions(&self) -> Option<usize> {
        self.max_positions
    }

    fn embed(&self, tokens: Tensor<2, Int>, positions: Positions) -> Tensor<3> {
        self.positions.add(
            burn::tensor::module::embedding(self.embedding.val(), tokens) * 2.0,
            positions,
        )
    }

    fn layer(&self, index: usize) -> pear_core::Result<&Block> {
        Ok(&self.blocks[index])
    }

    fn logits(&self, residual: Tensor<3>) -> Tensor<3> {
        self.unembedding.forward(self.norm.forward(residual) * 3.0)
    }

    fn target_logits(&self, residual: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
        let [rows, _] = residual.dims();
        let x = self.norm.forward(residual) * 3.0;
        (x * self.unembedding.weight.val().transpose().select(0, targets))
            .sum_dim(1)
            .reshape([rows])
    }
}

fn rotary(scaling: RotaryScaling) -> PositionEmbeddingConfig {
    PositionEmbeddingConfig::Rotary(RotaryConfig {
        scaling,
        ..RotaryConfig::new(4, 50.0)
    })
}

/// Six heads of five channels on a hidden size of 16.
pub fn plain() -> AttentionConfig {
    AttentionConfig {
        head_dim: 5,
        ..AttentionConfig::new(16, 6)
    }
}

/// One model for each thing that the patched position has to get right.
pub fn models() -> Vec<(&'static str, TestDecoder)> {
    let grouped = || plain().with_num_key_value_heads(2);
    let scored = |scores| AttentionConfig {
        scores,
        ..grouped()
    };
    let window = |window| {
        scored(AttentionScoreConfig {
            window: Some(window),
            ..AttentionScoreConfig::default()
        })
    };
    let dynamic = RotaryScaling::DynamicNtk {
        factor: 2.0,
        original_max_position_embeddings: 5,
    };
    let capped = AttentionScoreConfig {
        scale: Some(0.6),
        soft_cap: Some(4.0),
        window: None,
    };
    let serial = |config| TestDecoder::new(3, config, false);
    vec![
        ("no positions", serial(plain())),
        (
            "one key/value head",
            serial(plain().with_num_key_value_heads(1)),
        ),
        (
            "rotary, grouped",
            serial(grouped().with_position_embedding(rotary(RotaryScaling::None))),
        ),
        (
            "dynamic rotary",
            serial(grouped().with_position_embedding(rotary(dynamic))),
        ),
        (
            "alibi",
            serial(
                grouped().with_position_embedding(PositionEmbeddingConfig::Alibi {
                    num_heads: 6,
                    max_bias: 8.0,
                }),
            ),
        ),
        ("relative", {
            let buckets = RelativeConfig {
                num_heads: 6,
                num_buckets: 8,
                max_distance: 16,
            };
            serial(grouped().with_position_embedding(PositionEmbeddingConfig::Relative(buckets)))
        }),
        (
            "learned",
            serial(
                plain().with_position_embedding(PositionEmbeddingConfig::Learned {
                    num_positions: 40,
                    width: 16,
                }),
            ),
        ),
        ("window of 5", serial(window(5))),
        ("window of 1, alibi", {
            serial(
                window(1).with_position_embedding(PositionEmbeddingConfig::Alibi {
                    num_heads: 6,
                    max_bias: 8.0,
                }),
            )
        }),
        ("scaled, capped", serial(scored(capped))),
        (
            "biases, norms",
            serial(AttentionConfig {
                qkv_bias: true,
                output_bias: true,
                qk_norm: Some(QkNorm::Head(NormConfig::Rms { eps: 1e-6 })),
                ..grouped()
            }),
        ),
        (
            "parallel",
            TestDecoder::new(
                3,
                grouped().with_position_embedding(rotary(RotaryScaling::None)),
                true,
            ),
        ),
    ]
}

/// A model that copies by construction. The residual stream holds one-hot tokens, then one-hot positions; every head looks at the
/// token after the one of n positions ago, and adds it as often as `strengths[layer][head]` says.
pub struct Copier {
    layers: Vec<CopierAttention>,
    embedding: Tensor<2>,
    positions: Tensor<2>,
}

pub struct CopierAttention {
    /// `[hidden, hidden]`: position i to where it looks.
    look: Tensor<2>,
    /// `[1, heads, 1, 1]`.
    strengths: Tensor<4>,
    /// Whether a head that gives nothing breaks the layer.
    pub brittle: bool,
}

impl Copier {
    /// For sequences of `n` tokens repeated, out of [`VOCAB`].
    pub fn new(n: usize, strengths: &[&[f32]], brittle: bool) -> Self {
        let (device, hidden) = (Device::flex(), VOCAB + 2 * n);
        let mut look = vec![0f32; hidden * hidden];
        for i in n - 1..2 * n {
            look[(VOCAB + i) * hidden + VOCAB + i + 1 - n] = 400.0;
        }
        let one_hot = |rows: usize, from: usize| {
            let values = (0..rows * hidden)
                .map(|i| f32::from(u8::from(i % hidden == from + i / hidden)))
                .collect::<Vec<_>>();
            Tensor::<2>::from_data(TensorData::new(values, [rows, hidden]), &device)
        };
        let layer = |strengths: &&[f32]| CopierAttention {
            look: Tensor::from_data(TensorData::new(look.clone(), [hidden, hidden]), &device),
            strengths: Tensor::<1>::from_floats(*strengths, &device).reshape([
                1,
                strengths.len(),
                1,
                1,
            ]),
            brittle,
        };
        Self {
            layers: strengths.iter().map(layer).collect(),
            embedding: one_hot(VOCAB, 0),
            positions: one_hot(2 * n, VOCAB),
        }
    }
}

impl HeadAttention for CopierAttention {
    fn project_qkv(&self, input: Tensor<3>, _: Positions) -> Qkv {
        let [batch, seq, hidden] = input.dims();
        let heads = |x: Tensor<3>| {
            x.unsqueeze_dim::<4>(1)
                .expand([batch, self.strengths.dims()[1], seq, hidden])
        };
        let query = input.clone().matmul(self.look.clone().unsqueeze());
        let tokens = input
            .clone()
            .slice_fill([0..batch, 0..seq, VOCAB..hidden], 0.0);
        Qkv {
            query: heads(query),
            key: heads(input),
            value: heads(tokens),
        }
    }

    fn output_projection(&self, heads: Tensor<4>) -> Tensor<3> {
        let [batch, _, seq, hidden] = heads.dims();
        let heads = if self.brittle {
            heads.clone() / heads.abs().sum_dim(3)
        } else {
            heads
        };
        (heads * self.strengths.clone())
            .sum_dim(1)
            .reshape([batch, seq, hidden])
    }
}

impl DecoderLayer for CopierAttention {
    type Attention = Self;

    fn attention(&self) -> &Self {
        self
    }

    fn attention_input(&self, residual: Tensor<3>) -> Tensor<3> {
        // Copies pile up on the tokens; what was read stays what it was.
        residual.clamp(0.0, 1.0)
    }

    fn output(&self, residual: Tensor<3>, attention_output: Tensor<3>) -> Tensor<3> {
        residual + attention_output
    }
}

impl DecoderModel for Copier {
    type Layer<'a> = &'a CopierAttention;

    fn shape(&self) -> ModelShape {
        ModelShape::new(
            "copier",
            self.layers.len(),
            self.layers[0].strengths.dims()[1],
        )
    }

    fn hidden_size(&self) -> usize {
        self.embedding.dims()[1]
    }

    fn vocab_size(&self) -> usize {
        VOCAB
    }

    fn device(&self) -> Device {
        self.embedding.device()
    }

    fn embed(&self, tokens: Tensor<2, Int>, positions: Positions) -> Tensor<3> {
        let seq = tokens.dims()[1];
        let positions = self.positions.clone().narrow(0, positions.start, seq);
        burn::tensor::module::embedding(self.embedding.clone(), tokens) + positions.unsqueeze::<3>()
    }

    fn layer(&self, index: usize) -> pear_core::Result<&CopierAttention> {
        Ok(&self.layers[index])
    }

    fn logits(&self, residual: Tensor<3>) -> Tensor<3> {
        residual.narrow(2, 0, VOCAB)
    }
}
