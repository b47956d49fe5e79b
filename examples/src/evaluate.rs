//! Question answering before and after, the way the paper measures it.

mod jsonl;
pub mod longbench;
pub mod mdqa;
pub mod metrics;
mod prompt;
mod report;
mod run;
mod template;

pub use prompt::Prompts;
pub use report::Report;
pub use run::{Answered, Runner};
pub use template::Template;

/// One question as a model gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Its number in the file, from 0.
    pub index: usize,
    /// Results are given for each group: where the right document stands, or the dataset.
    pub group: String,
    /// What the model reads.
    pub prompt: String,
    /// All that counts as right.
    pub answers: Vec<String>,
    /// New tokens at most.
    pub max_new_tokens: usize,
}
