//! Questions as tokens: what a model is asked with and without a context, divided into a development and a held-out set.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use pear_models::Decoder;
use serde::{Deserialize, Serialize};

use super::curriculum::Curriculum;
use super::encoder::Encoded;
use super::next_token::next_tokens;
use crate::random::hashed;

/// Known facts that each set needs: fewer tell nothing.
pub const FEWEST: usize = 20;
/// Shares of the facts that are learned from and in the development set, in percent; the others are held out.
const LEARNING_PERCENT: u64 = 40;
const DEVELOPMENT_PERCENT: u64 = 20;

/// A prompt with the tokens that an answer may begin with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// What the model reads.
    pub prompt: Vec<u32>,
    /// First token of the answer that counts as right: the context's, if there is a context.
    pub wanted: u32,
    /// First token of the memorised answer, where the context contradicts it.
    pub other: Option<u32>,
}

/// One fact, before it is known whether the model knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// What the set it belongs to is chosen by.
    pub key: String,
    /// The question without a context.
    pub closed: Vec<u32>,
    /// What is asked with a context.
    pub with_context: WithContext,
    /// What is only learned from.
    pub lessons: EncodedLessons,
}

/// More ways to put a fact, to learn from: prompts with the first token of the answer that stands in their context.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EncodedLessons {
    /// The question with another answer, then the question again.
    pub repeated: Option<Encoded>,
    /// Passages in the model's chat template.
    pub passages: Vec<Encoded>,
}

/// Contexts of a fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WithContext {
    /// The memorised answer is known: one context contradicts it, one agrees with it.
    Both {
        /// First token of the true answer.
        answer: u32,
        /// Prompt with the contradicting context, and the first token of the answer in it.
        conflicting: (Vec<u32>, u32),
        /// Prompt with the agreeing context.
        agreeing: Vec<u32>,
    },
    /// One context: it agrees with the model or not, whatever the model says without it.
    Given {
        /// The prompt.
        prompt: Vec<u32>,
        /// First token of the answer in the context.
        answer: u32,
    },
}

/// The questions of one set by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Groups {
    /// The context contradicts what the model knows.
    pub conflicting: Vec<Asked>,
    /// The context agrees with what the model knows.
    pub agreeing: Vec<Asked>,
    /// No context; the model knows the answer.
    pub closed_book: Vec<Asked>,
}

/// What a model is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuestionSet {
    /// Where the facts come from.
    pub source: String,
    /// Facts that were read.
    pub facts: usize,
    /// Facts that the model knows, or whose context tells what it would say otherwise.
    pub known: usize,
    /// What coefficients are learned from.
    pub learning: Curriculum,
    /// What settings are compared on.
    pub development: Groups,
    /// What the choice is judged on.
    pub held_out: Groups,
}

/// What a fact is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Coefficients are learned from it.
    Learning,
    /// Settings are compared on it.
    Development,
    /// The choice is judged on it.
    HeldOut,
}

/// What a fact is used for: by a hash of its key, so that neither order nor number of the facts matters.
pub fn part_of(key: &str) -> Part {
    match u64::from_be_bytes(hashed(key)) % 100 {
        share if share < LEARNING_PERCENT => Part::Learning,
        share if share < LEARNING_PERCENT + DEVELOPMENT_PERCENT => Part::Development,
        _ => Part::HeldOut,
    }
}

impl QuestionSet {
    /// Asks the unmodified model each fact without a context, and keeps those that it knows.
    ///
    /// # Errors
    /// Fewer than [`FEWEST`] conflicting questions in a set; a prompt that the model cannot read.
    pub fn of(source: &str, facts: &[Fact], model: &Decoder) -> Result<Self> {
        let prompts: Vec<&[u32]> = facts.iter().map(|fact| &fact.closed[..]).collect();
        let said = next_tokens(model, &prompts, |_| Vec::new())?;
        let mut set = Self {
            source: source.into(),
            facts: facts.len(),
            known: 0,
            learning: Curriculum::default(),
            development: Groups::default(),
            held_out: Groups::default(),
        };
        let mut known = BTreeSet::new();
        for (fact, said) in facts.iter().zip(said) {
            let part = part_of(&fact.key);
            // Two questions on one fact would count as two where they are hardly more than one; to learn from, both are welcome.
            if part != Part::Learning && known.contains(&fact.key) {
                continue;
            }
            let is_known = match part {
                Part::Learning => set.learning.add(fact, said.top),
                Part::Development => set.development.add(fact, said.top),
                Part::HeldOut => set.held_out.add(fact, said.top),
            };
            if is_known {
                known.insert(&fact.key);
            }
        }
        let keys: BTreeSet<&String> = facts.iter().map(|fact| &fact.key).collect();
        (set.facts, set.known) = (keys.len(), known.len());
        set.check()?;
        Ok(set)
    }

    fn check(&self) -> Result<()> {
        let sets = [
            ("development", &self.development),
            ("held-out", &self.held_out),
        ];
        for (name, groups) in sets {
            let kinds = [
                ("a contradicting", groups.conflicting.len()),
                ("an agreeing", groups.agreeing.len()),
            ];
            for (kind, count) in kinds {
                if count < FEWEST {
                    bail!(
                        "{}: {count} of {} facts are known to the model and have {kind} context in the {name} set: expected at least \
                         {FEWEST}; bring questions that it can answer with --data",
                        self.source,
                        self.facts
                    );
                }
            }
        }
        Ok(())
    }
}

impl Groups {
    /// Adds the questions on a fact, if the model knows it; `said` is what it says without a context.
    pub(super) fn add(&mut self, fact: &Fact, said: u32) -> bool {
        let closed = |wanted| Asked {
            prompt: fact.closed.clone(),
            wanted,
            other: None,
        };
        match &fact.with_context {
            WithContext::Both { answer, .. } if *answer != said => false,
            WithContext::Both {
                answer,
                conflicting: (prompt, wanted),
                agreeing,
            } => {
                self.conflicting.push(Asked {
                    prompt: prompt.clone(),
                    wanted: *wanted,
                    other: Some(*answer),
                });
                self.agreeing.push(Asked {
                    prompt: agreeing.clone(),
                    wanted: *answer,
                    other: None,
                });
                self.closed_book.push(closed(*answer));
                true
            }
            WithContext::Given { prompt, answer } => {
                let asked = Asked {
                    prompt: prompt.clone(),
                    wanted: *answer,
                    other: (*answer != said).then_some(said),
                };
                if asked.other.is_some() {
                    self.conflicting.push(asked);
                } else {
                    self.agreeing.push(asked);
                    self.closed_book.push(closed(*answer));
                }
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(with_context: WithContext) -> Fact {
        Fact {
            key: "k".into(),
            closed: vec![1, 2],
            with_context,
            lessons: EncodedLessons::default(),
        }
    }

    #[test]
    fn facts_that_the_model_does_not_know_are_left_out() {
        let both = fact(WithContext::Both {
            answer: 7,
            conflicting: (vec![3], 8),
            agreeing: vec![4],
        });
        let mut groups = Groups::default();
        assert!(!groups.add(&both, 9));
        assert_eq!(groups, Groups::default());
        assert!(groups.add(&both, 7));
        assert_eq!(
            (groups.conflicting[0].wanted, groups.conflicting[0].other),
            (8, Some(7))
        );
        assert_eq!(
            (groups.agreeing[0].wanted, groups.closed_book[0].wanted),
            (7, 7)
        );
    }

    #[test]
    fn a_given_context_conflicts_with_what_the_model_says_without_it_or_agrees() {
        let given = fact(WithContext::Given {
            prompt: vec![5],
            answer: 7,
        });
        let mut groups = Groups::default();
        groups.add(&given, 9);
        groups.add(&given, 7);
        assert_eq!(groups.conflicting[0].other, Some(9));
        assert_eq!((groups.agreeing.len(), groups.closed_book.len()), (1, 1));
    }

    #[test]
    fn parts_depend_on_the_key_alone_and_have_the_stated_shares() {
        let share = |part| {
            (0..1000)
                .filter(|i| part_of(&format!("fact {i}")) == part)
                .count()
        };
        let shares = [Part::Learning, Part::Development, Part::HeldOut].map(share);
        assert!((360..440).contains(&shares[0]), "{shares:?}");
        assert!((160..240).contains(&shares[1]), "{shares:?}");
    }
}
