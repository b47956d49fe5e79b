//! Prompt templates with two named fields.

use std::io::Read;
use std::path::Path;

use super::EvaluationError;
use crate::{Error, regular_file};

/// A larger file is not a prompt template.
const MAX_TEMPLATE_BYTES: u64 = 1 << 20;

/// A prompt in which `{field}` stands for text that each question supplies.
///
/// ```
/// use pear_models::evaluation::PromptTemplate;
///
/// let template = PromptTemplate::new("{context}\n\nQuestion: {input}\nAnswer:", ["context", "input"])?;
/// assert_eq!(template.fill(["It rains.", "How is it?"]), "It rains.\n\nQuestion: How is it?\nAnswer:");
/// # Ok::<(), pear_models::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptTemplate {
    text: String,
    /// The fields as they stand in the text, in braces.
    placeholders: [String; 2],
}

impl PromptTemplate {
    /// A template that contains both `fields`, each at least once, in braces.
    ///
    /// # Errors
    /// [`EvaluationError::Template`] if one of them is missing.
    pub fn new(text: impl Into<String>, fields: [&str; 2]) -> Result<Self, Error> {
        let text = text.into();
        let placeholders = fields.map(|field| format!("{{{field}}}"));
        for (field, placeholder) in fields.iter().zip(&placeholders) {
            if !text.contains(placeholder) {
                return Err(EvaluationError::Template {
                    missing: (*field).to_owned(),
                    expected: fields.map(str::to_owned).to_vec(),
                }
                .into());
            }
        }
        Ok(Self { text, placeholders })
    }

    /// Reads a template from a file of at most 1 MiB, without the line break at its end.
    ///
    /// # Errors
    /// As [`new`](Self::new); [`Error::Io`] if the file cannot be read, [`Error::Malformed`] if it is too large or not UTF-8.
    pub fn read(path: impl AsRef<Path>, fields: [&str; 2]) -> Result<Self, Error> {
        let path = path.as_ref();
        let text = read_text(path, MAX_TEMPLATE_BYTES)?;
        Self::new(text.strip_suffix('\n').unwrap_or(&text), fields)
    }

    /// A template of this crate: the file's text without the line break at its end.
    pub(super) fn built_in(text: &str, fields: [&str; 2]) -> Self {
        Self {
            text: text.strip_suffix('\n').unwrap_or(text).to_owned(),
            placeholders: fields.map(|field| format!("{{{field}}}")),
        }
    }

    /// The prompt with `values` in place of the fields, in the order of the fields. Braces within the values are left alone.
    pub fn fill(&self, values: [&str; 2]) -> String {
        let mut filled = String::new();
        let mut rest = self.text.as_str();
        while let Some((start, field)) = self.next_placeholder(rest) {
            filled += &rest[..start];
            filled += values[field];
            rest = &rest[start + self.placeholders[field].len()..];
        }
        filled + rest
    }

    /// Where the first placeholder of `text` starts, and the index of its field.
    fn next_placeholder(&self, text: &str) -> Option<(usize, usize)> {
        let starts = self.placeholders.iter().enumerate();
        starts
            .filter_map(|(field, placeholder)| Some((text.find(placeholder)?, field)))
            .min()
    }
}

/// Reads a UTF-8 file of at most `max_bytes`.
pub(super) fn read_text(path: &Path, max_bytes: u64) -> Result<String, Error> {
    let file = regular_file::open(path, "read")?;
    let mut bytes = Vec::new();
    file.take(max_bytes + 1)
        .read_to_end(&mut bytes)
        .map_err(Error::io("read", path))?;
    if bytes.len() as u64 > max_bytes {
        let problem = format!("expected a text of at most {} MiB", max_bytes >> 20);
        return Err(Error::malformed(path, problem));
    }
    String::from_utf8(bytes).map_err(|e| Error::malformed(path, format!("not UTF-8: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_filled_in_one_pass_and_braces_in_the_values_stay() {
        let template = PromptTemplate::new("{b}: {a}, {b} {c}", ["a", "b"]).unwrap();
        assert_eq!(template.fill(["{b}", "{a}"]), "{a}: {b}, {a} {c}");
    }

    #[test]
    fn a_missing_field_is_named() {
        let error = PromptTemplate::new("{a}", ["a", "b"])
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "a template needs the fields {a} and {b}: `{b}` is missing"
        );
    }

    #[test]
    fn a_file_loses_the_line_break_at_its_end_and_may_not_be_too_large() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prompt.txt");
        std::fs::write(&path, "{a}\n{b}\n").unwrap();
        let template = PromptTemplate::read(&path, ["a", "b"]).unwrap();
        assert_eq!(template.fill(["1", "2"]), "1\n2");
        std::fs::write(&path, "{a} {b}".repeat(1 << 18)).unwrap();
        let error = PromptTemplate::read(&path, ["a", "b"]).unwrap_err();
        assert!(error.to_string().contains("at most 1 MiB"), "{error}");
    }
}
