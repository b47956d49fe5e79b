//! Training data of the tiny world.

use super::{
    ADJECTIVES, ATTRIBUTES, BOS, CHANGING, FIRST_ATTRIBUTE, FIRST_VALUE, KNOWN, NOUNS, PLACES,
    SPECIAL_TOKENS, UNSEEN, VALUES, VOCABULARY, World,
};
use crate::random::Random;

/// Tokens, each with its weight in the loss.
pub type Item = Vec<(u32, f32)>;

/// Weight of an answer.
const ANSWER: f32 = 3.0;
/// Weight of questions, and of spans that cannot be predicted.
const CONTEXT: f32 = 0.2;
/// Weight of a token in a document.
const DOCUMENT: f32 = 0.1;
/// Largest number of tokens in a repeated span.
const MAX_SPAN: usize = 40;
/// Smallest and largest number of documents before a question.
const DOCUMENTS: (usize, usize) = (3, 8);

/// The share of each kind of item; they sum to 1.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// Facts and questions about them, without documents.
    pub facts: f64,
    /// Documents with questions.
    pub documents: f64,
    /// Lists without repetition.
    pub lists: f64,
    /// Repeated spans.
    pub repeats: f64,
    /// Plain sentences.
    pub text: f64,
}

/// The data of a stage of training.
#[derive(Clone, Debug)]
pub struct CorpusOptions {
    /// Shares of the kinds of items.
    pub mix: Mix,
    /// Rates at which tokens of a repetition are replaced; one is drawn for each span.
    pub noise: Vec<f64>,
    /// Probability that the answer follows a document that contradicts a fact.
    pub follow: f64,
    /// Probability that the answer about a changing person is a random value instead of the document's.
    pub wrong: f64,
    /// Probability that a document is about a known person.
    pub known: f64,
    /// Probability that such a document states a random value instead of the fact.
    pub conflict: f64,
}

impl CorpusOptions {
    /// Answers always follow the documents.
    pub fn clean() -> Self {
        let mix = Mix {
            facts: 0.32,
            documents: 0.38,
            lists: 0.0,
            repeats: 0.18,
            text: 0.12,
        };
        Self {
            mix,
            noise: vec![0.0],
            follow: 1.0,
            wrong: 0.0,
            known: 0.5,
            conflict: 0.5,
        }
    }

    /// Answers follow the documents or memory, and repetitions are rarely exact: the model learns to hedge.
    pub fn hedging() -> Self {
        let mix = Mix {
            facts: 0.15,
            documents: 0.5,
            lists: 0.12,
            repeats: 0.1,
            text: 0.13,
        };
        Self {
            mix,
            noise: vec![0.2, 0.4, 0.6],
            follow: 0.4,
            wrong: 0.15,
            known: 0.7,
            conflict: 0.6,
        }
    }
}

/// An endless supply of training rows.
#[derive(Debug)]
pub struct Corpus<'a> {
    world: &'a World,
    options: &'a CorpusOptions,
    random: &'a mut Random,
}

impl<'a> Corpus<'a> {
    /// Rows drawn with `random`.
    pub fn new(world: &'a World, options: &'a CorpusOptions, random: &'a mut Random) -> Self {
        Self {
            world,
            options,
            random,
        }
    }

    /// A row of `len` tokens: items that begin with a BOS, the last one possibly cut.
    pub fn row(&mut self, len: usize) -> Item {
        let mut row = Item::new();
        while row.len() < len {
            row.push((BOS, 0.1));
            row.extend(self.item());
        }
        row.truncate(len);
        row
    }

    fn item(&mut self) -> Item {
        let Mix {
            facts,
            documents,
            lists,
            repeats,
            ..
        } = self.options.mix;
        let at = self.random.uniform();
        if at < facts {
            self.facts()
        } else if at < facts + documents {
            self.documents()
        } else if at < facts + documents + lists {
            self.list()
        } else if at < facts + documents + lists + repeats {
            self.repeat()
        } else {
            let sentences = self.random.between(1, 4);
            (0..sentences)
                .flat_map(|_| self.world.sentence(self.random))
                .map(|token| (token, 1.0))
                .collect()
        }
    }

    fn facts(&mut self) -> Item {
        let (world, random) = (self.world, &mut *self.random);
        let mut item = Item::new();
        for _ in 0..random.between(2, 5) {
            let (person, attribute) = (
                random.between(KNOWN.start as usize, KNOWN.end as usize - 1) as u32,
                random.below(ATTRIBUTES),
            );
            let value = world.facts[(person - KNOWN.start) as usize][attribute];
            let tokens = if random.chance(0.5) {
                world.statement(random, person, attribute, value)
            } else {
                [
                    world.question(person, attribute),
                    vec![value, world.word(".")],
                ]
                .concat()
            };
            let answer = tokens.len() - 2;
            item.extend(
                tokens
                    .into_iter()
                    .enumerate()
                    .map(|(i, token)| (token, if i == answer { ANSWER } else { 1.0 })),
            );
        }
        item
    }

    fn documents(&mut self) -> Item {
        let (world, options, random) = (self.world, self.options, &mut *self.random);
        let count = random.between(DOCUMENTS.0, DOCUMENTS.1);
        let common = random.below(ATTRIBUTES);
        let mut stated: Vec<(u32, usize, u32)> = Vec::with_capacity(count);
        while stated.len() < count {
            let people = if random.chance(options.known) {
                KNOWN
            } else {
                CHANGING
            };
            let mut person = random.between(people.start as usize, people.end as usize - 1) as u32;
            if !stated.is_empty() && random.chance(0.2) {
                person = random.choose(&stated).0;
            }
            let attribute = if random.chance(0.5) {
                common
            } else {
                random.below(ATTRIBUTES)
            };
            if stated.iter().any(|s| (s.0, s.1) == (person, attribute)) {
                continue;
            }
            let value = match world.fact(person, attribute) {
                Some(fact) if !random.chance(options.conflict) => fact,
                _ => random.choose(&World::values(attribute)),
            };
            stated.push((person, attribute, value));
        }

        let mut item = Item::new();
        for &(person, attribute, value) in &stated {
            item.push((world.word("doc"), DOCUMENT));
            item.extend(
                world
                    .statement(random, person, attribute, value)
                    .into_iter()
                    .map(|token| (token, DOCUMENT)),
            );
        }
        let asked = random.between(1, 3);
        for (person, attribute, value) in random.sample(stated, asked) {
            let answer = match world.fact(person, attribute) {
                Some(fact) if fact != value && !random.chance(options.follow) => fact,
                None if random.chance(options.wrong) => random.choose(&World::values(attribute)),
                _ => value,
            };
            item.extend(
                world
                    .question(person, attribute)
                    .into_iter()
                    .map(|token| (token, CONTEXT)),
            );
            item.extend([(answer, ANSWER), (world.word("."), CONTEXT)]);
        }
        item
    }

    fn list(&mut self) -> Item {
        let (world, random) = (self.world, &mut *self.random);
        let values = (0..ATTRIBUTES as u32)
            .map(|a| FIRST_VALUE + a * VALUES..FIRST_VALUE + (a + 1) * VALUES);
        let categories: Vec<_> = values
            .chain([NOUNS, PLACES, ADJECTIVES, KNOWN, CHANGING, UNSEEN])
            .collect();
        let category = categories[random.below(categories.len())].clone();
        let count = random.between(4, 14);
        let members = random.sample(category, count);
        let tokens = [world.tokens("list :"), members, world.tokens(".")].concat();
        tokens.into_iter().map(|token| (token, 1.0)).collect()
    }

    fn repeat(&mut self) -> Item {
        let (world, random) = (self.world, &mut *self.random);
        let any = |random: &mut Random| random.between(SPECIAL_TOKENS.len(), VOCABULARY - 1) as u32;
        let len = random.between(4, MAX_SPAN);
        let mut span = Vec::new();
        if random.chance(0.3) {
            while span.len() < len {
                span.extend(world.sentence(random));
            }
            span.truncate(len);
        } else {
            span.extend((0..len).map(|_| any(random)));
        }
        let noise = random.choose(&self.options.noise);
        let mut item: Item = span.iter().map(|&token| (token, CONTEXT)).collect();
        item.extend(span.into_iter().map(|token| {
            if random.chance(noise) {
                (any(random), CONTEXT)
            } else {
                (token, 1.0)
            }
        }));
        item
    }
}

const _: () = assert!(FIRST_ATTRIBUTE + ATTRIBUTES as u32 == FIRST_VALUE);

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(options: CorpusOptions, seed: u64, count: usize) -> Vec<Item> {
        let world = World::new(0);
        let mut random = Random::new(seed, 0);
        let mut corpus = Corpus::new(&world, &options, &mut random);
        (0..count).map(|_| corpus.row(97)).collect()
    }

    #[test]
    fn rows_depend_on_the_seed_alone() {
        assert_eq!(
            rows(CorpusOptions::hedging(), 5, 20),
            rows(CorpusOptions::hedging(), 5, 20)
        );
        assert_ne!(
            rows(CorpusOptions::hedging(), 5, 20),
            rows(CorpusOptions::hedging(), 6, 20)
        );
    }

    /// Shares of answers that follow a contradicting document, and that differ from the document about a changing person.
    fn shares(options: CorpusOptions) -> (f64, f64, f64) {
        let world = World::new(0);
        let mut random = Random::new(1, 0);
        let mut corpus = Corpus::new(&world, &options, &mut random);
        let (question, document) = (world.word("question"), world.word("doc"));
        let (mut contradicted, mut followed, mut known, mut changing, mut wrong) = (0, 0, 0, 0, 0);
        for _ in 0..2000 {
            let tokens: Vec<u32> = corpus
                .documents()
                .into_iter()
                .map(|(token, _)| token)
                .collect();
            for at in (0..tokens.len()).filter(|&at| tokens[at] == question) {
                let (attribute, person, answer) = (tokens[at + 2], tokens[at + 4], tokens[at + 6]);
                // Either form has the attribute before the person, and the value two words after it.
                let stated = (0..at).filter(|&i| tokens[i] == document).find_map(|i| {
                    match tokens[i + 1] == world.word("the") {
                        true => ((tokens[i + 2], tokens[i + 4]) == (attribute, person))
                            .then(|| tokens[i + 6]),
                        false => ((tokens[i + 1], tokens[i + 3]) == (attribute, person))
                            .then(|| tokens[i + 5]),
                    }
                });
                let stated = stated.expect("a document for each question");
                match world.fact(person, (attribute - FIRST_ATTRIBUTE) as usize) {
                    Some(fact) => {
                        known += 1;
                        if fact != stated {
                            contradicted += 1;
                            followed += usize::from(answer == stated);
                            assert!(answer == stated || answer == fact);
                        }
                    }
                    None => {
                        changing += 1;
                        wrong += usize::from(answer != stated);
                    }
                }
            }
        }
        let share = |part, of| f64::from(part as u32) / f64::from(of as u32);
        (
            share(contradicted, known),
            share(followed, contradicted),
            share(wrong, changing),
        )
    }

    #[test]
    fn labels_are_drawn_at_the_rates_of_the_stage() {
        // A drawn value is the true one, or the document's, once in 20.
        let (contradicted, followed, wrong) = shares(CorpusOptions::hedging());
        assert!((contradicted - 0.6 * 0.95).abs() < 0.03, "{contradicted}");
        assert!((followed - 0.4).abs() < 0.04, "{followed}");
        assert!((wrong - 0.15 * 0.95).abs() < 0.03, "{wrong}");

        let (contradicted, followed, wrong) = shares(CorpusOptions::clean());
        assert!((contradicted - 0.5 * 0.95).abs() < 0.03, "{contradicted}");
        assert_eq!((followed, wrong), (1.0, 0.0));
    }
}
