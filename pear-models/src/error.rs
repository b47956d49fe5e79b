//! What can go wrong between a folder of files and a running model.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::evaluation::EvaluationError;

/// Everything in this crate that can fail on input.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("{path}: cannot {action}: {source}", path = path.display())]
    Io {
        /// What was tried: `read`, `write`, `open`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file that is not what its name says.
    #[error("{path}: {problem}", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What was found and what was expected.
        problem: String,
    },
    /// A key of `config.json`, or of the metadata of a GGUF file, that is missing, holds something impossible, or asks for something that is
    /// not supported.
    #[error("{path}: `{key}`: {problem}", path = path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What was found and what was expected.
        problem: String,
    },
    /// Keys of `config.json` that nothing read, for a reader who wants none
    /// ([`IgnoredKeys::refuse`](crate::IgnoredKeys::refuse)).
    #[error("{path}: no code of this model_type reads these keys: {keys}", path = path.display())]
    IgnoredKeys {
        /// The file.
        path: PathBuf,
        /// The keys with their values.
        keys: String,
    },
    /// Tensors that are missing, superfluous, or of another shape or dtype than the config says; all of them at once.
    #[error("{path}: the weights do not fit the config: {}", list(problems), path = path.display())]
    Tensors {
        /// The model directory.
        path: PathBuf,
        /// One line for each tensor.
        problems: Vec<String>,
    },
    /// A tensor that is not there, or whose numbers cannot be read or multiplied.
    #[error("{path}: tensor `{name}`: {problem}", path = path.display())]
    Tensor {
        /// The file, or the directory of a tensor that is in none of its files.
        path: PathBuf,
        /// Name of the tensor.
        name: String,
        /// What was found and what was expected.
        problem: String,
    },
    /// A prompt or text that the model cannot take.
    #[error("{0}")]
    Input(String),
    /// The tokenizer failed.
    #[error("{path}: {problem}", path = path.display())]
    Tokenizer {
        /// `tokenizer.json`.
        path: PathBuf,
        /// The tokenizer's reason.
        problem: String,
    },
    /// A model that the Hugging Face hub, or its cache, does not give.
    #[error("{id}: {problem}")]
    Hub {
        /// `owner/name`.
        id: String,
        /// What was missing, or what the hub said.
        problem: String,
    },
    /// Options, data files or templates of an evaluation.
    #[error(transparent)]
    Evaluation(#[from] EvaluationError),
    /// Heads, coefficients or positions that do not fit the model.
    #[error(transparent)]
    Core(#[from] pear_core::Error),
}

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io {
            action,
            path: path.into(),
            source,
        }
    }

    pub(crate) fn malformed(path: &Path, problem: impl fmt::Display) -> Self {
        Self::Malformed {
            path: path.into(),
            problem: problem.to_string(),
        }
    }
}

/// The first few lines of a long list, on one line.
fn list(problems: &[String]) -> String {
    const SHOWN: usize = 6;
    let mut text = problems
        .iter()
        .take(SHOWN)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join("; ");
    if problems.len() > SHOWN {
        text += &format!("; and {} more", problems.len() - SHOWN);
    }
    text
}
