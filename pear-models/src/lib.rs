#![doc = include_str!("../README.md")]
//!
//! # Families
//!
//! One [`Decoder`] runs every family; a [`DecoderConfig`] says what varies. It implements
//! [`DecoderModel`](pear_core::DecoderModel), so that heads can be located and their coefficients learned on it, and
//! [`ModelDirectory::export`] folds a profile into the checkpoint it came from.
//!
//! | family (`model_type`) | positions |
//! | --- | --- |
//! | Llama 2, 3, 3.1 (`llama`); Mistral (`mistral`); Qwen2, Qwen2.5 (`qwen2`); Qwen3 (`qwen3`); Gemma (`gemma`, `gemma2`); OLMo, OLMo 2 (`olmo`, `olmo2`); Granite (`granite`); StarCoder2 (`starcoder2`); Seed-OSS (`seed_oss`); Arcee (`arcee`) | rotary, scaled: linear, dynamic, YaRN, Llama 3 |
//! | Phi-3, Phi-4-mini (`phi3`) | rotary, LongRoPE |
//! | Gemma 3 (`gemma3_text`; `gemma3`, of which the text model is read); OLMo 3 (`olmo3`) | rotary, with another base or scaling in layers that have a window |
//! | SmolLM3 (`smollm3`); Command R7B, Command A (`cohere2`); EXAONE 4 (`exaone4`) | rotary in some layers, none in others |
//! | GPT-NeoX, Pythia (`gpt_neox`); Phi-1, Phi-2 (`phi`); StableLM (`stablelm`); Nemotron (`nemotron`) | rotary on part of each head |
//! | GPT-J (`gptj`); GLM-4 (`glm`, `glm4`) | rotary on part of each head, adjacent channels paired |
//! | Command R (`cohere`) | rotary, adjacent channels paired |
//! | Falcon (`falcon`, `RefinedWeb`, `RefinedWebModel`) | rotary or ALiBi |
//! | OPT (`opt`), GPT-2 (`gpt2`), GPT-Neo (`gpt_neo`), GPT-BigCode, among them StarCoder (`gpt_bigcode`) | learned |
//! | BLOOM (`bloom`), MPT (`mpt`), Baichuan-13B (`baichuan`) | ALiBi |
//! | XGLM (`xglm`) | sinusoidal |
//!
//! GGUF files of most of these families can be opened like directories: [`ModelDirectory::open`] reads their config, and
//! [`GgufCheckpoint`] dequantises their tensors while they are loaded.
//!
//! A family that is missing is a matter of one file: see [`adding_a_family`]. Whether coefficients help, and what they cost, is
//! measured in [`evaluation`].
//!
//! # Models of your own sizes
//!
//! ```
//! use std::ops::ControlFlow;
//! use burn::prelude::*;
//! use pear_core::{DecoderModel, HeadCoefficients, HeadId};
//! use pear_models::{DecoderConfig, DecoderSizes, GenerateOptions, generate};
//!
//! let device = Device::flex();
//! let sizes = DecoderSizes {
//!     vocab_size: 100,
//!     hidden_size: 32,
//!     intermediate_size: 64,
//!     num_hidden_layers: 2,
//!     num_attention_heads: 4,
//! };
//! let model = DecoderConfig::llama(sizes).init(&device)?;
//! let coefficients = HeadCoefficients::new(&[(HeadId::new(1, 2), 0.6)], &model.shape(), &device)?;
//! let model = model.with_coefficients(&coefficients)?;
//!
//! let options = GenerateOptions { max_new_tokens: 5, ..GenerateOptions::default() };
//! let reweighted = generate(&model, &[1, 2, 3], &options)?;
//! let folded = generate(&model.fold(), &[1, 2, 3], &options)?;
//! assert_eq!(reweighted, folded);
//! # Ok::<(), pear_models::Error>(())
//! ```
#![deny(missing_docs)]

#[doc = include_str!("../docs/adding-a-family.md")]
pub mod adding_a_family {}
#[doc = include_str!("../docs/gguf-folding.md")]
pub mod gguf_folding {}
#[doc = include_str!("../docs/half-precision.md")]
pub mod half_precision {}
#[cfg(feature = "chat")]
mod chat;
mod checkpoint;
mod config;
mod config_error;
mod decoder;
mod dense_mlp_config;
mod error;
pub mod evaluation;
mod experts;
mod experts_config;
mod family;
mod fold_plan;
mod generate;
mod generate_options;
mod gguf;
#[cfg(feature = "hub")]
pub mod hub;
mod layer;
mod layer_config;
mod layer_stream;
mod length_batches;
mod mapped_file;
mod mlp;
mod module_shape;
mod next_token;
mod param;
mod parameters;
mod python_json;
mod regular_file;
mod sample;
mod score;
mod special_tokens;
mod tensor_part;
#[cfg(feature = "tiny")]
pub mod tiny;
#[cfg(feature = "tokenizer")]
mod tokenizer;

#[cfg(feature = "chat")]
pub use chat::{ChatTemplate, Message};
pub use checkpoint::{
    FloatsMut, GgufCheckpoint, ModelDirectory, SafetensorsCheckpoint, StoredDtype, TensorInfo,
    TensorSource,
};
pub use config::{DecoderConfig, DecoderSizes};
pub use decoder::Decoder;
pub use dense_mlp_config::DenseMlpConfig;
pub use error::Error;
pub use experts_config::{ExpertRouting, ExpertsConfig, SharedExpertConfig};
pub use family::{IgnoredKeys, supported_model_types};
pub use fold_plan::{FoldPlan, FoldRoute, FoldedTensor};
pub use generate::{Generator, generate, generate_batch};
pub use generate_options::GenerateOptions;
pub use gguf::{GgufMetadata, MetadataArray, MetadataValue};
pub use layer::{Layer, LayerRef};
pub use layer_config::{LayerConfig, MlpConfig, Residual};
pub use layer_stream::StreamStatistics;
pub use next_token::{ContinuationScore, NextTokenLogits, continuation_scores, next_token_logits};
pub use pear_core::kernels::Activation;
pub use score::{log_probs, perplexity};
#[cfg(feature = "tokenizer")]
pub use tokenizer::Tokenizer;
