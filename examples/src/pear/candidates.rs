//! Trying each way to set coefficients on the development set.

use anyhow::Result;
use pear_core::{DecoderModel, HeadId};
use pear_models::Decoder;
use pear_models::evaluation::{Estimate, TextReference};
use serde::{Deserialize, Serialize};

use super::curriculum::Curriculum;
use super::learning::{Coefficients, KL_WEIGHT, Learner, reweighted, state_of};
use super::measures::{Answered, Answers, ask, rights};
use super::plain_text::divergence;
use super::questions::Groups;
use super::recipe::{Recipe, nats};
use super::report::{Candidate, Coefficient};

/// A candidate that is further from the unmodified model than this, in nats a token, is dropped before it is asked anything.
pub const MOST_KL: f64 = 0.15;
/// A candidate that loses more than this share of the questions with agreeing contexts is dropped before the conflicting ones.
pub const MOST_HARM: f64 = 0.05;

/// A candidate with its answers to the development questions, by which it is compared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tried {
    /// What the report says of it.
    pub candidate: Candidate,
    /// Its answers, unless it was dropped before.
    pub answers: Option<Answers>,
}

/// What candidates are tried on.
pub struct Trial<'a> {
    /// What learns, on the unmodified model.
    pub learner: Learner<'a>,
    /// All heads, the one to be re-weighted first in front.
    pub ranked: &'a [HeadId],
    /// What is learned from, beside the proxy task.
    pub curriculum: &'a Curriculum,
    /// The development questions.
    pub questions: &'a Groups,
    /// The answers of the unmodified model.
    pub baseline: &'a Answers,
    /// The text.
    pub text: &'a TextReference<'a, Decoder>,
}

impl Trial<'_> {
    /// Tries one way.
    ///
    /// # Errors
    /// A loss or divergence that is not finite; files that cannot be written.
    pub fn run(&self, recipe: Recipe) -> Result<Tried> {
        let coefficients = self.coefficients(recipe)?;
        let model = reweighted(self.learner.model, &coefficients)?;
        let divergence = divergence(self.text, &model)?;
        let mut tried = Tried {
            candidate: Candidate {
                id: recipe.id(),
                description: recipe.description(),
                kind: recipe.kind(),
                coefficients,
                divergence,
                measures: None,
                dropped: None,
            },
            answers: None,
        };
        if divergence.kl > MOST_KL {
            let reason = format!("KL {:.3} is more than {MOST_KL}", divergence.kl);
            tried.candidate.dropped = Some(reason);
        } else {
            self.question(&model, &mut tried)?;
        }
        Ok(tried)
    }

    /// Asks about agreeing contexts first: what breaks those is not worth more questions.
    fn question(&self, model: &Decoder, tried: &mut Tried) -> Result<()> {
        let agreeing = ask(model, &self.questions.agreeing)?;
        let share = |answers: &[Answered]| Estimate::of(&rights(answers)).mean;
        let lost = share(&self.baseline.agreeing) - share(&agreeing);
        if lost > MOST_HARM {
            tried.candidate.dropped = Some(format!(
                "{:.1} points of the agreeing questions are lost",
                100.0 * lost
            ));
            return Ok(());
        }
        let answers = Answers {
            conflicting: ask(model, &self.questions.conflicting)?,
            agreeing,
            closed_book: Vec::new(),
        };
        tried.candidate.measures = Some(answers.measures());
        tried.answers = Some(answers);
        Ok(())
    }

    fn coefficients(&self, recipe: Recipe) -> Result<Coefficients> {
        let top = |count: usize| &self.ranked[..count.min(self.ranked.len())];
        match recipe {
            Recipe::Fixed { count, factor } => {
                let value = f64::from(factor);
                let heads = top(count).iter();
                Ok(heads.map(|&head| Coefficient { head, value }).collect())
            }
            Recipe::Ranked { count } => self.learned(&recipe.id(), top(count), 0.0),
            Recipe::Natural { milli_nats } => {
                let journal = self.learner.journal;
                let step = journal.step("natural-step", || self.learner.natural())?;
                self.within(&step, milli_nats)
            }
            Recipe::AllHeads { milli_nats } => {
                let all: Vec<HeadId> = self.learner.model.shape().heads().collect();
                let learned = self.learned("all-heads", &all, KL_WEIGHT)?;
                self.within(&learned, milli_nats)
            }
            Recipe::Faithful { price } => {
                let journal = self.learner.journal;
                let front = journal.step("faithful", || self.learner.faithful(self.curriculum))?;
                let point = front.into_iter().find(|point| point.price == price);
                Ok(point.map(|point| point.coefficients).unwrap_or_default())
            }
        }
    }

    fn within(&self, coefficients: &[Coefficient], milli_nats: u32) -> Result<Coefficients> {
        self.learner
            .within(coefficients, nats(milli_nats), self.text)
    }

    /// Coefficients that are learned once, whatever they are used for.
    fn learned(&self, name: &str, heads: &[HeadId], kl_weight: f64) -> Result<Coefficients> {
        let journal = self.learner.journal;
        let learned = journal.step(&format!("learned-{name}"), || {
            self.learner.learn(name, heads, kl_weight)
        })?;
        journal.remove(&state_of(name))?;
        Ok(learned)
    }
}
