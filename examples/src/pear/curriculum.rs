//! What coefficients are learned from: conflicts to be won by the context, and answers to be kept.

use anyhow::Result;
use pear_train::faithful::{Item, ItemGroup};
use serde::{Deserialize, Serialize};

use super::questions::{Asked, Fact, Groups};

/// Items of a step that are kept, by kind.
const AGREEING: usize = 12;
const CLOSED_BOOK: usize = 16;
pub const PASSAGES: usize = 6;
/// Conflicts of a step, half of them with the question repeated word for word where there are such.
const CONFLICTS: usize = 32;
/// Prompts of a step that are no passages.
pub const PROMPTS: usize = CONFLICTS + AGREEING + CLOSED_BOOK;

/// Items to learn from, by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Curriculum {
    /// The context contradicts what the model knows, in words of its own.
    pub contradicted: Vec<Item>,
    /// The question stands in the context, with another answer.
    pub repeated: Vec<Item>,
    /// The context agrees with what the model knows.
    pub agreeing: Vec<Item>,
    /// No context.
    pub closed_book: Vec<Item>,
    /// Passages in the model's chat template, true and false ones.
    pub passages: Vec<Item>,
}

impl Curriculum {
    /// Adds the items of a fact, if the model knows it; `said` is what it says without a context.
    pub fn add(&mut self, fact: &Fact, said: u32) -> bool {
        let mut groups = Groups::default();
        if !groups.add(fact, said) {
            return false;
        }
        let prefer = |prompt: &[u32], wanted, other| Item::prefer(prompt.to_vec(), wanted, other);
        let keep = |asked: &Asked| Item::keep(asked.prompt.clone(), asked.wanted);
        self.contradicted.extend(
            groups
                .conflicting
                .iter()
                .map(|asked| prefer(&asked.prompt, asked.wanted, asked.other.unwrap_or(said))),
        );
        let repeated = fact.lessons.repeated.iter();
        self.repeated.extend(
            repeated
                .filter(|(_, wanted)| *wanted != said)
                .map(|(prompt, wanted)| prefer(prompt, *wanted, said)),
        );
        self.agreeing.extend(groups.agreeing.iter().map(keep));
        self.closed_book.extend(groups.closed_book.iter().map(keep));
        let passages = fact.lessons.passages.iter();
        self.passages
            .extend(passages.map(|(prompt, answer)| Item::keep(prompt.clone(), *answer)));
        true
    }

    /// Whether there is a conflict to learn from.
    pub fn is_empty(&self) -> bool {
        self.contradicted.is_empty() && self.repeated.is_empty()
    }

    /// The groups of a step, without empty ones. Both kinds of conflicts together weigh 1, as each other kind does.
    ///
    /// # Errors
    /// None for items made by [`add`](Self::add).
    pub fn groups(&self) -> Result<Vec<ItemGroup>> {
        let kinds = [self.contradicted.is_empty(), self.repeated.is_empty()];
        let share = if kinds.contains(&true) { 1.0 } else { 0.5 };
        let conflicts = (CONFLICTS as f64 * share) as usize;
        let groups = [
            ("contradicted", &self.contradicted, conflicts, share),
            ("repeated", &self.repeated, conflicts, share),
            ("agreeing", &self.agreeing, AGREEING, 1.0),
            ("closed book", &self.closed_book, CLOSED_BOOK, 1.0),
            ("passages", &self.passages, PASSAGES, 1.0),
        ];
        groups
            .into_iter()
            .filter(|(_, items, ..)| !items.is_empty())
            .map(|(name, items, per_step, weight)| {
                Ok(ItemGroup::new(name, items.clone(), per_step)?.with_weight(weight)?)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::questions::{EncodedLessons, WithContext};
    use super::*;

    fn fact() -> Fact {
        Fact {
            key: "k".into(),
            closed: vec![1, 2],
            with_context: WithContext::Both {
                answer: 7,
                conflicting: (vec![3], 8),
                agreeing: vec![4],
            },
            lessons: EncodedLessons {
                repeated: Some((vec![1, 2, 8, 1, 2], 8)),
                passages: vec![(vec![5], 8), (vec![6], 7)],
            },
        }
    }

    #[test]
    fn facts_that_the_model_does_not_know_teach_nothing() {
        let mut curriculum = Curriculum::default();
        assert!(!curriculum.add(&fact(), 9));
        assert_eq!(curriculum, Curriculum::default());
    }

    #[test]
    fn the_context_is_preferred_to_memory_and_all_else_kept() {
        let mut curriculum = Curriculum::default();
        assert!(curriculum.add(&fact(), 7));
        assert_eq!(curriculum.contradicted, [Item::prefer(vec![3], 8, 7)]);
        let repeated = Item::prefer(vec![1, 2, 8, 1, 2], 8, 7);
        assert_eq!(curriculum.repeated, [repeated]);
        assert_eq!(curriculum.agreeing, [Item::keep(vec![4], 7)]);
        assert_eq!(curriculum.closed_book, [Item::keep(vec![1, 2], 7)]);
        let passages = [Item::keep(vec![5], 8), Item::keep(vec![6], 7)];
        assert_eq!(curriculum.passages, passages);
    }

    #[test]
    fn conflicts_weigh_one_together() {
        let mut curriculum = Curriculum::default();
        curriculum.add(&fact(), 7);
        let weight = |name: &str, curriculum: &Curriculum| -> f64 {
            let groups = curriculum.groups().unwrap();
            let named = groups.iter().filter(|group| group.name() == name);
            named.map(ItemGroup::weight).sum()
        };
        assert_eq!(weight("contradicted", &curriculum), 0.5);
        curriculum.repeated.clear();
        assert_eq!(weight("contradicted", &curriculum), 1.0);
    }
}
