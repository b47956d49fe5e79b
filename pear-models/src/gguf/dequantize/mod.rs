//! Blocks of every type of ggml to single precision.
//!
//! Numbers are bit for bit those of `gguf-py`'s `gguf.quants.dequantize`, which computes in single precision too, operation by operation in
//! the same order; the layouts of the blocks are those of `ggml-common.h`.

mod blocks;
mod dispatch;
mod grids;
mod iq;
mod iq1;
mod k;
mod numbers;
mod parts;
mod scaled;
mod table;
mod ternary;

pub(crate) use dispatch::dequantize;
pub(super) use parts::each_part;
pub(super) use table::IQ4_VALUES;
