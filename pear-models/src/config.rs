//! What varies between decoders.

use burn::prelude::*;
use pear_core::kernels::Activation;
use pear_core::position::{PositionEmbeddingConfig, RotaryConfig};
use pear_core::{AttentionConfig, ModelShape, NormConfig, Result};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::config_error::invalid;
use crate::dense_mlp_config::DenseMlpConfig;
use crate::layer_config::{LayerConfig, MlpConfig};

/// The sizes of a decoder whose layers are alike, named as in `config.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecoderSizes {
    /// Tokens.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width within the MLP.
    pub intermediate_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Query heads, and as many key/value heads.
    pub num_attention_heads: usize,
}

/// A decoder-only language model: everything that its forward pass depends on.
///
/// Serde reads and writes it with these fields, checked as by [`validate`](Self::validate); a checkpoint's `config.json` is read by
/// [`from_json`](Self::from_json).
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    /// `model_type`.
    pub architecture: String,
    /// Tokens.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the token embedding where it is not `hidden_size` (`word_embed_proj_dim` of OPT).
    pub embedding_size: usize,
    /// Positions that are added to the token embeddings; those that act within attention belong to the layers.
    pub position_embedding: PositionEmbeddingConfig,
    /// The layers, the first one first. Those with equal position embeddings share their tables.
    pub layers: Vec<LayerConfig>,
    /// The norm of the embeddings (BLOOM).
    pub embedding_norm: Option<NormConfig>,
    /// The norm of the residual stream before the unembedding.
    pub final_norm: Option<NormConfig>,
    /// Multiplies the token embedding.
    pub embedding_scale: Option<f64>,
    /// Whether the unembedding is the embedding.
    pub tie_word_embeddings: bool,
    /// Whether rows of the unembedding are scaled to length 1 (Baichuan 2).
    pub normalized_lm_head: bool,
    /// Whether the unembedding has a bias (GPT-J, Phi-2).
    pub lm_head_bias: bool,
    /// Multiplies the logits (`1 / logits_scaling` of Granite).
    pub logit_scale: Option<f64>,
    /// The logits are then `cap · tanh(logit / cap)` (`final_logit_softcapping` of Gemma 2).
    pub logit_soft_cap: Option<f64>,
    /// Ids that stand for no text: `bos_token_id`, `eos_token_id`, `pad_token_id`.
    pub special_tokens: Vec<u32>,
    /// `bos_token_id`.
    pub bos_token: Option<u32>,
    /// `eos_token_id`, one or more.
    pub eos_tokens: Vec<u32>,
}

impl DecoderConfig {
    /// A decoder of these layers with an unembedding of its own, the norm before which is that of the last layer.
    pub fn new(vocab_size: usize, layers: Vec<LayerConfig>) -> Self {
        let hidden_size = layers
            .first()
            .map_or(0, |layer| layer.attention.hidden_size);
        Self {
            architecture: String::new(),
            vocab_size,
            hidden_size,
            embedding_size: hidden_size,
            position_embedding: PositionEmbeddingConfig::None,
            embedding_norm: None,
            final_norm: layers.last().map(|layer| layer.norm),
            layers,
            embedding_scale: None,
            tie_word_embeddings: false,
            normalized_lm_head: false,
            lm_head_bias: false,
            logit_scale: None,
            logit_soft_cap: None,
            special_tokens: Vec::new(),
            bos_token: None,
            eos_tokens: Vec::new(),
        }
    }

    /// A Llama-shaped decoder with rotary positions of base 10000, RMS norms and a gated SiLU MLP.
    ///
    /// ```
    /// use pear_models::{DecoderConfig, DecoderSizes};
    ///
    /// let mut config = DecoderConfig::llama(DecoderSizes {
    ///     vocab_size: 100,
    ///     hidden_size: 32,
    ///     intermediate_size: 64,
    ///     num_hidden_layers: 2,
    ///     num_attention_heads: 4,
    /// });
    /// config.layers[1].attention.scores.window = Some(16);
    /// assert!(config.validate().is_ok());
    /// ```
    pub fn llama(sizes: DecoderSizes) -> Self {
        let attention = AttentionConfig::new(sizes.hidden_size, sizes.num_attention_heads);
        let rotary = RotaryConfig::new(attention.head_dim, 10000.0);
        let layer = LayerConfig::new(
            attention.with_position_embedding(PositionEmbeddingConfig::Rotary(rotary)),
            MlpConfig::Dense(DenseMlpConfig {
                intermediate_size: sizes.intermediate_size,
                activation: Activation::Silu,
                gated: true,
                bias: false,
            }),
            NormConfig::Rms { eps: 1e-5 },
        );
        Self {
            architecture: "llama".into(),
            ..Self::new(sizes.vocab_size, vec![layer; sizes.num_hidden_layers])
        }
    }

    /// The grid of heads.
    pub fn shape(&self) -> ModelShape {
        let heads = |layer: &LayerConfig| layer.attention.num_attention_heads;
        let num_heads = self.layers.first().map_or(0, heads);
        ModelShape::new(&self.architecture, self.layers.len(), num_heads)
    }

    /// The longest sequence that the model can read, if there is one: learned positions end somewhere.
    pub fn max_positions(&self) -> Option<usize> {
        self.position_embedding.max_positions()
    }

    /// # Errors
    /// [`Error::Config`](pear_core::Error::Config) for sizes that are zero or do not fit one another, for layers of unequal width or number
    /// of heads, and for whatever [`LayerConfig::validate`] refuses.
    pub fn validate(&self) -> Result<()> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("embedding_size", self.embedding_size),
            ("num_hidden_layers", self.layers.len()),
        ];
        if let Some(&(field, value)) = sizes.iter().find(|(_, value)| *value == 0) {
            return Err(invalid(field, value, "expected at least 1"));
        }
        for norm in self.embedding_norm.iter().chain(&self.final_norm) {
            norm.validate()?;
        }
        self.validate_positions()?;
        let num_heads = self.shape().num_heads;
        for (index, layer) in self.layers.iter().enumerate() {
            layer.validate()?;
            let attention = &layer.attention;
            for (field, value, all) in [
                ("hidden_size", attention.hidden_size, self.hidden_size),
                (
                    "num_attention_heads",
                    attention.num_attention_heads,
                    num_heads,
                ),
            ] {
                if value != all {
                    let expected =
                        format!("expected {all} in layer {index}, as in the whole model");
                    return Err(invalid(field, value, expected));
                }
            }
        }
        Ok(())
    }

    /// Positions that are added to the token embeddings are as wide as these, and of a kind that can be added.
    fn validate_positions(&self) -> Result<()> {
        self.position_embedding.validate()?;
        let width = match &self.position_embedding {
            PositionEmbeddingConfig::None => return Ok(()),
            PositionEmbeddingConfig::Learned { width, .. } => *width,
            PositionEmbeddingConfig::Sinusoidal(sinusoidal) => sinusoidal.width,
            _ => {
                return Err(invalid(
                    "position_embedding",
                    "within attention",
                    "positions that act within attention belong to the layers, not to the decoder",
                ));
            }
        };
        if width != self.hidden_size {
            let expected = format!("expected hidden_size = {}", self.hidden_size);
            return Err(invalid("width", width, expected));
        }
        Ok(())
    }

    /// The model with random weights, drawn when they are first used.
    ///
    /// # Errors
    /// As [`validate`](Self::validate).
    pub fn init(&self, device: &Device) -> Result<crate::Decoder> {
        crate::Decoder::init(self, device)
    }
}

/// The fields of a [`DecoderConfig`], not checked yet.
#[derive(Serialize, Deserialize)]
#[serde(remote = "DecoderConfig")]
struct Unchecked {
    architecture: String,
    vocab_size: usize,
    hidden_size: usize,
    embedding_size: usize,
    position_embedding: PositionEmbeddingConfig,
    layers: Vec<LayerConfig>,
    embedding_norm: Option<NormConfig>,
    final_norm: Option<NormConfig>,
    embedding_scale: Option<f64>,
    tie_word_embeddings: bool,
    normalized_lm_head: bool,
    lm_head_bias: bool,
    logit_scale: Option<f64>,
    logit_soft_cap: Option<f64>,
    special_tokens: Vec<u32>,
    bos_token: Option<u32>,
    eos_tokens: Vec<u32>,
}

impl Serialize for DecoderConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Unchecked::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for DecoderConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let config = Unchecked::deserialize(deserializer)?;
        config.validate().map_err(de::Error::custom)?;
        Ok(config)
    }
}
