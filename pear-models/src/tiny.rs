//! Small decoders that come with the crate, to try things on without a download: 4 layers of 8 heads, about 490,000 parameters, bf16, 488
//! words, one with rotary positions and one with ALiBi.
//!
//! They know 720 facts of a synthetic world by heart, read documents that confirm or contradict them, and hedge between the two. Trained
//! from scratch by the example `pretrain` of this repository: [`Tiny::command`] says how. What PEAR does to them, and does not, stands in
//! its RESULTS.md: **the copying circuit of [`Tiny::Rope`] was put into the initial weights by hand** and then trained, and there the
//! suppression heads are worth re-weighting; [`Tiny::Alibi`] learned to copy by itself, and there it is another matter.
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

/// A model that comes with the crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tiny {
    /// Rotary positions, Llama's architecture.
    Rope,
    /// ALiBi, MPT's.
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
/// The same for all.
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
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Rope, Self::Alibi];

    /// What made it, within this repository.
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

    /// Writes it as a Hugging Face model directory, which is made if need be.
    ///
    /// # Errors
    /// [`Error::Io`] for a directory that cannot be written to.
    pub fn write(self, directory: &Path) -> Result<(), Error> {
        std::fs::create_dir_all(directory).map_err(Error::io("make", directory))?;
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
