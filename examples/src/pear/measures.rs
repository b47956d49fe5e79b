//! How a model answers, question by question.

use anyhow::{Result, bail};
use pear_models::Decoder;
use pear_models::evaluation::Estimate;
use serde::{Deserialize, Serialize};

use super::next_token::next_tokens;
use super::questions::{Asked, Groups};
use super::report::Measures;

/// One answer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answered {
    /// Whether it counts as right: the wanted answer is likelier than the other one, or, where there is no other, the likeliest token.
    pub right: bool,
    /// Log-probability of the wanted answer.
    pub log_prob: f64,
}

/// Answers to the questions of a set, in their order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answers {
    /// With contradicting contexts.
    pub conflicting: Vec<Answered>,
    /// With agreeing contexts.
    pub agreeing: Vec<Answered>,
    /// Without; none where they were not asked.
    pub closed_book: Vec<Answered>,
}

impl Answers {
    /// Asks all questions with contexts, and those without if `closed_book`.
    ///
    /// # Errors
    /// Log-probabilities that are not finite.
    pub fn of(model: &Decoder, groups: &Groups, closed_book: bool) -> Result<Self> {
        Ok(Self {
            conflicting: ask(model, &groups.conflicting)?,
            agreeing: ask(model, &groups.agreeing)?,
            closed_book: if closed_book {
                ask(model, &groups.closed_book)?
            } else {
                Vec::new()
            },
        })
    }

    /// What a report says of them.
    pub fn measures(&self) -> Measures {
        Measures {
            conflicting: Estimate::of(&rights(&self.conflicting)),
            conflicting_log_prob: mean(&log_probs(&self.conflicting)),
            agreeing: Estimate::of(&rights(&self.agreeing)),
            agreeing_log_prob: mean(&log_probs(&self.agreeing)),
        }
    }
}

/// Asks questions.
///
/// # Errors
/// Log-probabilities that are not finite.
pub fn ask(model: &Decoder, questions: &[Asked]) -> Result<Vec<Answered>> {
    let prompts: Vec<&[u32]> = questions.iter().map(|asked| &asked.prompt[..]).collect();
    let said = next_tokens(model, &prompts, |index| {
        let asked = &questions[index];
        std::iter::once(asked.wanted).chain(asked.other).collect()
    })?;
    let answered = questions.iter().zip(said).map(|(asked, said)| {
        let wanted = said.log_probs[0];
        if !said.log_probs.iter().all(|log_prob| log_prob.is_finite()) {
            bail!("a log-probability is not a number");
        }
        let right = match said.log_probs.get(1) {
            Some(other) => wanted > *other,
            None => said.top == asked.wanted,
        };
        Ok(Answered {
            right,
            log_prob: wanted,
        })
    });
    answered.collect()
}

/// Which answers are right.
pub fn rights(answers: &[Answered]) -> Vec<bool> {
    answers.iter().map(|answer| answer.right).collect()
}

/// The log-probabilities of the wanted answers.
pub fn log_probs(answers: &[Answered]) -> Vec<f64> {
    answers.iter().map(|answer| answer.log_prob).collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}
