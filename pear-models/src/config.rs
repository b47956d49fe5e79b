//! What varies between decoders.

use burn::prelude::*;
use pear_core::kernels::Activation;
use pear_core::position::PositionEmbeddingConfig;
use pear_core::{AttentionConfig, AttentionScoreConfig, ModelShape, NormConfig};

/// The kind of norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// Root mean square, a weight and no bias: Llama, Qwen, Baichuan.
    Rms,
    /// The same, in half precision rounded once, after the weight: OLMo 2.
    RmsRoundedOnce,
    /// Times `1 + weight`, rounded once: Gemma.
    RmsPlusOne,
    /// Mean and variance: GPT-2, OPT, BLOOM, MPT, GPT-NeoX.
    Layer {
        /// Whether there is a bias (MPT has none).
        bias: bool,
    },
}

/// How a layer adds attention and MLP to the residual stream `x`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residual {
    /// `x += attention(norm(x)); x += mlp(norm(x))`: most decoders.
    Serial,
    /// As `Serial`, with the norms' outputs in place of `x` in the sums (`apply_residual_connection_post_layernorm` of BLOOM).
    SerialFromNorm,
    /// `x += attention(norm1(x)) + mlp(norm2(x))`: GPT-NeoX, Falcon-40B.
    Parallel,
    /// `x += attention(norm(x)) + mlp(norm(x))`: GPT-J, Phi-2, Falcon-7B.
    ParallelOneNorm,
    /// `x = norm(x + attention(x)); x = norm(x + mlp(x))`: OPT-350m.
    PostNorm,
    /// `x += norm(attention(x)); x += norm(mlp(x))`: OLMo 2.
    NormedBranches,
    /// `x += norm(attention(norm(x))); x += norm(mlp(norm(x)))`: Gemma 2.
    Sandwich,
}

impl Residual {
    /// The norms of a layer.
    pub(crate) fn norms(self) -> &'static [&'static str] {
        match self {
            Self::ParallelOneNorm => &["input_layernorm"],
            Self::NormedBranches => &["post_attention_layernorm", "post_feedforward_layernorm"],
            Self::Sandwich => &[
                "input_layernorm",
                "post_attention_layernorm",
                "pre_feedforward_layernorm",
                "post_feedforward_layernorm",
            ],
            Self::Serial | Self::SerialFromNorm | Self::Parallel | Self::PostNorm => {
                &["input_layernorm", "post_attention_layernorm"]
            }
        }
    }
}

/// A decoder-only language model: everything that its forward pass depends on.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    /// `model_type`.
    pub architecture: String,
    /// Tokens.
    pub vocab_size: usize,
    /// Width of the token embedding where it is not `hidden_size` (`word_embed_proj_dim` of OPT).
    pub embedding_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Sizes, biases and scores of every layer's attention; its position embedding is that of the model, wherever it acts.
    pub attention: AttentionConfig,
    /// The sliding window of each layer (`None`: sees everything); empty where no layer has one.
    pub windows: Vec<Option<usize>>,
    /// Whether positions do not act within the attention of a layer (`no_rope_layers` of SmolLM3, which marks those where they do); empty
    /// where they act in all.
    pub unpositioned: Vec<bool>,
    /// Scores are also divided by the layer's number, counted from 1 (`scale_attn_by_inverse_layer_idx` of GPT-2).
    pub inverse_layer_scale: bool,
    /// Width within the MLP.
    pub intermediate_size: usize,
    /// Whether the MLP multiplies `act(gate)` with `up`, or only acts on `up`.
    pub gated_mlp: bool,
    /// Whether the MLP's projections have biases.
    pub mlp_bias: bool,
    /// The MLP's activation.
    pub activation: Activation,
    /// The kind of every norm.
    pub norm: NormKind,
    /// Epsilon of every norm.
    pub norm_eps: f64,
    /// How a layer adds up.
    pub residual: Residual,
    /// Multiplies what attention and MLP add to the residual stream (`residual_multiplier` of Granite).
    pub residual_scale: Option<f64>,
    /// Whether the embedding is normed (BLOOM).
    pub embedding_norm: bool,
    /// Whether the residual stream is normed before the unembedding.
    pub final_norm: bool,
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
    /// Ids that are no words: `bos_token_id`, `eos_token_id`, `pad_token_id`.
    pub special_tokens: Vec<u32>,
    /// `bos_token_id`.
    pub bos_token: Option<u32>,
    /// `eos_token_id`, one or more.
    pub eos_tokens: Vec<u32>,
}

impl DecoderConfig {
    /// A Llama-shaped decoder with rotary positions of base 10000, RMS norms, a gated SiLU MLP and an unembedding of its own.
    pub fn llama(
        vocab_size: usize,
        hidden_size: usize,
        intermediate_size: usize,
        num_hidden_layers: usize,
        num_attention_heads: usize,
    ) -> Self {
        let attention = AttentionConfig::new(hidden_size, num_attention_heads);
        let rotary = pear_core::position::RotaryConfig::new(attention.head_dim, 10000.0);
        Self {
            architecture: "llama".into(),
            vocab_size,
            embedding_size: hidden_size,
            num_hidden_layers,
            attention: attention.with_position_embedding(PositionEmbeddingConfig::Rotary(rotary)),
            windows: Vec::new(),
            unpositioned: Vec::new(),
            inverse_layer_scale: false,
            intermediate_size,
            gated_mlp: true,
            mlp_bias: false,
            activation: Activation::Silu,
            norm: NormKind::Rms,
            norm_eps: 1e-5,
            residual: Residual::Serial,
            residual_scale: None,
            embedding_norm: false,
            final_norm: true,
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

    /// Width of the residual stream.
    pub fn hidden_size(&self) -> usize {
        self.attention.hidden_size
    }

    /// Every norm of the residual stream.
    pub(crate) fn norm(&self) -> NormConfig {
        let eps = self.norm_eps;
        match self.norm {
            NormKind::Rms => NormConfig::Rms { eps },
            NormKind::RmsRoundedOnce => NormConfig::RmsRoundedOnce { eps },
            NormKind::RmsPlusOne => NormConfig::RmsPlusOne { eps },
            NormKind::Layer { bias } => NormConfig::Layer { eps, bias },
        }
    }

    /// The grid of heads.
    pub fn shape(&self) -> ModelShape {
        ModelShape::new(
            &self.architecture,
            self.num_hidden_layers,
            self.attention.num_attention_heads,
        )
    }

    /// The attention of layer `layer`: with its window and scale, and only those positions that act within attention.
    pub fn layer_attention(&self, layer: usize) -> AttentionConfig {
        let mut attention = self.attention.clone();
        if attention.position_embedding.is_absolute() || self.unpositioned.get(layer) == Some(&true)
        {
            attention.position_embedding = PositionEmbeddingConfig::None;
        }
        let AttentionScoreConfig { scale, window, .. } = &mut attention.scores;
        if let Some(own) = self.windows.get(layer) {
            *window = *own;
        }
        if self.inverse_layer_scale {
            let plain = scale.unwrap_or_else(|| (attention.head_dim as f64).sqrt().recip());
            *scale = Some(plain / (layer + 1) as f64);
        }
        attention
    }

    /// Path and shape of every parameter of the [`Decoder`](crate::Decoder), without making it.
    pub(crate) fn parameters(&self) -> Vec<(String, Vec<usize>)> {
        let (hidden, embedding, inner) = (
            self.hidden_size(),
            self.embedding_size,
            self.intermediate_size,
        );
        let attention = &self.attention;
        let (query, key_value) = (
            attention.num_attention_heads * attention.head_dim,
            attention.num_key_value_heads * attention.head_dim,
        );
        let mut all = Vec::new();
        let mut add = |path: String, shape: &[usize]| all.push((path, shape.to_vec()));
        add("embed_tokens".into(), &[self.vocab_size, embedding]);
        if embedding != hidden {
            add("project_in.weight".into(), &[embedding, hidden]);
            add("project_out.weight".into(), &[hidden, embedding]);
        }
        if let PositionEmbeddingConfig::Learned {
            num_positions,
            width,
        } = attention.position_embedding
        {
            add("positions.weight".into(), &[num_positions, width]);
        }
        let norm_bias = matches!(self.norm, NormKind::Layer { bias: true });
        let vectors = |bias: bool| {
            if bias {
                &["weight", "bias"][..]
            } else {
                &["weight"]
            }
        };
        for (name, present) in [
            ("embed_norm", self.embedding_norm),
            ("norm", self.final_norm),
        ] {
            for kind in vectors(norm_bias).iter().filter(|_| present) {
                add(format!("{name}.{kind}"), &[hidden]);
            }
        }
        if !self.tie_word_embeddings {
            add("lm_head".into(), &[self.vocab_size, embedding]);
        }
        if self.lm_head_bias {
            add("lm_head_bias".into(), &[self.vocab_size]);
        }
        let gate = self
            .gated_mlp
            .then_some(("mlp.gate_proj", hidden, inner, self.mlp_bias));
        let linears = [
            ("self_attn.q_proj", hidden, query, attention.qkv_bias),
            ("self_attn.k_proj", hidden, key_value, attention.qkv_bias),
            ("self_attn.v_proj", hidden, key_value, attention.qkv_bias),
            ("self_attn.o_proj", query, hidden, attention.output_bias),
            ("mlp.up_proj", hidden, inner, self.mlp_bias),
            ("mlp.down_proj", inner, hidden, self.mlp_bias),
        ];
        for layer in 0..self.num_hidden_layers {
            for (name, from, to, bias) in linears.into_iter().chain(gate) {
                add(format!("layers.{layer}.{name}.weight"), &[from, to]);
                if bias {
                    add(format!("layers.{layer}.{name}.bias"), &[to]);
                }
            }
            for name in self.residual.norms() {
                for kind in vectors(norm_bias) {
                    add(format!("layers.{layer}.{name}.{kind}"), &[hidden]);
                }
            }
            if let Some(kind) = attention.qk_norm {
                for (name, heads) in [
                    ("q_norm", attention.num_attention_heads),
                    ("k_norm", attention.num_key_value_heads),
                ] {
                    let width = kind.width(heads, attention.head_dim);
                    add(format!("layers.{layer}.self_attn.{name}.weight"), &[width]);
                }
            }
        }
        all
    }

    /// The model with random weights, drawn when they are first used.
    ///
    /// # Errors
    /// [`pear_core::Error::Config`] for sizes that cannot be.
    pub fn init(&self, device: &Device) -> pear_core::Result<crate::Decoder> {
        crate::Decoder::init(self, device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::module::{Module, ModuleVisitor, Param};
    use pear_core::QkNorm;

    #[derive(Default)]
    struct Paths(Vec<String>, Vec<(String, Vec<usize>)>);

    impl ModuleVisitor for Paths {
        fn enter_module(&mut self, name: &str, _container_type: &str) {
            self.0.push(name.into());
        }

        fn exit_module(&mut self, _name: &str, _container_type: &str) {
            self.0.pop();
        }

        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.1.push((self.0.join("."), param.lazy_shape().to_vec()));
        }
    }

    #[test]
    fn parameters_are_those_of_the_decoder() {
        let llama = DecoderConfig::llama(11, 12, 20, 2, 3);
        let mut full = DecoderConfig::llama(11, 12, 20, 2, 3);
        full.embedding_size = 6;
        full.norm = NormKind::Layer { bias: true };
        (
            full.gated_mlp,
            full.mlp_bias,
            full.embedding_norm,
            full.tie_word_embeddings,
        ) = (false, true, true, true);
        full.attention.position_embedding = PositionEmbeddingConfig::Learned {
            num_positions: 9,
            width: 12,
        };
        full.attention.qk_norm = Some(QkNorm::Head(NormConfig::Rms { eps: 1e-6 }));
        full.lm_head_bias = true;
        (full.attention.qkv_bias, full.attention.output_bias) = (true, true);
        let mut sandwich = DecoderConfig::llama(11, 12, 20, 2, 3);
        (sandwich.norm, sandwich.residual) = (NormKind::RmsPlusOne, Residual::Sandwich);
        let mut branches = DecoderConfig::llama(11, 12, 20, 2, 6);
        branches.residual = Residual::NormedBranches;
        branches.attention.num_key_value_heads = 3;
        branches.attention.qk_norm =
            Some(QkNorm::Projection(NormConfig::RmsRoundedOnce { eps: 1e-6 }));
        let mut one_norm = DecoderConfig::llama(11, 12, 20, 2, 3);
        one_norm.residual = Residual::ParallelOneNorm;
        for config in [llama, full, sandwich, branches, one_norm] {
            let mut seen = Paths::default();
            config.init(&Device::flex()).unwrap().visit(&mut seen);
            let mut expected = config.parameters();
            seen.1.sort();
            expected.sort();
            assert_eq!(seen.1, expected);
        }
    }
}
