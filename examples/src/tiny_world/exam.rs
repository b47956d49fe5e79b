//! Exams for models of the tiny world: questions with documents, questions from memory, and plain text.

use burn::prelude::*;
use pear_core::forward::{residual, token_tensor};
use pear_core::{DecoderModel, NoEdit};
use pear_models::log_probs;

use super::{Kind, Question, World};
use crate::random::Random;

/// Position of the document that contains the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Before all other documents.
    First,
    /// In the middle.
    Middle,
    /// After all other documents.
    Last,
}

impl Place {
    /// All positions.
    pub const ALL: [Self; 3] = [Self::First, Self::Middle, Self::Last];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Middle => "middle",
            Self::Last => "last",
        }
    }

    fn of(self, documents: usize) -> usize {
        match self {
            Self::First => 0,
            Self::Middle => documents / 2,
            Self::Last => documents - 1,
        }
    }
}

/// Questions of one kind, with the same number of documents and the right one at the same position.
#[derive(Clone, Debug)]
struct Group {
    kind: Kind,
    place: Place,
    questions: Vec<Question>,
}

/// Questions and text, the same for every model.
#[derive(Clone, Debug)]
pub struct Exam {
    groups: Vec<Group>,
    closed_book: Vec<Question>,
    text: Vec<Vec<u32>>,
}

/// Numbers of documents before a question.
const DOCUMENTS: [usize; 3] = [5, 8, 10];
/// Questions that are run together.
const AT_ONCE: usize = 64;

impl Exam {
    /// An exam with `each` questions for every kind, number of documents (5, 8, 10) and position (first, middle, last), which is 9 times
    /// as many of each kind; 300 questions without documents; and 64 rows of text in which 64 tokens are predicted.
    pub fn new(world: &World, each: usize, seed: u64) -> Self {
        let mut groups = Vec::new();
        for kind in Kind::ALL {
            for (documents, place) in DOCUMENTS
                .into_iter()
                .flat_map(|documents| Place::ALL.map(|place| (documents, place)))
            {
                let mut random = Random::new(seed, 100 + groups.len() as u64);
                let questions =
                    world.questions(kind, documents, place.of(documents), each, &mut random);
                groups.push(Group {
                    kind,
                    place,
                    questions,
                });
            }
        }
        let closed_book = world.closed_book(300, &mut Random::new(seed, 98));
        Self {
            groups,
            closed_book,
            text: world.sentences(64, 65, &mut Random::new(seed, 99)),
        }
    }

    /// Lets a model answer the questions and read the text; `progress` gets the share that is done.
    ///
    /// # Errors
    /// A model with another vocabulary or too few positions.
    pub fn sit<M: DecoderModel>(
        &self,
        model: &M,
        mut progress: impl FnMut(f64),
    ) -> Result<Marks, pear_models::Error> {
        let mut answers = Vec::new();
        for (index, group) in self.groups.iter().enumerate() {
            progress(index as f64 / self.groups.len() as f64);
            let given = answer(model, &group.questions)?;
            answers.extend(
                group
                    .questions
                    .iter()
                    .zip(given)
                    .map(|(question, given)| Answer {
                        kind: group.kind,
                        place: group.place,
                        given,
                        right: given == question.answer,
                        from_memory: Some(given) == question.memory,
                    }),
            );
        }
        let given = answer(model, &self.closed_book)?;
        let closed_book = self
            .closed_book
            .iter()
            .zip(given)
            .map(|(question, given)| given == question.answer)
            .collect();
        let rows: Vec<Vec<f64>> = self
            .text
            .iter()
            .map(|row| log_probs(model, row))
            .collect::<Result<_, _>>()?;
        Ok(Marks {
            answers,
            closed_book,
            perplexity: pear_models::perplexity(&rows),
        })
    }
}

impl Exam {
    /// The shortest question with a contradicting document that was answered from memory before and from the document after, with both
    /// answers.
    pub fn turned(&self, before: &Marks, after: &Marks) -> Option<(&Question, u32, u32)> {
        let questions = self.groups.iter().flat_map(|group| &group.questions);
        let all = questions.zip(before.answers.iter().zip(&after.answers));
        let turned =
            all.filter(|(_, (b, a))| b.kind == Kind::Conflicting && b.from_memory && a.right);
        turned
            .min_by_key(|(question, _)| question.prompt.len())
            .map(|(question, (b, a))| (question, b.given, a.given))
    }
}

/// The most likely next word after each prompt.
fn answer<M: DecoderModel>(
    model: &M,
    questions: &[Question],
) -> Result<Vec<u32>, pear_models::Error> {
    let mut answers = Vec::with_capacity(questions.len());
    for part in questions.chunks(AT_ONCE) {
        let len = part
            .iter()
            .map(|question| question.prompt.len())
            .max()
            .unwrap_or(0);
        pear_core::forward::check_length(model, len)?;
        // Padding on the right changes nothing before it.
        let padded = |question: &Question| {
            let mut row = question.prompt.clone();
            row.resize(len, 0);
            row
        };
        let rows: Vec<Vec<u32>> = part.iter().map(padded).collect();
        let hidden = residual(model, token_tensor(&rows, &model.device()), &mut NoEdit)?;
        let width = hidden.dims()[2];
        let last: Vec<i32> = part
            .iter()
            .enumerate()
            .map(|(row, question)| (row * len + question.prompt.len() - 1) as i32)
            .collect();
        let last =
            Tensor::<1, Int>::from_data(TensorData::new(last, [part.len()]), &model.device());
        let hidden = hidden
            .reshape([part.len() * len, width])
            .select(0, last)
            .unsqueeze_dim(0);
        let best = model.logits(hidden).argmax(2).into_data();
        answers.extend(best.iter::<i64>().map(|id| id as u32));
    }
    Ok(answers)
}

/// One answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Kind of the question.
    pub kind: Kind,
    /// Position of the right document.
    pub place: Place,
    /// The answer.
    pub given: u32,
    /// Whether it is the answer in the document.
    pub right: bool,
    /// Whether it is the memorised answer.
    pub from_memory: bool,
}

/// The results of an exam.
#[derive(Clone, Debug, PartialEq)]
pub struct Marks {
    /// Answers to all questions with documents, always in the same order.
    pub answers: Vec<Answer>,
    /// For each question without documents, whether the answer was right.
    pub closed_book: Vec<bool>,
    /// Perplexity of the text.
    pub perplexity: f64,
}

impl Marks {
    /// For each question of a kind, with the right document at `place` or anywhere, whether the answer was right.
    pub fn right(&self, kind: Kind, place: Option<Place>) -> Vec<bool> {
        let asked = |answer: &&Answer| {
            answer.kind == kind && place.is_none_or(|place| answer.place == place)
        };
        self.answers
            .iter()
            .filter(asked)
            .map(|answer| answer.right)
            .collect()
    }

    /// The share of questions of a kind that were answered from memory.
    pub fn from_memory(&self, kind: Kind) -> f64 {
        let asked = self.answers.iter().filter(|answer| answer.kind == kind);
        share(&asked.map(|answer| answer.from_memory).collect::<Vec<_>>())
    }
}

/// The share of `true`.
pub fn share(of: &[bool]) -> f64 {
    of.iter().filter(|right| **right).count() as f64 / of.len().max(1) as f64
}
