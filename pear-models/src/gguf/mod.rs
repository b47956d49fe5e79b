//! GGUF files: the container of llama.cpp, with a model's tensors, config and tokenizer in one file
//! ([specification](https://github.com/ggml-org/ggml/blob/master/docs/gguf.md)).

mod cursor;
mod metadata;
mod value;

pub use metadata::GgufMetadata;
pub use value::{MetadataArray, MetadataValue};
