//! The families of models: what their `config.json` and their tensor names mean.
//!
//! A family is data, one [`Family`] for each `model_type`: the keys of its `config.json` with their defaults, what the keys do not say, and a
//! table of the tensors that hold the parameters of the [`Decoder`](crate::Decoder). No forward pass is written here.

mod arcee;
mod baichuan;
mod bloom;
mod cohere;
mod config_file;
mod custom_code;
mod exaone4;
mod experts;
mod falcon;
mod gemma;
mod gemma3;
mod glm;
mod gpt2;
mod gpt_bigcode;
mod gpt_neo;
mod gpt_neox;
mod gptj;
mod granite;
mod granite_moe;
mod ignored;
mod inert;
mod llama;
mod mistral;
mod mixtral;
mod mpt;
mod nemotron;
mod olmo;
mod olmo2;
mod olmo3;
mod olmoe;
mod opt;
mod phi;
mod phi3;
mod phimoe;
mod qwen;
mod qwen_moe;
mod reader;
mod refused;
mod rotary;
mod seed_oss;
mod smollm3;
mod stablelm;
mod starcoder2;
mod tensors;
mod windows;
mod xglm;

use pear_core::kernels::Activation;
use pear_core::position::PositionEmbeddingConfig;
use pear_core::{AttentionConfig, NormConfig};

use crate::config::DecoderConfig;
use crate::dense_mlp_config::DenseMlpConfig;
use crate::error::Error;
use crate::layer_config::{LayerConfig, MlpConfig, Residual};
pub(crate) use config_file::{ModelConfig, config_of, read_json};
pub use ignored::IgnoredKeys;
pub(crate) use reader::ConfigReader;
use rotary::RotaryKeys;
pub(crate) use tensors::{Row, TensorNames, row};

/// A list of spellings of a key, of which the first that is there counts.
type Spellings = &'static [&'static str];

/// The models of one `model_type`. Each is written as what is not as in another one, first of all [`llama::FAMILY`].
#[derive(Debug)]
pub(crate) struct Family {
    /// `model_type` in `config.json`.
    pub model_type: &'static str,
    /// The object that holds all keys of the text model, where it is a part of a larger one.
    pub text_config: Option<&'static str>,
    /// Numbers that count where a config does not have these keys at all.
    pub defaults: &'static [(&'static str, usize)],
    /// Width of the residual stream.
    pub hidden_size: Spellings,
    /// Layers.
    pub num_hidden_layers: Spellings,
    /// Query heads.
    pub num_attention_heads: Spellings,
    /// Key/value heads, as many as query heads where the key is missing or `null`; `None` where heads are never grouped.
    pub num_key_value_heads: Option<&'static str>,
    /// Their number where the key is missing, though not where it is `null`.
    pub default_key_value_heads: Option<usize>,
    /// Whether the config can say `head_dim`.
    pub reads_head_dim: bool,
    /// Channels of a head where the config does not say; `None` for `hidden_size / num_attention_heads`.
    pub head_dim: Option<usize>,
    /// Width within the MLP.
    pub intermediate_size: IntermediateSize,
    /// The key of the MLP's nonlinearity; `None` where it is always the default.
    pub activation_key: Option<&'static str>,
    /// The MLP's nonlinearity by default.
    pub activation: Activation,
    /// Whether the MLP has a gate.
    pub gated_mlp: bool,
    /// Whether queries, keys, values and the output projection have biases.
    pub attention_bias: Flag,
    /// Whether the MLP's projections have biases.
    pub mlp_bias: Flag,
    /// All norms of the residual stream, with the default of their epsilon.
    pub norm: NormConfig,
    /// The key of the epsilon; `None` where it is always the default.
    pub norm_eps: Option<&'static str>,
    /// How a layer adds up.
    pub residual: Residual,
    /// Rotary positions in every layer; `None` for other positions.
    pub rotary: Option<RotaryKeys>,
    /// Whether the unembedding is the embedding where the config does not say.
    pub tie_word_embeddings: bool,
    /// The special tokens where the config does not mention them.
    pub default_tokens: DefaultTokens,
    /// What else the config says of the model and of all its layers alike.
    pub configure: fn(&ConfigReader, &mut DecoderConfig, &mut LayerConfig) -> Result<(), Error>,
    /// What the config says of single layers.
    pub configure_layers: fn(&ConfigReader, &mut [LayerConfig]) -> Result<(), Error>,
    /// The names of the tensors in a checkpoint of this config.
    pub names: fn(&DecoderConfig) -> &'static TensorNames,
}

/// Something that all models of a family have or do not have, or that the config says.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Flag {
    Always(bool),
    /// A key and what holds without it.
    Key(&'static str, bool),
}

/// Ids of special tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DefaultTokens {
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub pad: Option<u32>,
}

impl DefaultTokens {
    const NONE: Self = Self {
        bos: None,
        eos: None,
        pad: None,
    };
}

/// How a config says the width within the MLP.
#[derive(Clone, Copy, Debug)]
pub(crate) enum IntermediateSize {
    /// Under a key that must be there.
    Key(&'static str),
    /// Under a key without which it is four times `hidden_size`.
    KeyOrFourfold(&'static str),
    /// As a multiple of `hidden_size`, four times where the key is missing.
    Multiple(&'static str),
}

/// Mean and variance, with the epsilon that all have by default.
const LAYER_NORM: NormConfig = NormConfig::Layer {
    eps: 1e-5,
    bias: true,
};

/// The exponent of the slope of ALiBi's last head, the same in all families.
const MAX_ALIBI_BIAS: f64 = 8.0;

/// ALiBi for the heads of `attention`.
fn alibi(attention: &AttentionConfig) -> PositionEmbeddingConfig {
    PositionEmbeddingConfig::Alibi {
        num_heads: attention.num_attention_heads,
        max_bias: MAX_ALIBI_BIAS,
    }
}

const FAMILIES: &[&Family] = &[
    &llama::FAMILY,
    &mistral::FAMILY,
    &smollm3::FAMILY,
    &granite::FAMILY,
    &qwen::QWEN2,
    &qwen::QWEN3,
    &opt::FAMILY,
    &gpt2::FAMILY,
    &gpt_neo::FAMILY,
    &gpt_bigcode::FAMILY,
    &bloom::FAMILY,
    &mpt::FAMILY,
    &baichuan::FAMILY,
    &gpt_neox::FAMILY,
    &xglm::FAMILY,
    &phi3::FAMILY,
    &gemma::GEMMA,
    &gemma::GEMMA2,
    &gemma3::TEXT,
    &gemma3::MULTIMODAL,
    &olmo::FAMILY,
    &olmo2::FAMILY,
    &olmo3::FAMILY,
    &cohere::COHERE,
    &cohere::COHERE2,
    &glm::GLM,
    &glm::GLM4,
    &seed_oss::FAMILY,
    &exaone4::FAMILY,
    &arcee::FAMILY,
    &nemotron::FAMILY,
    &falcon::FAMILY,
    &falcon::REFINED_WEB,
    &falcon::REFINED_WEB_MODEL,
    &gptj::FAMILY,
    &phi::FAMILY,
    &stablelm::FAMILY,
    &starcoder2::FAMILY,
    &mixtral::FAMILY,
    &qwen_moe::QWEN2,
    &qwen_moe::QWEN3,
    &olmoe::FAMILY,
    &granite_moe::FAMILY,
    &phimoe::FAMILY,
];

/// The `model_type`s that can be loaded.
pub fn supported_model_types() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().map(|family| family.model_type)
}

/// The family of a `model_type`.
pub(crate) fn find(model_type: &str) -> Option<&'static Family> {
    let mut families = FAMILIES.iter().copied();
    families.find(|family| family.model_type == model_type)
}

impl Family {
    /// The model that a config describes.
    fn read(&self, reader: &ConfigReader) -> Result<DecoderConfig, Error> {
        let mut layer = self.layer(reader)?;
        let mut config = DecoderConfig::new(reader.size(&["vocab_size"])?, vec![layer.clone()]);
        config.architecture = self.model_type.into();
        config.tie_word_embeddings =
            reader.flag("tie_word_embeddings", self.tie_word_embeddings)?;
        self.read_tokens(reader, &mut config)?;
        (self.configure)(reader, &mut config, &mut layer)?;
        config.layers = vec![layer; reader.layers(self.num_hidden_layers)?];
        (self.configure_layers)(reader, &mut config.layers)?;
        Ok(config)
    }

    /// BOS, EOS and padding. A default that the vocabulary does not have is none.
    fn read_tokens(&self, reader: &ConfigReader, config: &mut DecoderConfig) -> Result<(), Error> {
        let vocab_size = config.vocab_size;
        let read = |key, default: Option<u32>| {
            let default = default.filter(|&id| !reader.mentions(key) && (id as usize) < vocab_size);
            let mut ids = reader.token_ids(key)?;
            ids.extend(default);
            Ok::<_, Error>(ids)
        };
        let defaults = self.default_tokens;
        config.bos_token = read("bos_token_id", defaults.bos)?.first().copied();
        config.eos_tokens = read("eos_token_id", defaults.eos)?;
        config.special_tokens.extend(config.bos_token);
        config.special_tokens.extend(&config.eos_tokens);
        let padding = read("pad_token_id", defaults.pad)?;
        config.special_tokens.extend(padding);
        Ok(())
    }

    /// A layer, as far as the family's keys say.
    fn layer(&self, reader: &ConfigReader) -> Result<LayerConfig, Error> {
        let attention = self.attention(reader)?;
        let hidden_size = attention.hidden_size;
        let mlp = DenseMlpConfig {
            intermediate_size: self.intermediate_size.read(reader, hidden_size)?,
            activation: match self.activation_key {
                Some(key) => reader.activation(key, self.activation)?,
                None => self.activation,
            },
            gated: self.gated_mlp,
            bias: self.mlp_bias.read(reader)?,
        };
        let norm = match self.norm_eps {
            Some(key) => self.norm.with_eps(reader.positive(key, self.norm.eps())?),
            None => self.norm,
        };
        Ok(LayerConfig {
            residual: self.residual,
            ..LayerConfig::new(attention, MlpConfig::Dense(mlp), norm)
        })
    }

    /// Heads, biases and rotary positions.
    fn attention(&self, reader: &ConfigReader) -> Result<AttentionConfig, Error> {
        let hidden_size = reader.size(self.hidden_size)?;
        let num_heads = reader.size(self.num_attention_heads)?;
        let mut attention = AttentionConfig::new(hidden_size, num_heads);
        let head_dim = if self.reads_head_dim {
            reader.optional_size("head_dim")?
        } else {
            None
        };
        attention.head_dim = match head_dim.or(self.head_dim) {
            Some(head_dim) => head_dim,
            None if hidden_size.is_multiple_of(num_heads) => hidden_size / num_heads,
            None => {
                let problem =
                    format!("is {num_heads}: expected a divisor of the width {hidden_size}");
                return Err(reader.error(self.num_attention_heads[0], problem));
            }
        };
        if let Some(key) = self.num_key_value_heads {
            let default = self.default_key_value_heads;
            let default = default.filter(|_| !reader.mentions(key));
            let given = reader.optional_size(key)?;
            attention.num_key_value_heads = given.or(default).unwrap_or(num_heads);
        }
        let bias = self.attention_bias.read(reader)?;
        (attention.qkv_bias, attention.output_bias) = (bias, bias);
        if let Some(keys) = &self.rotary {
            attention.position_embedding =
                PositionEmbeddingConfig::Rotary(reader.rotary(attention.head_dim, keys)?);
        }
        Ok(attention)
    }
}

impl Flag {
    fn read(self, reader: &ConfigReader) -> Result<bool, Error> {
        match self {
            Self::Always(value) => Ok(value),
            Self::Key(key, default) => reader.flag(key, default),
        }
    }
}

impl IntermediateSize {
    fn read(self, reader: &ConfigReader, hidden_size: usize) -> Result<usize, Error> {
        match self {
            Self::Key(key) => reader.size(&[key]),
            Self::KeyOrFourfold(key) => {
                let size = reader.optional_size(key)?;
                Ok(size.unwrap_or(4 * hidden_size))
            }
            Self::Multiple(key) => Ok(reader.optional_size(key)?.unwrap_or(4) * hidden_size),
        }
    }
}
