//! Errors of evaluation: options, data files and templates.

use std::fmt;
use std::path::{Path, PathBuf};

/// What can go wrong in [evaluation](super), beside a model or tokenizer that fails.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvaluationError {
    /// An option out of range.
    #[error("`{option}` is {value}: expected {expected}")]
    Option {
        /// Name of the option, as the field or parameter is called.
        option: &'static str,
        /// Its value.
        value: String,
        /// Which values are valid.
        expected: String,
    },
    /// A line of a data file that cannot be read or is not a valid record.
    #[error("{path}, line {line}: {problem}", path = path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// A valid record that cannot be made into a question.
    #[error("{path}, record {record}: {problem}", path = path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// Number of the record, from 1; blank lines are not counted.
        record: usize,
        /// What is missing.
        problem: String,
    },
    /// A data file without a single record.
    #[error("{path}: no records: expected lines of JSON", path = path.display())]
    NoRecords {
        /// The file.
        path: PathBuf,
    },
    /// A prompt template without one of its fields.
    #[error(
        "a template needs the fields {}: `{{{missing}}}` is missing",
        braced(expected)
    )]
    Template {
        /// The missing field.
        missing: String,
        /// All fields of such a template.
        expected: Vec<String>,
    },
}

impl EvaluationError {
    pub(crate) fn record(path: &Path, index: usize, problem: impl fmt::Display) -> Self {
        Self::Record {
            path: path.into(),
            record: index + 1,
            problem: problem.to_string(),
        }
    }
}

/// `{a} and {b}`.
fn braced(fields: &[String]) -> String {
    let braced: Vec<String> = fields.iter().map(|field| format!("{{{field}}}")).collect();
    braced.join(" and ")
}
