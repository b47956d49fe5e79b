//! Where the questions come from: the built-in facts, the tiny world, or a file.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use pear_models::ModelDirectory;

use super::data_file;
use super::encoder::Encoder;
use super::facts::{TextFact, built_in};
use super::questions::{EncodedLessons, Fact, WithContext};
use crate::random::Random;
use crate::tiny_world::{BOS, Kind, Question, VOCABULARY, World};

/// Questions of each kind that are drawn of the tiny world; not every fact is drawn in both.
const TINY_DRAWS: usize = 900;
/// Numbers of documents before a question of the tiny world, in turn.
const TINY_DOCUMENTS: [usize; 3] = [5, 8, 10];
/// Tokens of a question of the tiny world without its documents: `question the A of E ?`.
const TINY_QUESTION: usize = 6;

/// Facts as tokens of one model, and what they are called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// What they are called.
    pub source: String,
    /// The facts.
    pub facts: Vec<Fact>,
}

impl Facts {
    /// The facts of a file; or else those that the model can be asked about: the tiny world's for a model of it, the built-in ones for
    /// others.
    ///
    /// # Errors
    /// A file that cannot be read, naming it.
    pub fn read(
        data: Option<&Path>,
        directory: &ModelDirectory,
        encoder: &Encoder,
    ) -> Result<Self> {
        let (source, facts) = match data {
            Some(path) => (name(path), data_file::read(path, encoder)?),
            None if is_tiny_world(directory, encoder)? => ("tiny world".into(), tiny_world()),
            None => ("built-in facts".into(), encode(&built_in()?, encoder)?),
        };
        Ok(Self { source, facts })
    }
}

fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}

/// Facts in text as tokens, without those whose answers begin with the same token.
///
/// # Errors
/// A text that the tokenizer cannot read.
pub fn encode(facts: &[TextFact], encoder: &Encoder) -> Result<Vec<Fact>> {
    let mut encoded = Vec::with_capacity(facts.len());
    for fact in facts {
        let closed = encoder.question(&fact.closed, &fact.answer)?;
        let conflicting = encoder.question(&fact.conflicting, &fact.other)?;
        let agreeing = encoder.question(&fact.agreeing, &fact.answer)?;
        if let (Some(closed), Some(conflicting), Some(agreeing)) = (closed, conflicting, agreeing)
            && closed.1 == agreeing.1
            && closed.1 != conflicting.1
        {
            encoded.push(Fact {
                key: fact.key.clone(),
                closed: closed.0,
                with_context: WithContext::Both {
                    answer: closed.1,
                    conflicting,
                    agreeing: agreeing.0,
                },
                lessons: encode_lessons(fact, encoder)?,
            });
        }
    }
    Ok(encoded)
}

fn encode_lessons(fact: &TextFact, encoder: &Encoder) -> Result<EncodedLessons> {
    let repeated = fact.lessons.repeated.as_deref();
    let repeated = repeated.map(|prompt| encoder.question(prompt, &fact.other));
    let passages = fact.lessons.passages.iter();
    let passages = passages.map(|(text, answer)| encoder.reply(text, answer));
    Ok(EncodedLessons {
        repeated: repeated.transpose()?.flatten(),
        passages: passages
            .filter_map(Result::transpose)
            .collect::<Result<_>>()?,
    })
}

/// Whether a model reads the words of the tiny world.
///
/// # Errors
/// None that a model of the tiny world causes.
pub fn is_tiny_world(directory: &ModelDirectory, encoder: &Encoder) -> Result<bool> {
    if directory.config().vocab_size != VOCABULARY {
        return Ok(false);
    }
    let tokens: Vec<u32> = (3..VOCABULARY as u32).collect();
    let text = World::new(0).text(&tokens);
    Ok(encoder
        .encode(&text)
        .is_ok_and(|read| read.ends_with(&tokens)))
}

/// The facts of the tiny world that were drawn both with contradicting and with confirming documents.
fn tiny_world() -> Vec<Fact> {
    let world = World::new(0);
    let conflicting = draw(&world, Kind::Conflicting);
    let mut agreeing = draw(&world, Kind::Agreeing);
    let facts = conflicting.into_iter().filter_map(|(asked, question)| {
        let agreeing = agreeing.remove(&asked)?;
        Some(Fact {
            key: world.text(&asked),
            closed: [&[BOS], &asked[..]].concat(),
            with_context: WithContext::Both {
                answer: question.memory?,
                conflicting: (question.prompt, question.answer),
                agreeing: agreeing.prompt,
            },
            lessons: EncodedLessons::default(),
        })
    });
    facts.collect()
}

/// Questions by what they ask, in a fixed order.
fn draw(world: &World, kind: Kind) -> BTreeMap<Vec<u32>, Question> {
    let mut random = Random::new(0, 200 + kind as u64);
    let mut drawn = BTreeMap::new();
    for index in 0..TINY_DRAWS {
        let documents = TINY_DOCUMENTS[index % TINY_DOCUMENTS.len()];
        let gold = random.below(documents);
        for question in world.questions(kind, documents, gold, 1, &mut random) {
            let asked = question.prompt[question.prompt.len() - TINY_QUESTION..].to_vec();
            drawn.entry(asked).or_insert(question);
        }
    }
    drawn
}

#[cfg(test)]
mod tests {
    use pear_models::tiny::Tiny;

    use super::*;

    #[test]
    fn a_model_of_the_tiny_world_is_asked_about_it() {
        let folder = tempfile::tempdir().unwrap();
        Tiny::Alibi.write(folder.path()).unwrap();
        let directory = ModelDirectory::open(folder.path()).unwrap();
        let encoder = Encoder::new(&directory).unwrap();
        let facts = Facts::read(None, &directory, &encoder).unwrap();
        assert_eq!(facts.source, "tiny world");
        assert!(facts.facts.len() > 250, "{}", facts.facts.len());
        for fact in &facts.facts {
            let WithContext::Both {
                answer,
                conflicting,
                agreeing,
            } = &fact.with_context
            else {
                panic!("{fact:?}");
            };
            assert_ne!(*answer, conflicting.1);
            assert!(conflicting.0.contains(&conflicting.1) && !conflicting.0.contains(answer));
            assert!(agreeing.contains(answer));
            assert!(conflicting.0.ends_with(&fact.closed[1..]));
        }
    }
}
