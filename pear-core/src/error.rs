//! What can go wrong, named precisely.

use std::path::PathBuf;

use crate::forward::NotFiniteFrom;
use crate::head::{HeadId, ModelShape};

/// Everything in this crate that can fail on input.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("{path}: cannot {action}: {source}", path = path.display())]
    Io {
        /// What was tried: `read`, `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file holds something else than it should.
    #[error("{path}: {problem}", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What was found and what was expected.
        problem: String,
    },
    /// A head that the model does not have.
    #[error(
        "head {head} does not exist: the model has {num_layers} layers of {num_heads} heads (both counted from 0)"
    )]
    HeadOutOfRange {
        /// The head.
        head: HeadId,
        /// Layers of the model.
        num_layers: usize,
        /// Query heads of each layer.
        num_heads: usize,
    },
    /// The same head twice where each may stand once.
    #[error("head {0} is listed twice")]
    DuplicateHead(HeadId),
    /// A head written otherwise than `layer.head`.
    #[error("`{0}` is not a head: expected `layer.head`, such as `26.28`")]
    NotAHead(String),
    /// Layers written otherwise than `first-last`.
    #[error("`{0}` is no range of layers: expected `first-last`, such as `0-15`, or one number")]
    NotLayers(String),
    /// Logits that are not finite: weights, or coefficients, are too large for the dtype.
    #[error("{found}: {from}")]
    NotFinite {
        /// What was found.
        found: String,
        /// Where it begins.
        from: NotFiniteFrom,
    },
    /// A coefficient that is not a finite number.
    #[error("the coefficient of head {head} is {value}: expected a finite number")]
    CoefficientNotFinite {
        /// The head.
        head: HeadId,
        /// Its coefficient.
        value: f64,
    },
    /// An edit of a head's output that cannot be made.
    #[error("cannot edit head {head}: {problem}")]
    Edit {
        /// The head.
        head: HeadId,
        /// Why not.
        problem: String,
    },
    /// Coefficients on top of others.
    #[error(
        "layer {layer}: its attention already applies coefficients, and others on top would multiply them: fold or remove those first"
    )]
    AlreadyReweighted {
        /// The layer, from 0.
        layer: usize,
    },
    /// An inference function on a model or coefficients that burn would keep a graph for.
    #[error(
        "the outcome is tracked by autodiff, and burn keeps its graph until a backward pass: \
         call `valid()` on the model, or use a function that trains (`forward::training_logits`, `proxy_loss`)"
    )]
    Tracked,
    /// Coefficients for a layer with another number of heads.
    #[error("coefficients for a layer of {found} heads, but this one has {expected} query heads")]
    HeadCount {
        /// Query heads of the layer.
        expected: usize,
        /// Heads that the coefficients are for.
        found: usize,
    },
    /// A token that the model does not know.
    #[error("token {token} is not in the vocabulary of {vocab_size}")]
    OutOfVocabulary {
        /// The token id.
        token: i64,
        /// Number of tokens that the model knows.
        vocab_size: usize,
    },
    /// A layer that could not be made.
    #[error("layer {layer}: {source}")]
    Layer {
        /// The layer, from 0.
        layer: usize,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Coefficients for which a model has no output projection.
    #[error("the coefficients of layer {layer} could not be attached: {problem}")]
    Unattached {
        /// The layer, from 0.
        layer: usize,
        /// What was found instead of one output projection.
        problem: String,
    },
    /// A file made for a model of another shape.
    #[error("made for {found}, but the model is {expected}")]
    ShapeMismatch {
        /// The model at hand.
        expected: ModelShape,
        /// The model named in the file.
        found: ModelShape,
    },
    /// Invalid sizes of an attention layer or a position embedding.
    #[error("`{field}` = {value}: {expected}")]
    Config {
        /// The field, by the name it has in `config.json` where it has one.
        field: &'static str,
        /// What it holds.
        value: String,
        /// What it should hold.
        expected: String,
    },
    /// A proxy sequence that is not the same tokens twice, or holds a token that the model does not know.
    #[error("proxy sequence {index}: {problem}")]
    ProxySequence {
        /// Which sequence, from 0.
        index: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// A proxy task that cannot be drawn.
    #[error("proxy task: {0}")]
    ProxyTask(String),
    /// More positions than the model has.
    #[error(
        "a sequence of {length} tokens is longer than the {max_positions} positions of the model"
    )]
    TooLong {
        /// Length of the sequence.
        length: usize,
        /// Positions of the model.
        max_positions: usize,
    },
}

impl Error {
    /// What a [`DecoderModel`](crate::DecoderModel) returns where a layer that is made on demand cannot be made.
    pub fn layer(
        layer: usize,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Layer {
            layer,
            source: source.into(),
        }
    }

    pub(crate) fn config(
        field: &'static str,
        value: impl ToString,
        expected: impl Into<String>,
    ) -> Self {
        Self::Config {
            field,
            value: value.to_string(),
            expected: expected.into(),
        }
    }
}
