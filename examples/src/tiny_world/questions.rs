//! Questions that are answered with one word.

use super::{ATTRIBUTES, BOS, KNOWN, UNSEEN, World};
use crate::random::Random;

/// What the documents state about the person in the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The memorised value.
    Agreeing,
    /// Another value than the memorised one; the document's counts as right.
    Conflicting,
    /// A value for a person who occurs in no document of the corpus.
    Unseen,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Agreeing, Self::Conflicting, Self::Unseen];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Agreeing => "agreeing",
            Self::Conflicting => "conflicting",
            Self::Unseen => "unseen",
        }
    }
}

/// A question with or without documents before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The prompt.
    pub prompt: Vec<u32>,
    /// The right answer.
    pub answer: u32,
    /// The memorised answer, if there is one.
    pub memory: Option<u32>,
}

impl World {
    /// Questions about the document at position `gold` (from 0) of `documents`. No other document contains the answer or the memorised
    /// value.
    ///
    /// # Panics
    /// If `gold` is not below `documents`.
    pub fn questions(
        &self,
        kind: Kind,
        documents: usize,
        gold: usize,
        count: usize,
        random: &mut Random,
    ) -> Vec<Question> {
        assert!(gold < documents, "document {gold} of {documents}");
        (0..count)
            .map(|_| self.question_on_documents(kind, documents, gold, random))
            .collect()
    }

    fn question_on_documents(
        &self,
        kind: Kind,
        documents: usize,
        gold: usize,
        random: &mut Random,
    ) -> Question {
        let people = if kind == Kind::Unseen { UNSEEN } else { KNOWN };
        let anyone = |random: &mut Random| {
            random.between(people.start as usize, people.end as usize - 1) as u32
        };
        let (attribute, person) = (random.below(ATTRIBUTES), anyone(random));
        let memory = self.fact(person, attribute);
        let other_than = |taken: &[Option<u32>], attribute: usize, random: &mut Random| {
            let free: Vec<u32> = Self::values(attribute)
                .into_iter()
                .filter(|value| !taken.contains(&Some(*value)))
                .collect();
            random.choose(&free)
        };
        let answer = match memory {
            Some(memory) if kind == Kind::Agreeing => memory,
            _ => other_than(&[memory], attribute, random),
        };

        let mut stated: Vec<(u32, usize, u32)> = Vec::with_capacity(documents);
        while stated.len() < documents - 1 {
            let other = if random.chance(0.15) {
                person
            } else {
                anyone(random)
            };
            let about = if random.chance(0.5) {
                attribute
            } else {
                random.below(ATTRIBUTES)
            };
            if (other, about) == (person, attribute)
                || stated.iter().any(|s| (s.0, s.1) == (other, about))
            {
                continue;
            }
            let value = match self.fact(other, about) {
                Some(fact) if kind == Kind::Agreeing => fact,
                _ => random.choose(&Self::values(about)),
            };
            let taken = [Some(answer), memory];
            let value = if taken.contains(&Some(value)) {
                other_than(&taken, about, random)
            } else {
                value
            };
            stated.push((other, about, value));
        }
        stated.insert(gold, (person, attribute, answer));

        let mut prompt = vec![BOS];
        for (person, attribute, value) in stated {
            prompt.push(self.word("doc"));
            prompt.extend(self.statement(random, person, attribute, value));
        }
        prompt.extend(self.question(person, attribute));
        Question {
            prompt,
            answer,
            memory,
        }
    }

    /// Questions without documents about different memorised facts.
    pub fn closed_book(&self, count: usize, random: &mut Random) -> Vec<Question> {
        let facts =
            KNOWN.flat_map(|person| (0..ATTRIBUTES).map(move |attribute| (person, attribute)));
        let asked = random.sample(facts, count);
        let question = |(person, attribute)| {
            let memory = self.fact(person, attribute);
            let prompt = [vec![BOS], self.question(person, attribute)].concat();
            Question {
                prompt,
                answer: memory.expect("of a known person"),
                memory,
            }
        };
        asked.into_iter().map(question).collect()
    }

    /// Rows of plain sentences with `len` tokens each.
    pub fn sentences(&self, rows: usize, len: usize, random: &mut Random) -> Vec<Vec<u32>> {
        let row = |random: &mut Random| {
            let mut row = vec![BOS];
            while row.len() < len {
                row.extend(self.sentence(random));
            }
            row.truncate(len);
            row
        };
        (0..rows).map(|_| row(random)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gold_document_is_at_its_position_and_no_other_contains_the_answer() {
        let world = World::new(0);
        for kind in Kind::ALL {
            for gold in 0..5 {
                for question in world.questions(kind, 5, gold, 60, &mut Random::new(3, 0)) {
                    let text = world.text(&question.prompt);
                    let documents: Vec<&str> = text
                        .split(" question ")
                        .next()
                        .unwrap()
                        .split("doc ")
                        .skip(1)
                        .collect();
                    let (answer, asked) = (
                        world.text(&[question.answer]),
                        text.split(" question ").nth(1).unwrap(),
                    );
                    let person = asked.split(' ').nth(3).unwrap();
                    assert_eq!(documents.len(), 5);
                    let words = |i: usize| documents[i].split(' ').collect::<Vec<_>>();
                    assert!(
                        words(gold).contains(&&*answer) && words(gold).contains(&person),
                        "{text}"
                    );
                    assert!(
                        (0..5)
                            .filter(|&i| i != gold)
                            .all(|i| !words(i).contains(&&*answer)),
                        "{text}"
                    );
                    if let Some(memory) =
                        question.memory.filter(|memory| *memory != question.answer)
                    {
                        assert!(
                            !text.split(' ').any(|word| word == world.text(&[memory])),
                            "{text}"
                        );
                    }
                    assert_eq!(question.memory.is_none(), kind == Kind::Unseen);
                    assert_eq!(
                        question.memory == Some(question.answer),
                        kind == Kind::Agreeing
                    );
                }
            }
        }
    }

    #[test]
    fn closed_book_asks_for_different_facts_without_documents() {
        let world = World::new(0);
        let mut questions = world.closed_book(300, &mut Random::new(0, 0));
        assert!(
            questions
                .iter()
                .all(|q| q.prompt.len() == 7 && q.memory == Some(q.answer))
        );
        questions.sort_by(|a, b| a.prompt.cmp(&b.prompt));
        questions.dedup();
        assert_eq!(questions.len(), 300);
    }

    #[test]
    fn questions_depend_on_the_seed_alone() {
        let world = World::new(0);
        let make = |seed| world.questions(Kind::Conflicting, 8, 3, 20, &mut Random::new(seed, 0));
        assert_eq!(make(1), make(1));
        assert_ne!(make(1), make(2));
    }
}
