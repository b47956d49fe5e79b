//! Answers as they are recorded.

use serde::{Deserialize, Serialize};

use super::AnswerScores;

/// An answer with everything needed to score it again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnswerRecord {
    /// Which model answered, such as `baseline` or `pear`.
    pub run: String,
    /// [`Question::index`](super::Question::index).
    pub index: usize,
    /// [`Question::group`](super::Question::group).
    pub group: String,
    /// The answer of the model.
    pub output: String,
    /// The reference answers.
    pub answers: Vec<String>,
    /// Tokens in the prompt.
    pub prompt_tokens: usize,
    /// Whether the prompt was cut in the middle.
    pub cut: bool,
    /// Tokens generated.
    pub new_tokens: usize,
    /// Time since the answer before it, of questions that are answered together: what one more answer takes, the prompt included.
    pub seconds: f64,
    /// Scores of the answer.
    pub scores: AnswerScores,
}
