//! A small decoder that comes with the crate, to try things on without a download: 490,080 parameters, bf16, Llama's architecture,
//! 4 layers of 8 heads, 488 words.
//!
//! It knows 720 facts of a synthetic world by heart, reads documents that confirm or contradict them, and hedges between the two; its
//! suppression heads are worth re-weighting. Trained from scratch by `cargo run --release --example pretrain -- --seed 0 --dtype bf16
//! --out tiny`. **Its copying circuit was put into the initial weights by hand** and then trained.
//!
//! ```
//! use burn::prelude::*;
//! use burn::tensor::DType;
//! use pear_core::DecoderModel;
//! use pear_models::{ModelDirectory, tiny};
//!
//! let folder = tempfile::tempdir()?;
//! tiny::write(folder.path())?;
//! let model = ModelDirectory::open(folder.path())?.load(&Device::flex(), DType::F32)?;
//! assert_eq!(model.shape().num_heads, 8);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::io::Write;
use std::path::Path;

use pear_core::files::write_atomic;

use crate::Error;

const FILES: [(&str, &[u8]); 5] = [
    ("config.json", include_bytes!("../tiny/config.json")),
    ("generation_config.json", include_bytes!("../tiny/generation_config.json")),
    ("model.safetensors", include_bytes!("../tiny/model.safetensors")),
    ("tokenizer.json", include_bytes!("../tiny/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../tiny/tokenizer_config.json")),
];

/// Writes it as a Hugging Face model directory, which is made if need be.
///
/// # Errors
/// [`Error::Io`] for a directory that cannot be written to.
pub fn write(directory: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(directory).map_err(Error::io("make", directory))?;
    for (name, bytes) in FILES {
        let path = directory.join(name);
        write_atomic(&path, |file| file.write_all(bytes)).map_err(Error::io("write", &path))?;
    }
    Ok(())
}
