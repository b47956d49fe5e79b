//! What the commands of this folder share.
#![deny(missing_docs)]

pub mod allocator;
pub mod cli;
pub mod device;
pub mod draw;
pub mod evaluate;
pub mod flops;
pub mod fold_table;
pub mod head_table;
mod log;
pub mod machine;
pub mod memory;
pub mod partial;
pub mod pear;
pub mod plan;
pub mod pretrain;
pub mod progress;
pub mod proxy;
pub mod random;
#[cfg(feature = "remote")]
pub mod serve_guard;
pub mod text_gate;
pub mod text_stream;
pub mod tiny_world;
pub mod tokens;
pub mod training;
