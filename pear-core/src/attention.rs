//! Grouped-query attention whose heads can be re-weighted.

use std::ops::Range;

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::prelude::*;
use serde::{Deserialize, Serialize};

use crate::attend::attend;
use crate::coefficients::LayerCoefficients;
use crate::kernels::linear_forward;
use crate::model::{HeadAttention, Qkv};
use crate::norm::{Norm, NormConfig};
use crate::position::{PositionEmbedding, PositionEmbeddingConfig, Positions};
use crate::score_config::AttentionScoreConfig;
use crate::{Error, Result};

/// The norm of queries and keys, by which of their channels are normed together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum QkNorm {
    /// Those of each head, all heads with the same weights (Qwen3).
    Head(NormConfig),
    /// Those of all heads (OLMo 2).
    Projection(NormConfig),
    /// Those of each head, every head with weights of its own (Command R+).
    EachHead(NormConfig),
}

impl QkNorm {
    /// The norm itself.
    pub fn norm(&self) -> NormConfig {
        match *self {
            Self::Head(norm) | Self::Projection(norm) | Self::EachHead(norm) => norm,
        }
    }

    /// How many weights the norm has, where there are `heads` heads of `head_dim` channels.
    pub fn width(&self, heads: usize, head_dim: usize) -> usize {
        match self {
            Self::Head(_) => head_dim,
            Self::Projection(_) | Self::EachHead(_) => heads * head_dim,
        }
    }

    fn init(&self, heads: usize, head_dim: usize, device: &Device) -> Norm {
        self.norm().init(self.width(heads, head_dim), device)
    }
}

/// Sizes and options of an attention layer; fields are named as in `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttentionConfig {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key/value heads: `num_attention_heads`, or a divisor of it.
    pub num_key_value_heads: usize,
    /// Channels of a head; need not be `hidden_size / num_attention_heads`.
    pub head_dim: usize,
    /// Whether `q_proj`, `k_proj` and `v_proj` have biases.
    pub qkv_bias: bool,
    /// Whether `o_proj` has a bias.
    pub output_bias: bool,
    /// The norms of queries and keys, if they are normed.
    pub qk_norm: Option<QkNorm>,
    /// Queries, keys and values are clamped to `±clip_qkv`.
    pub clip_qkv: Option<f64>,
    /// Scale, soft cap and sliding window.
    pub scores: AttentionScoreConfig,
    /// Positions, where they act within attention.
    pub position_embedding: PositionEmbeddingConfig,
}

impl AttentionConfig {
    /// Plain multi-head attention: no biases, no norms, no positions.
    pub fn new(hidden_size: usize, num_attention_heads: usize) -> Self {
        Self {
            hidden_size,
            num_attention_heads,
            num_key_value_heads: num_attention_heads,
            head_dim: hidden_size / num_attention_heads.max(1),
            qkv_bias: false,
            output_bias: false,
            qk_norm: None,
            clip_qkv: None,
            scores: AttentionScoreConfig::default(),
            position_embedding: PositionEmbeddingConfig::None,
        }
    }

    /// Sets the channels of a head.
    pub fn with_head_dim(mut self, head_dim: usize) -> Self {
        self.head_dim = head_dim;
        self
    }

    /// Sets whether `q_proj`, `k_proj` and `v_proj` have biases.
    pub fn with_qkv_bias(mut self, qkv_bias: bool) -> Self {
        self.qkv_bias = qkv_bias;
        self
    }

    /// Sets whether `o_proj` has a bias.
    pub fn with_output_bias(mut self, output_bias: bool) -> Self {
        self.output_bias = output_bias;
        self
    }

    /// Sets the norms of queries and keys.
    pub fn with_qk_norm(mut self, qk_norm: Option<QkNorm>) -> Self {
        self.qk_norm = qk_norm;
        self
    }

    /// Sets the limit that queries, keys and values are clamped to.
    pub fn with_clip_qkv(mut self, clip_qkv: Option<f64>) -> Self {
        self.clip_qkv = clip_qkv;
        self
    }

    /// Sets scale, soft cap and sliding window.
    pub fn with_scores(mut self, scores: AttentionScoreConfig) -> Self {
        self.scores = scores;
        self
    }

    /// Sets the number of key/value heads.
    pub fn with_num_key_value_heads(mut self, num_key_value_heads: usize) -> Self {
        self.num_key_value_heads = num_key_value_heads;
        self
    }

    /// Sets the position embedding.
    pub fn with_position_embedding(mut self, position_embedding: PositionEmbeddingConfig) -> Self {
        self.position_embedding = position_embedding;
        self
    }

    /// # Errors
    /// [`Error::Config`] for sizes that are zero or do not divide, an odd rotary dimension, or one wider than a head.
    pub fn validate(&self) -> Result<()> {
        let sizes = [
            ("hidden_size", self.hidden_size),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("head_dim", self.head_dim),
        ];
        if let Some(&(field, value)) = sizes.iter().find(|(_, value)| *value == 0) {
            return Err(Error::config(field, value, "expected at least 1"));
        }
        if !self
            .num_attention_heads
            .is_multiple_of(self.num_key_value_heads)
        {
            let expected = format!(
                "expected a divisor of num_attention_heads = {}",
                self.num_attention_heads
            );
            return Err(Error::config(
                "num_key_value_heads",
                self.num_key_value_heads,
                expected,
            ));
        }
        if self.scores.window == Some(0) {
            return Err(Error::config("sliding_window", 0, "expected at least 1"));
        }
        if let Some(limit) = self.clip_qkv
            && !(limit.is_finite() && limit > 0.0)
        {
            return Err(Error::config(
                "clip_qkv",
                limit,
                "expected a positive number",
            ));
        }
        if let Some(qk_norm) = self.qk_norm {
            qk_norm.norm().validate()?;
        }
        self.position_embedding.validate()?;
        match &self.position_embedding {
            PositionEmbeddingConfig::Rotary(rotary) if rotary.rotary_dim > self.head_dim => {
                Err(Error::config(
                    "rotary_dim",
                    rotary.rotary_dim,
                    format!("expected at most head_dim = {}", self.head_dim),
                ))
            }
            _ => Ok(()),
        }
    }

    /// The layer, its weights drawn at random when they are first used.
    ///
    /// # Errors
    /// As [`validate`](Self::validate).
    pub fn init(&self, device: &Device) -> Result<Attention> {
        let position_embedding = self.position_embedding.init(device)?;
        self.init_with(position_embedding, device)
    }

    /// As [`init`](Self::init), sharing the position embedding (and its tables) with other layers.
    ///
    /// # Errors
    /// As [`validate`](Self::validate).
    pub fn init_with(
        &self,
        position_embedding: PositionEmbedding,
        device: &Device,
    ) -> Result<Attention> {
        self.validate()?;
        let linear = |from: usize, to: usize, bias: bool| {
            LinearConfig::new(from, to).with_bias(bias).init(device)
        };
        let (query, key_value) = (
            self.num_attention_heads * self.head_dim,
            self.num_key_value_heads * self.head_dim,
        );
        let norm = |heads| Some(self.qk_norm?.init(heads, self.head_dim, device));
        Ok(Attention {
            q_proj: linear(self.hidden_size, query, self.qkv_bias),
            k_proj: linear(self.hidden_size, key_value, self.qkv_bias),
            v_proj: linear(self.hidden_size, key_value, self.qkv_bias),
            o_proj: linear(query, self.hidden_size, self.output_bias),
            q_norm: norm(self.num_attention_heads),
            k_norm: norm(self.num_key_value_heads),
            qk_norm: self.qk_norm,
            coefficients: None,
            position_embedding,
            num_attention_heads: self.num_attention_heads,
            num_key_value_heads: self.num_key_value_heads,
            head_dim: self.head_dim,
            clip_qkv: self.clip_qkv,
            scores: self.scores,
        })
    }
}

/// Multi-head, grouped-query or multi-query attention, made by [`AttentionConfig::init`].
///
/// Weights are burn `Linear`s: `[in, out]`.
#[derive(Module, Debug)]
pub struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    q_norm: Option<Norm>,
    k_norm: Option<Norm>,
    #[module(skip)]
    qk_norm: Option<QkNorm>,
    /// Absent, not ones, where nothing is re-weighted.
    coefficients: Option<LayerCoefficients>,
    position_embedding: PositionEmbedding,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    head_dim: usize,
    clip_qkv: Option<f64>,
    #[module(skip)]
    scores: AttentionScoreConfig,
}

impl Attention {
    /// With these coefficients on its heads from now on, in place of any it had, or with none.
    ///
    /// # Errors
    /// [`Error::HeadCount`] for coefficients of a layer with another number of heads.
    pub fn with_coefficients(mut self, coefficients: Option<LayerCoefficients>) -> Result<Self> {
        if let Some(found) = coefficients.as_ref().map(LayerCoefficients::num_heads)
            && found != self.num_attention_heads
        {
            return Err(Error::HeadCount {
                expected: self.num_attention_heads,
                found,
            });
        }
        self.coefficients = coefficients;
        Ok(self)
    }

    /// The coefficients on its heads.
    pub fn coefficients(&self) -> Option<&LayerCoefficients> {
        self.coefficients.as_ref()
    }

    /// The same function with the coefficients multiplied into the output projection's weight, and none left to apply.
    pub fn fold(mut self) -> Self {
        if let Some(coefficients) = self.coefficients.take() {
            self.o_proj.weight = self
                .o_proj
                .weight
                .map(|weight| coefficients.fixed().fold(weight));
        }
        self
    }

    /// Both halves for a whole sequence: `[batch, seq, hidden]` to `[batch, seq, hidden]`.
    pub fn forward(&self, input: Tensor<3>, positions: Positions) -> Tensor<3> {
        let Qkv { query, key, value } = self.project_qkv(input, positions);
        self.output_projection(attend(self, query, key, value))
    }

    /// `[batch, seq, heads * head_dim]` to `[batch, heads, seq, head_dim]`, normed on the way.
    fn split_heads(&self, mut x: Tensor<3>, heads: usize, norm: Option<&Norm>) -> Tensor<4> {
        let [batch, seq, _] = x.dims();
        let norm = norm.zip(self.qk_norm);
        if let Some((norm, QkNorm::Projection(_))) = norm {
            x = norm.forward(x);
        }
        if let Some(limit) = self.clip_qkv {
            x = x.clamp(-limit, limit);
        }
        let mut x = x.reshape([batch, seq, heads, self.head_dim]);
        if let Some((norm, QkNorm::EachHead(_))) = norm {
            x = norm.forward_rows(x);
        }
        let x = x.swap_dims(1, 2);
        match norm {
            Some((norm, QkNorm::Head(_))) => norm.forward(x),
            _ => x,
        }
    }
}

impl HeadAttention for Attention {
    fn project_qkv(&self, input: Tensor<3>, positions: Positions) -> Qkv {
        let query = self.split_heads(
            linear_forward(&self.q_proj, input.clone()),
            self.num_attention_heads,
            self.q_norm.as_ref(),
        );
        let key = self.split_heads(
            linear_forward(&self.k_proj, input.clone()),
            self.num_key_value_heads,
            self.k_norm.as_ref(),
        );
        let value = self.split_heads(
            linear_forward(&self.v_proj, input),
            self.num_key_value_heads,
            None,
        );
        Qkv {
            query: self.position_embedding.rotate(query, positions),
            key: self.position_embedding.rotate(key, positions),
            value,
        }
    }

    fn output_projection(&self, heads: Tensor<4>) -> Tensor<3> {
        let heads = match &self.coefficients {
            Some(coefficients) => coefficients.scale(heads),
            None => heads,
        };
        let [batch, num_heads, seq, head_dim] = heads.dims();
        linear_forward(
            &self.o_proj,
            heads
                .swap_dims(1, 2)
                .reshape([batch, seq, num_heads * head_dim]),
        )
    }

    fn score_config(&self) -> AttentionScoreConfig {
        self.scores
    }

    fn score_bias(&self, queries: Range<usize>, keys: Range<usize>) -> Option<Tensor<4>> {
        let device = self.o_proj.weight.val().device().inner();
        self.position_embedding.score_bias(queries, keys, &device)
    }

    fn coefficients(&self) -> Option<&LayerCoefficients> {
        self.coefficients.as_ref()
    }
}
