//! Whether re-weighted heads help, and what they cost.
//!
//! - **Question answering**: [multi-document questions](mdqa) with the gold document at chosen positions, and [questions on long
//!   documents](longbench); prompts from [templates](PromptTemplate), cut in the middle where they are too long
//!   (`PromptBuilder`, feature `tokenizer`); greedy answers (`Answerer`, feature `tokenizer`) with [scores](metrics) by the published
//!   rules.
//! - **Context against memory**, by the probability of tokens: facts with a [contradicting statement](conflict) before them, questions with
//!   a passage whose answer was [replaced](swap), and [key-value retrieval](kv) (feature `tokenizer`). Items are read once, evaluated for
//!   any number of models, [summarized](summarize()) and [compared](compare()) item by item.
//! - **Significance**: [confidence intervals](Estimate), and [paired differences](PairedDifference) with McNemar's exact test.
//! - **Plain text** ([`TextWindows`]): [perplexity](TextWindows::perplexity), and the [KL divergence](TextWindows::divergence) from the
//!   model without coefficients with the share of positions at which the most likely token stays.
//!
//! Data files are read [line by line](JsonLines), with a bound on the length of a line.
//!
//! # Example
//!
//! Scores of two models on the same two questions, and the cost on a text:
//!
//! ```
//! use burn::prelude::*;
//! use pear_core::{DecoderModel, HeadCoefficients, HeadId};
//! use pear_models::{DecoderConfig, DecoderSizes};
//! use pear_models::evaluation::{AnswerScores, PairedDifference, TextWindows};
//!
//! let references = [["Paris"], ["the Seine"]];
//! let score = |answers: [&str; 2]| -> Vec<f64> {
//!     let scores = answers.iter().zip(&references).map(|(answer, references)| AnswerScores::of(answer, references));
//!     scores.map(|scores| scores.best_subspan_em).collect()
//! };
//! let before = score(["Lyon.", "It is the Loire."]);
//! let after = score(["It is Paris.", "The Seine!"]);
//! let change = PairedDifference::between(&before, &after);
//! assert_eq!((change.difference, change.gained, change.p_value), (1.0, 2, 0.5));
//!
//! let device = Device::flex();
//! let sizes = DecoderSizes {
//!     vocab_size: 100,
//!     hidden_size: 32,
//!     intermediate_size: 64,
//!     num_hidden_layers: 2,
//!     num_attention_heads: 4,
//! };
//! let model = DecoderConfig::llama(sizes).init(&device)?;
//! let coefficients = HeadCoefficients::new(&[(HeadId::new(1, 2), 0.5)], &model.shape(), &device)?;
//! let reweighted = model.clone().with_coefficients(&coefficients)?;
//! let text = TextWindows::new(&[5, 7, 11, 13, 17, 19], None, 3)?;
//! let cost = text.divergence(&model, &reweighted)?;
//! println!("{} nats a token, {:.0} % same top token", cost.kl, 100.0 * cost.same_top_token);
//! # Ok::<(), pear_models::Error>(())
//! ```

mod answer;
#[cfg(feature = "tokenizer")]
mod answerer;
#[cfg(feature = "tokenizer")]
pub mod conflict;
mod divergence;
mod error;
mod jsonl;
#[cfg(feature = "tokenizer")]
pub mod kv;
pub mod longbench;
pub mod mdqa;
mod measure;
pub mod metrics;
#[cfg(feature = "tokenizer")]
mod prompt;
mod statistics;
#[cfg(feature = "tokenizer")]
pub mod swap;
mod template;
mod text;

use serde::{Deserialize, Serialize};

pub use answer::AnswerRecord;
#[cfg(feature = "tokenizer")]
pub use answerer::Answerer;
pub use divergence::{PositionDivergence, TextDivergence, TextReference, divergences};
pub use error::EvaluationError;
pub use jsonl::JsonLines;
pub use measure::{ItemResult, Measure, MeasureKind, compare, summarize};
pub use metrics::AnswerScores;
#[cfg(feature = "tokenizer")]
pub use prompt::{Prompt, PromptBuilder};
pub use statistics::{Estimate, PairedDifference, mcnemar_exact};
pub use template::PromptTemplate;
pub use text::TextWindows;
#[cfg(feature = "tokenizer")]
pub use text::read_text_tokens;

/// A question with its prompt and reference answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Number of its record in the file, from 0.
    pub index: usize,
    /// Which results it belongs to: position of the gold document, or dataset.
    pub group: String,
    /// The prompt as text.
    pub prompt: String,
    /// The reference answers.
    pub answers: Vec<String>,
    /// How long an answer may be, in tokens.
    pub max_new_tokens: usize,
}
