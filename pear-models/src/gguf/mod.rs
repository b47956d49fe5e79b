//! GGUF files: the container of llama.cpp, with a model's tensors, config and tokenizer in one file
//! ([specification](https://github.com/ggml-org/ggml/blob/master/docs/gguf.md)).
//!
//! The container is read here, too: candle-core 0.11 refuses a file that holds a single tensor of an IQ or MXFP4 type, and folding needs where
//! every byte lies.

mod architecture;
mod architectures;
mod config;
mod cursor;
pub(crate) mod dequantize;
mod describe;
mod experts;
mod file;
pub(crate) mod fold;
pub(crate) mod ggml_type;
mod header;
mod keys;
mod metadata;
mod names;
mod rotary;
mod special_tokens;
mod split;
#[cfg(feature = "tokenizer")]
mod tokenizer;
mod value;
mod windows;

pub(crate) use config::read_config;
pub(crate) use file::GgufFile;
pub(crate) use header::GgufTensor;
pub(crate) use keys::TensorLookup;
pub use metadata::GgufMetadata;
pub(crate) use split::open_all;
#[cfg(feature = "tokenizer")]
pub(crate) use tokenizer::GgufTokenizer;
pub use value::{MetadataArray, MetadataValue};
