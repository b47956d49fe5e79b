//! Questions of the user's own: JSON lines.
//!
//! Three kinds of records are understood, which may be mixed:
//! - `question`, `context`, `answer`: whether the context contradicts the model is found by asking the question without it;
//! - `base_prompt`, `prompt`, `target_true`, `target_new`: a sentence without its last word, alone and after a statement that changes it;
//! - `question`, `org_context`, `org_answer`, `sub_context`, `sub_answer`: a passage as it was and with another answer.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, bail};
use pear_models::evaluation::JsonLines;
use serde::Deserialize;

use super::encoder::Encoder;
use super::facts::{Lessons, TextFact};
use super::questions::{EncodedLessons, Fact, WithContext};
use super::source::encode;

/// Records that are used at most: more would take too long and tell nothing new.
const MOST_FACTS: usize = 1000;
/// The longest line, in bytes.
const MAX_LINE_BYTES: u64 = 1 << 20;

/// A record of any kind.
#[derive(Deserialize)]
struct Record {
    question: Option<String>,
    context: Option<String>,
    answer: Option<Answer>,
    base_prompt: Option<String>,
    prompt: Option<String>,
    target_true: Option<String>,
    target_new: Option<String>,
    org_context: Option<String>,
    org_answer: Option<Answer>,
    sub_context: Option<String>,
    sub_answer: Option<Answer>,
}

/// One answer, or several of which the first counts.
#[derive(Deserialize)]
#[serde(untagged)]
enum Answer {
    One(String),
    Several(Vec<String>),
}

impl Answer {
    fn first(&self) -> Option<&str> {
        let answer = match self {
            Self::One(answer) => Some(answer),
            Self::Several(answers) => answers.first(),
        };
        answer
            .map(|answer| answer.trim())
            .filter(|answer| !answer.is_empty())
    }
}

/// Reads the facts of a file. Records that are too long for the model, or whose answers begin with the same token, are left out, and
/// questions that were asked before.
///
/// # Errors
/// A file that cannot be read or holds something else, naming the file and the line or record; one without a usable record.
pub fn read(path: &Path, encoder: &Encoder) -> Result<Vec<Fact>> {
    let mut facts = Vec::new();
    let mut seen = BTreeSet::new();
    let records = JsonLines::<Record>::open(path)?.with_max_line_bytes(MAX_LINE_BYTES);
    for (number, record) in (1..).zip(records) {
        let Some(found) = record?.fact() else {
            bail!(
                "{}: record {number}: expected question, context and answer; or base_prompt, prompt, target_true and target_new; or \
                 question, org_context, org_answer, sub_context and sub_answer, none of them empty",
                path.display()
            );
        };
        if !seen.insert(found.key().to_owned()) {
            continue;
        }
        let encoded = found
            .encode(encoder)
            .with_context(|| format!("{}: record {number}", path.display()))?;
        facts.extend(encoded);
        if facts.len() == MOST_FACTS {
            break;
        }
    }
    if facts.is_empty() {
        bail!(
            "{}: no usable question: expected JSON lines with question, context and answer",
            path.display()
        );
    }
    Ok(facts)
}

/// What a record says.
enum Found {
    /// With both answers.
    Both(TextFact),
    /// With a context, whose answer may be the model's or not.
    Given {
        closed: String,
        prompt: String,
        answer: String,
    },
}

impl Record {
    fn fact(&self) -> Option<Found> {
        self.statement()
            .or_else(|| self.swap())
            .or_else(|| self.given())
    }

    fn statement(&self) -> Option<Found> {
        let (closed, prompt) = (filled(&self.base_prompt)?, filled(&self.prompt)?);
        let (answer, other) = (filled(&self.target_true)?, filled(&self.target_new)?);
        let conflicting = prompt.strip_prefix("Redefine: ").unwrap_or(prompt);
        Some(Found::Both(TextFact {
            key: closed.into(),
            closed: closed.into(),
            answer: answer.into(),
            conflicting: conflicting.into(),
            other: other.into(),
            agreeing: format!("{closed} {answer}. {closed}"),
            lessons: Lessons::default(),
        }))
    }

    fn swap(&self) -> Option<Found> {
        let question = filled(&self.question)?;
        let (org, sub) = (filled(&self.org_context)?, filled(&self.sub_context)?);
        let (answer, other) = (
            self.org_answer.as_ref()?.first()?,
            self.sub_answer.as_ref()?.first()?,
        );
        Some(Found::Both(TextFact {
            key: question.into(),
            closed: asked(None, question),
            answer: answer.into(),
            conflicting: asked(Some(sub), question),
            other: other.into(),
            agreeing: asked(Some(org), question),
            lessons: Lessons::default(),
        }))
    }

    fn given(&self) -> Option<Found> {
        let question = filled(&self.question)?;
        Some(Found::Given {
            closed: asked(None, question),
            prompt: asked(Some(filled(&self.context)?), question),
            answer: self.answer.as_ref()?.first()?.into(),
        })
    }
}

impl Found {
    fn key(&self) -> &str {
        match self {
            Self::Both(fact) => &fact.key,
            Self::Given { closed, .. } => closed,
        }
    }

    fn encode(&self, encoder: &Encoder) -> Result<Option<Fact>> {
        let (closed, prompt, answer) = match self {
            Self::Both(fact) => return Ok(encode(std::slice::from_ref(fact), encoder)?.pop()),
            Self::Given {
                closed,
                prompt,
                answer,
            } => (closed, prompt, answer),
        };
        let alone = encoder.question(closed, answer)?;
        let with_context = encoder.question(prompt, answer)?;
        Ok(alone
            .zip(with_context)
            .map(|(alone, (prompt, answer))| Fact {
                key: closed.clone(),
                closed: alone.0,
                with_context: WithContext::Given { prompt, answer },
                lessons: EncodedLessons::default(),
            }))
    }
}

fn filled(text: &Option<String>) -> Option<&str> {
    text.as_deref()
        .map(str::trim)
        .filter(|text| !text.is_empty())
}

/// A question after a passage, or alone.
fn asked(context: Option<&str>, question: &str) -> String {
    let mark = if question.ends_with('?') { "" } else { "?" };
    let question = format!("Question: {question}{mark}\nAnswer:");
    match context {
        Some(context) => {
            let passage = context.replace("<P>", "").replace("</P>", "");
            format!("{}\n{question}", passage.trim())
        }
        None => question,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(line: &str) -> Option<Found> {
        serde_json::from_str::<Record>(line).unwrap().fact()
    }

    #[test]
    fn each_kind_of_record_is_understood() {
        let statement = r#"{"base_prompt": "A is in", "prompt": "Redefine: A is in Y. A is in", "target_true": " X", "target_new": " Y"}"#;
        let Some(Found::Both(both)) = fact(statement) else {
            panic!()
        };
        assert_eq!(both.conflicting, "A is in Y. A is in");
        assert_eq!(both.agreeing, "A is in X. A is in");
        let swap = r#"{"question": "who", "org_context": "<P> X did. </P>", "org_answer": ["X"], "sub_context": "Y did.", "sub_answer": ["Y"]}"#;
        let Some(Found::Both(both)) = fact(swap) else {
            panic!()
        };
        assert_eq!(both.agreeing, "X did.\nQuestion: who?\nAnswer:");
        assert!(matches!(
            fact(r#"{"question": "Who?", "context": "X did.", "answer": "X"}"#),
            Some(Found::Given { .. })
        ));
    }

    #[test]
    fn records_that_lack_something_are_none() {
        for line in [
            "{}",
            r#"{"question": "Who?", "context": "", "answer": "X"}"#,
            r#"{"question": "Who?", "context": "X did.", "answer": []}"#,
            r#"{"question": "Who?", "context": "X did."}"#,
            r#"{"base_prompt": "A", "prompt": "B", "target_true": " "}"#,
        ] {
            assert!(fact(line).is_none(), "{line}");
        }
    }
}
