//! A synthetic world small enough for a tiny model to memorise: people with attributes, documents that state them correctly or not, and
//! questions.
//!
//! There are 720 facts (120 known people with 6 attributes of 20 values each). The attributes of 80 other people change from text to
//! text, so that only the documents tell them; 40 more people occur in no document of the corpus.

mod corpus;
mod exam;
mod questions;

use std::ops::Range;

use crate::random::Random;

pub use corpus::{Corpus, CorpusOptions, Item, Mix};
pub use exam::{Answer, Exam, Marks, Place, share};
pub use questions::{Kind, Question};

const WORDS: &str = include_str!("words.txt");

/// Number of words in the vocabulary.
pub const VOCABULARY: usize = 488;
/// Padding, beginning of text and end of text.
pub const SPECIAL_TOKENS: [u32; 3] = [0, 1, 2];
/// The token that each item begins with.
pub const BOS: u32 = 1;
/// Number of attributes of each person.
pub const ATTRIBUTES: usize = 6;

const VALUES: u32 = 20;
const FIRST_ATTRIBUTE: u32 = 22;
const FIRST_VALUE: u32 = 28;
/// People whose attributes never change.
pub const KNOWN: Range<u32> = 148..268;
/// People whose attributes change from text to text.
pub const CHANGING: Range<u32> = 268..348;
/// People who occur in no document of the corpus.
pub const UNSEEN: Range<u32> = 348..388;
const NOUNS: Range<u32> = 388..428;
const ADJECTIVES: Range<u32> = 428..448;
const VERBS: Range<u32> = 448..468;
const PLACES: Range<u32> = 468..488;

/// The facts, and which words go together in sentences.
#[derive(Clone, Debug)]
pub struct World {
    words: Vec<&'static str>,
    facts: Vec<[u32; ATTRIBUTES]>,
    verbs: Vec<Vec<u32>>,
    objects: Vec<Vec<u32>>,
    adjectives: Vec<Vec<u32>>,
    places: Vec<Vec<u32>>,
}

impl World {
    /// The world of `seed`.
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed, 0);
        let facts = KNOWN
            .map(|_| std::array::from_fn(|attribute| random.choose(&Self::values(attribute))))
            .collect();
        let mut preferences = |of: Range<u32>, among: Range<u32>, count| -> Vec<Vec<u32>> {
            of.map(|_| random.sample(among.clone(), count)).collect()
        };
        Self {
            words: WORDS.split_whitespace().collect(),
            facts,
            verbs: preferences(NOUNS, VERBS, 3),
            objects: preferences(VERBS, NOUNS, 5),
            adjectives: preferences(NOUNS, ADJECTIVES, 3),
            places: preferences(NOUNS, PLACES, 2),
        }
    }

    /// All words; a token is an index into them.
    pub fn words(&self) -> &[&'static str] {
        &self.words
    }

    /// Tokens as text.
    pub fn text(&self, tokens: &[u32]) -> String {
        tokens
            .iter()
            .map(|&token| self.words[token as usize])
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// The value of a person's attribute, if the person is known.
    pub fn fact(&self, person: u32, attribute: usize) -> Option<u32> {
        KNOWN
            .contains(&person)
            .then(|| self.facts[(person - KNOWN.start) as usize][attribute])
    }

    /// The possible values of an attribute.
    pub fn values(attribute: usize) -> Vec<u32> {
        let first = FIRST_VALUE + VALUES * attribute as u32;
        (first..first + VALUES).collect()
    }

    /// The token of a word, which must be in the vocabulary.
    fn word(&self, word: &str) -> u32 {
        self.words
            .iter()
            .position(|w| *w == word)
            .expect("a word of words.txt") as u32
    }

    fn tokens(&self, text: &str) -> Vec<u32> {
        text.split(' ').map(|word| self.word(word)).collect()
    }

    /// `the A of E is V .` or `A for E : V .`, equally likely.
    fn statement(
        &self,
        random: &mut Random,
        person: u32,
        attribute: usize,
        value: u32,
    ) -> Vec<u32> {
        let attribute = FIRST_ATTRIBUTE + attribute as u32;
        if random.chance(0.5) {
            vec![
                self.word("the"),
                attribute,
                self.word("of"),
                person,
                self.word("is"),
                value,
                self.word("."),
            ]
        } else {
            vec![
                attribute,
                self.word("for"),
                person,
                self.word(":"),
                value,
                self.word("."),
            ]
        }
    }

    /// `question the A of E ?`
    fn question(&self, person: u32, attribute: usize) -> Vec<u32> {
        let mut tokens = self.tokens("question the");
        tokens.extend([
            FIRST_ATTRIBUTE + attribute as u32,
            self.word("of"),
            person,
            self.word("?"),
        ]);
        tokens
    }

    /// A sentence such as `the old boy sees a dog near the river .`; each word leaves few choices for the next.
    pub fn sentence(&self, random: &mut Random) -> Vec<u32> {
        let index = |word: u32, of: Range<u32>| (word - of.start) as usize;
        let noun = random.choose(&NOUNS.collect::<Vec<_>>());
        let mut tokens = vec![self.word("the")];
        if random.chance(0.5) {
            tokens.push(random.choose(&self.adjectives[index(noun, NOUNS)]));
        }
        let verb = random.choose(&self.verbs[index(noun, NOUNS)]);
        let object = random.choose(&self.objects[index(verb, VERBS)]);
        tokens.extend([noun, verb, self.word("a")]);
        if random.chance(0.4) {
            tokens.push(random.choose(&self.adjectives[index(object, NOUNS)]));
        }
        tokens.push(object);
        if random.chance(0.5) {
            tokens.extend([
                self.word("near"),
                self.word("the"),
                random.choose(&self.places[index(object, NOUNS)]),
            ]);
        }
        tokens.push(self.word("."));
        tokens
    }

    /// The `tokenizer.json`: words are separated by spaces, and each is one token.
    pub fn tokenizer_json(&self) -> serde_json::Value {
        let special = SPECIAL_TOKENS.map(|id| {
            serde_json::json!({"id": id, "content": self.words[id as usize], "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true})
        });
        let vocabulary: serde_json::Map<_, _> = self
            .words
            .iter()
            .enumerate()
            .map(|(id, word)| (word.to_string(), id.into()))
            .collect();
        let (bos, first) = (
            serde_json::json!({"SpecialToken": {"id": "<bos>", "type_id": 0}}),
            |id: &str| serde_json::json!({"Sequence": {"id": id, "type_id": 0}}),
        );
        serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": special, "normalizer": null,
            "pre_tokenizer": {"type": "WhitespaceSplit"},
            "post_processor": {"type": "TemplateProcessing", "single": [bos, first("A")], "pair": [bos, first("A"), first("B")],
                "special_tokens": {"<bos>": {"id": "<bos>", "ids": [BOS], "tokens": ["<bos>"]}}},
            "decoder": null,
            // Not in the vocabulary: text with other words is an error.
            "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"},
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn there_is_one_word_for_each_token() {
        let world = World::new(0);
        assert_eq!(world.words().len(), VOCABULARY);
        assert_eq!(
            world.words().iter().collect::<HashSet<_>>().len(),
            VOCABULARY
        );
        let at = |word: &str| world.word(word);
        assert_eq!(
            (at("colour"), at("red"), at("Zoltan"), at("boy")),
            (FIRST_ATTRIBUTE, FIRST_VALUE, UNSEEN.end - 1, NOUNS.start)
        );
        assert_eq!((at("Malcolm"), at("Abdul")), (CHANGING.start, UNSEEN.start));
    }
}
