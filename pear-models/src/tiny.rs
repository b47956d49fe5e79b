//! Small decoders that are part of the crate, for trying things without a download: one with rotary positions, one with ALiBi; 4 layers of 8
//! heads, about 490,000 parameters in bf16, a vocabulary of 488 words.
//!
//! They have memorised 720 facts of a synthetic world, read documents that confirm or contradict these facts, and answer from either. The example
//! `pretrain` of this repository trained them from scratch; [`Tiny::command`] is the command. **The copying circuit of [`Tiny::Rope`] was put
//! into its initial weights by hand** and then trained: re-weighting its suppression heads helps. [`Tiny::Alibi`] learned to copy by
//! itself, and its located heads are no better to re-weight than random ones. RESULTS.md in the repository has the measurements.
//!
//! ```
//! use burn::prelude::*;
//! use burn::tensor::DType;
//! use pear_core::DecoderModel;
//! use pear_models::ModelDirectory;
//! use pear_models::tiny::Tiny;
//!
//! let folder = tempfile::tempdir()?;
//! Tiny::Rope.write(folder.path())?;
//! let model = ModelDirectory::open(folder.path())?.load(&Device::flex(), DType::F32)?;
//! assert_eq!(model.shape().num_heads, 8);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::io::Write;
use std::path::Path;

use pear_core::files::write_atomic;

use crate::Error;

/// A model that is part of the crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tiny {
    /// Rotary positions, Llama's architecture.
    Rope,
    /// ALiBi, MPT's architecture.
    Alibi,
}

macro_rules! files {
    ($folder:literal) => {
        [
            (
                "config.json",
                include_bytes!(concat!("../tiny/", $folder, "/config.json")),
            ),
            (
                "model.safetensors",
                include_bytes!(concat!("../tiny/", $folder, "/model.safetensors")),
            ),
        ]
    };
}

const ROPE: [(&str, &[u8]); 2] = files!("rope");
const ALIBI: [(&str, &[u8]); 2] = files!("alibi");
/// The files that all models share.
const TOKENIZER: [(&str, &[u8]); 3] = [
    (
        "generation_config.json",
        include_bytes!("../tiny/generation_config.json"),
    ),
    ("tokenizer.json", include_bytes!("../tiny/tokenizer.json")),
    (
        "tokenizer_config.json",
        include_bytes!("../tiny/tokenizer_config.json"),
    ),
];

impl Tiny {
    /// Every model.
    pub const ALL: [Self; 2] = [Self::Rope, Self::Alibi];

    /// The command that trained it, to be run in the repository.
    pub fn command(self) -> &'static str {
        match self {
            Self::Rope => {
                "cargo run --release --example pretrain -- --seed 0 --dtype bf16 --out rope"
            }
            Self::Alibi => {
                "cargo run --release --example pretrain -- --positions alibi --copying-steps 3000 --clean-steps 1200 --seed 0 --dtype bf16 \
                 --out alibi"
            }
        }
    }

    /// Writes it as a Hugging Face model directory, which is created if it does not exist.
    ///
    /// # Errors
    /// [`Error::Io`] if the directory cannot be written.
    pub fn write(self, directory: impl AsRef<Path>) -> Result<(), Error> {
        let directory = directory.as_ref();
        std::fs::create_dir_all(directory).map_err(Error::io("create", directory))?;
        let own = match self {
            Self::Rope => ROPE,
            Self::Alibi => ALIBI,
        };
        for (name, bytes) in own.into_iter().chain(TOKENIZER) {
            let path = directory.join(name);
            write_atomic(&path, |file| file.write_all(bytes)).map_err(Error::io("write", &path))?;
        }
        Ok(())
    }
}
