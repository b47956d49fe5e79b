//! Hugging Face checkpoints with quantised weights: each weight as a matrix of numbers, whatever tensors it is stored in.
//!
//! Weights are decoded exactly, in f32. Where a format also quantises activations or the key/value cache, these stay as they are: that
//! is how an engine gains speed, not what the weights are.

mod awq;
mod bitsandbytes;
mod checkpoint;
mod compressed;
mod exclusion;
mod export;
mod float8;
mod fold;
mod gptq;
mod groups;
mod matrix;
mod module;
mod new_tensor;
mod packed;
mod rescale;
mod settings;
mod shard;

pub(super) use checkpoint::QuantizedCheckpoint;
pub(super) use settings::Settings;
