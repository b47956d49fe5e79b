//! Which program, weights and sequences a result comes from.

use serde::{Deserialize, Serialize};

/// Where a result comes from: with the settings beside it, all that is needed to repeat it. What is not known is absent, as in files of
/// earlier releases and for models that have no files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Provenance {
    /// Release of the crates that wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Type of the weights in memory: `f32`, `bf16`, `f16`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtype: Option<String>,
    /// Fingerprint of the weights; equal for the same tensors in whatever files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<String>,
    /// Fingerprint of `tokenizer.json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<String>,
    /// The proxy sequences.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequences: Option<SequenceRecord>,
}

/// Which proxy sequences were read: drawn with the seed of the settings, or given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum SequenceRecord {
    /// Drawn by [`ProxyTask`](crate::ProxyTask).
    Drawn {
        /// The token before each sequence, if any.
        bos: Option<u32>,
        /// Whether special tokens were among those drawn.
        special: bool,
    },
    /// Read from a file.
    File {
        /// Its fingerprint.
        fingerprint: String,
    },
}

impl Provenance {
    /// Of something that this release computes.
    pub fn new() -> Self {
        Self {
            version: Some(env!("CARGO_PKG_VERSION").into()),
            ..Self::default()
        }
    }

    /// What of a result made with `self` does not belong to a model of these fingerprints: `weights`, `tokenizer`. Nothing that is
    /// unknown on either side counts.
    pub fn mismatches(&self, weights: Option<&str>, tokenizer: Option<&str>) -> Vec<&'static str> {
        let differ = |made: &Option<String>, here: Option<&str>| {
            made.as_deref()
                .zip(here)
                .is_some_and(|(made, here)| made != here)
        };
        let pairs = [
            ("weights", &self.weights, weights),
            ("tokenizer", &self.tokenizer, tokenizer),
        ];
        pairs
            .into_iter()
            .filter(|(_, made, here)| differ(made, *here))
            .map(|(name, ..)| name)
            .collect()
    }
}
