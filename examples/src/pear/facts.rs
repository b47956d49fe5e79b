//! The built-in facts: what a language model is likely to know by heart.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};

use crate::random::hashed;

/// The table, with the sentences of each relation.
const TABLE: &str = include_str!("facts.txt");

/// Sentences between a context and the question, so that the answer is not just what was read last.
const BETWEEN: [&str; 4] = [
    "",
    "This was in the news last week.",
    "The teacher repeated it twice.",
    "Everybody in the room agreed.",
];

/// A fact as text: without a context, with one that contradicts it, and with one that agrees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextFact {
    /// What it is about; facts are divided into sets by it.
    ///
    /// One fact is asked in several ways, which share it.
    pub key: String,
    /// The question alone, a sentence without its last words.
    pub closed: String,
    /// The right answer to it.
    pub answer: String,
    /// A context with another answer, then the question.
    pub conflicting: String,
    /// The answer in that context.
    pub other: String,
    /// A context with the right answer, then the question.
    pub agreeing: String,
    /// What is only learned from; nothing for facts of a file.
    pub lessons: Lessons,
}

/// More ways to put a fact, to learn from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lessons {
    /// The question with another answer, then the question again.
    pub repeated: Option<String>,
    /// What a user says who wants the sentence completed from a passage, with the answer that is in it.
    pub passages: Vec<(String, String)>,
}

/// A set of facts of one kind: subject and answer, with sentences for both.
#[derive(Default)]
struct Relation<'a> {
    name: &'a str,
    /// Sentences without their last words, the answer.
    ask: Vec<&'a str>,
    /// Statements.
    say: Vec<&'a str>,
    /// Subjects with their answers.
    facts: Vec<(&'a str, &'a str)>,
}

/// All built-in facts.
///
/// # Errors
/// None with the table that is built in.
pub fn built_in() -> Result<Vec<TextFact>> {
    let relations = parse(TABLE)?;
    Ok(relations.iter().flat_map(Relation::text_facts).collect())
}

fn parse(table: &str) -> Result<Vec<Relation<'_>>> {
    let mut relations: Vec<Relation> = Vec::new();
    for (number, line) in (1..).zip(table.lines()) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[') {
            let name = name.strip_suffix(']').unwrap_or(name);
            relations.push(Relation {
                name,
                ..Relation::default()
            });
            continue;
        }
        let relation = relations
            .last_mut()
            .with_context(|| format!("facts: line {number}: before the first relation"))?;
        if let Some(sentence) = line.strip_prefix("ask: ") {
            relation.ask.push(sentence);
        } else if let Some(sentence) = line.strip_prefix("say: ") {
            relation.say.push(sentence);
        } else if let Some(fact) = line.split_once(" = ") {
            relation.facts.push(fact);
        } else {
            bail!("facts: line {number}: expected `subject = answer`");
        }
    }
    Ok(relations)
}

impl Relation<'_> {
    fn text_facts(&self) -> Vec<TextFact> {
        let answers: BTreeSet<&str> = self.facts.iter().map(|(_, answer)| *answer).collect();
        let asked = self
            .facts
            .iter()
            .flat_map(|fact| self.ask.iter().map(move |ask| (fact, *ask)));
        asked
            .filter_map(|(&(subject, answer), ask)| self.text_fact(subject, answer, ask, &answers))
            .collect()
    }

    /// The choices of sentences and of the other answer depend on the fact and the question alone.
    fn text_fact(
        &self,
        subject: &str,
        answer: &str,
        ask: &str,
        answers: &BTreeSet<&str>,
    ) -> Option<TextFact> {
        let fact = format!("{}: {subject}", self.name);
        let key = format!("{fact}/{ask}");
        let others: Vec<&str> = answers
            .iter()
            .copied()
            .filter(|other| first_word(other) != first_word(answer))
            .collect();
        let other = choose(&key, "other", &others)?;
        let say = choose(&key, "say", &self.say)?;
        let between = choose(&key, "between", &BETWEEN)?;
        let closed = capitalised(&ask.replace("{subject}", subject));
        let with = |answer: &str| {
            let said = stated(say, subject, answer);
            let parts = [said.as_str(), between, &closed];
            let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
            parts.join(" ")
        };
        Some(TextFact {
            conflicting: with(other),
            agreeing: with(answer),
            lessons: Lessons {
                repeated: Some(format!("{closed} {other}. {closed}")),
                passages: [other, answer]
                    .map(|said| (self.passage(&key, say, subject, said, &closed), said.into()))
                    .into(),
            },
            closed,
            answer: answer.into(),
            other: other.into(),
            key: fact,
        })
    }

    /// A passage of a few facts with one that may be wrong among them, and what is to be done with it.
    fn passage(&self, key: &str, say: &str, subject: &str, answer: &str, closed: &str) -> String {
        let others = self.facts.iter().filter(|(other, _)| *other != subject);
        let others: Vec<(&str, &str)> = others.copied().collect();
        let count = 3 + number(key, "sentences") % 6;
        let mut sentences: Vec<String> = (0..count.min(others.len() as u64))
            .filter_map(|index| choose(key, &index.to_string(), &others))
            .map(|(subject, answer)| stated(say, subject, answer))
            .collect();
        let place = number(key, "place") % (sentences.len() as u64 + 1);
        sentences.insert(place as usize, stated(say, subject, answer));
        let passage = sentences.join(" ");
        format!(
            "{passage}\n\nUsing only the text above, complete the sentence with a word or two.\n{closed} ..."
        )
    }
}

/// A fact in the words of the sentence `say`.
fn stated(say: &str, subject: &str, answer: &str) -> String {
    let said = say.replace("{subject}", subject);
    capitalised(&said.replace("{answer}", answer))
}

/// The same choice for the same key, on every machine.
fn choose<T: Copy>(key: &str, what: &str, choices: &[T]) -> Option<T> {
    let index = number(key, what).checked_rem(choices.len() as u64)?;
    choices.get(index as usize).copied()
}

/// The same number for the same key.
fn number(key: &str, what: &str) -> u64 {
    u64::from_le_bytes(hashed(&format!("{what}/{key}")))
}

fn first_word(text: &str) -> &str {
    text.split(' ').next().unwrap_or(text)
}

fn capitalised(sentence: &str) -> String {
    let mut chars = sentence.chars();
    chars.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(chars).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_contradict_or_agree_and_never_do_both() {
        let facts = built_in().unwrap();
        assert!(facts.len() > 400, "{}", facts.len());
        for fact in &facts {
            assert_ne!(fact.answer, fact.other, "{}", fact.key);
            assert!(fact.conflicting.contains(&fact.other), "{fact:?}");
            assert!(fact.agreeing.contains(&fact.answer), "{fact:?}");
            assert!(fact.conflicting.ends_with(&fact.closed), "{fact:?}");
            assert!(!fact.closed.contains('{') && !fact.conflicting.contains('{'));
        }
    }

    #[test]
    fn each_question_on_a_fact_stands_once() {
        let facts = built_in().unwrap();
        let keys: BTreeSet<_> = facts.iter().map(|fact| (&fact.key, &fact.closed)).collect();
        assert_eq!(keys.len(), facts.len());
    }

    #[test]
    fn malformed_tables_are_refused_by_line() {
        assert!(parse("France = Paris").is_err_and(|e| e.to_string().contains("line 1")));
        assert!(parse("[a]\nwhat").is_err_and(|e| e.to_string().contains("line 2")));
    }
}
