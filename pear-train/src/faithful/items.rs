//! What is learned from: prompts, and what is wanted of the token after them.

use pear_core::DecoderModel;
use pear_core::forward::{check_length, check_vocabulary};
use serde::{Deserialize, Serialize};

use crate::draws::drawn;
use crate::{Error, Result};

/// A prompt, and what is wanted of the token after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Token ids; what follows the last one is looked at.
    pub prompt: Vec<u32>,
    /// What is wanted.
    #[serde(flatten)]
    pub goal: Goal,
}

/// What is wanted of the token after a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Goal {
    /// One token is to be likelier than another one. Loss: `softplus(margin − (logit of preferred − logit of rejected))`.
    Prefer {
        /// As a rule what the context says.
        preferred: u32,
        /// As a rule what the model remembers.
        rejected: u32,
    },
    /// A token is not to become less likely than it is for the unmodified model. Loss: `max(0, log p₀ − log p)`.
    Keep {
        /// The token.
        keep: u32,
    },
}

impl Item {
    /// `preferred` is to be likelier than `rejected` after `prompt`: the answer of a context over what the model remembers.
    pub fn prefer(prompt: Vec<u32>, preferred: u32, rejected: u32) -> Self {
        let goal = Goal::Prefer {
            preferred,
            rejected,
        };
        Self { prompt, goal }
    }

    /// `token` is to stay as likely after `prompt` as it is.
    pub fn keep(prompt: Vec<u32>, token: u32) -> Self {
        let goal = Goal::Keep { keep: token };
        Self { prompt, goal }
    }

    /// The token that is to be likely.
    pub fn token(&self) -> u32 {
        match self.goal {
            Goal::Prefer { preferred, .. } => preferred,
            Goal::Keep { keep } => keep,
        }
    }

    pub(super) fn is_preference(&self) -> bool {
        matches!(self.goal, Goal::Prefer { .. })
    }

    /// Whether a model can read it.
    pub(super) fn check<M: DecoderModel>(&self, model: &M) -> Result<()> {
        let mut ids = self.prompt.clone();
        match self.goal {
            Goal::Prefer {
                preferred,
                rejected,
            } => ids.extend([preferred, rejected]),
            Goal::Keep { keep } => ids.push(keep),
        }
        check_length(model, self.prompt.len())?;
        Ok(check_vocabulary(model, ids.into_iter().map(i64::from))?)
    }
}

/// Items of one kind, of which each step reads some.
#[derive(Clone, Debug, PartialEq)]
pub struct ItemGroup {
    name: String,
    items: Vec<Item>,
    per_step: usize,
    weight: f64,
}

impl ItemGroup {
    /// Items of which each step reads `per_step`, drawn so that all are read once before any is read again. `name` is for reports and
    /// errors.
    ///
    /// # Errors
    /// [`Error::Items`] for no items, an empty prompt, a token preferred to itself, or a `per_step` of 0.
    pub fn new(name: impl Into<String>, items: Vec<Item>, per_step: usize) -> Result<Self> {
        let group = Self {
            name: name.into(),
            items,
            per_step,
            weight: 1.0,
        };
        if group.items.is_empty() {
            return group.error("no items: expected at least one");
        }
        if per_step == 0 {
            return group.error("0 items a step: expected at least one");
        }
        for (index, item) in group.items.iter().enumerate() {
            if item.prompt.is_empty() {
                return group.error(format!("item {index} has an empty prompt"));
            }
            if let Goal::Prefer {
                preferred,
                rejected,
            } = item.goal
                && preferred == rejected
            {
                return group.error(format!(
                    "item {index} prefers token {preferred} to itself: expected two tokens"
                ));
            }
        }
        Ok(group)
    }

    /// Weight of the group's mean loss in the objective, 1 otherwise.
    ///
    /// # Errors
    /// [`Error::Items`] for a weight that is not a positive number.
    pub fn with_weight(mut self, weight: f64) -> Result<Self> {
        if !(weight.is_finite() && weight > 0.0) {
            return self.error(format!("weight {weight}: expected a positive number"));
        }
        self.weight = weight;
        Ok(self)
    }

    fn error<T>(&self, problem: impl Into<String>) -> Result<T> {
        Err(Error::Items {
            group: self.name.clone(),
            problem: problem.into(),
        })
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The items.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// Items that a step reads.
    pub fn per_step(&self) -> usize {
        self.per_step
    }

    /// Weight of the mean loss in the objective.
    pub fn weight(&self) -> f64 {
        self.weight
    }

    /// The indices of the items that a step reads; `group` is the place of this one among others, which are drawn differently.
    pub(super) fn drawn(&self, seed: u64, group: usize, step: usize) -> Vec<usize> {
        drawn(
            self.items.len(),
            seed,
            (group as u64) << 40,
            step,
            self.per_step,
        )
    }
}

/// What tells these groups from others.
pub(super) fn fingerprint(groups: &[ItemGroup]) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut number = |number: u64| {
        hasher.update(&number.to_le_bytes());
    };
    for group in groups {
        number(group.items.len() as u64);
        number(group.per_step as u64);
        number(group.weight.to_bits());
        for item in &group.items {
            number(item.prompt.len() as u64);
            item.prompt.iter().for_each(|&id| number(u64::from(id)));
            let (kind, rejected) = match item.goal {
                Goal::Prefer { rejected, .. } => (1, rejected),
                Goal::Keep { .. } => (2, 0),
            };
            number(kind);
            number(u64::from(item.token()));
            number(u64::from(rejected));
        }
    }
    hasher.finalize().to_hex()[..32].to_owned()
}
