//! The held-out questions: answers of the unmodified model, of the chosen coefficients, and of the same coefficients on random heads.

use anyhow::Result;
use pear_core::{DecoderModel, HeadId};
use pear_models::Decoder;
use pear_models::evaluation::{TextDivergence, TextReference};
use serde::{Deserialize, Serialize};

use super::learning::{Coefficients, reweighted};
use super::measures::{Answers, ask};
use super::plain_text::divergence;
use super::questions::Groups;
use super::report::Coefficient;
use crate::random::Random;

/// Draws of random heads.
pub const CONTROLS: u64 = 3;
/// First stream of the draws.
const STREAM: u64 = 400;

/// The questions and the text that nothing was chosen by.
pub struct HeldOut<'a> {
    /// The unmodified model.
    pub model: &'a Decoder,
    /// The questions.
    pub questions: &'a Groups,
    /// The text.
    pub text: &'a TextReference<'a, Decoder>,
}

/// A re-weighted model on them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Its answers; of a control those to conflicting questions alone.
    pub answers: Answers,
    /// How far it is from the unmodified model.
    pub divergence: TextDivergence,
    /// Its coefficients.
    pub coefficients: Coefficients,
}

impl HeldOut<'_> {
    /// The answers of the unmodified model.
    ///
    /// # Errors
    /// Log-probabilities that are not finite.
    pub fn baseline(&self) -> Result<Answers> {
        Answers::of(self.model, self.questions, true)
    }

    /// The chosen coefficients.
    ///
    /// # Errors
    /// Log-probabilities or a divergence that are not finite.
    pub fn chosen(&self, coefficients: &[Coefficient]) -> Result<Measured> {
        let model = reweighted(self.model, coefficients)?;
        Ok(Measured {
            answers: Answers::of(&model, self.questions, true)?,
            divergence: divergence(self.text, &model)?,
            coefficients: coefficients.to_vec(),
        })
    }

    /// The same coefficients on random heads.
    ///
    /// # Errors
    /// As [`chosen`](Self::chosen).
    pub fn control(&self, coefficients: &[Coefficient], seed: u64, draw: u64) -> Result<Measured> {
        let all: Vec<HeadId> = self.model.shape().heads().collect();
        let coefficients = on_random_heads(coefficients, &all, seed, draw);
        let model = reweighted(self.model, &coefficients)?;
        Ok(Measured {
            answers: Answers {
                conflicting: ask(&model, &self.questions.conflicting)?,
                agreeing: Vec::new(),
                closed_book: Vec::new(),
            },
            divergence: divergence(self.text, &model)?,
            coefficients,
        })
    }
}

/// The same numbers on as many heads, drawn from all.
fn on_random_heads(
    coefficients: &[Coefficient],
    all: &[HeadId],
    seed: u64,
    draw: u64,
) -> Coefficients {
    let mut random = Random::new(seed, STREAM + draw);
    let heads = random.sample(all.iter().copied(), coefficients.len());
    let pairs = heads.into_iter().zip(coefficients);
    let mut drawn: Coefficients = pairs
        .map(|(head, c)| Coefficient {
            head,
            value: c.value,
        })
        .collect();
    drawn.sort_by_key(|c| c.head);
    drawn
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controls_have_the_same_numbers_on_as_many_other_heads() {
        let all: Vec<HeadId> = (0..40)
            .map(|head| HeadId::new(head / 8, head % 8))
            .collect();
        let coefficients: Coefficients = [0.5, 0.7, 1.2]
            .into_iter()
            .zip(&all)
            .map(|(value, &head)| Coefficient { head, value })
            .collect();
        let draws = [0, 1].map(|draw| on_random_heads(&coefficients, &all, 0, draw));
        assert_ne!(draws[0], draws[1]);
        for draw in draws {
            let mut values: Vec<f64> = draw.iter().map(|c| c.value).collect();
            values.sort_by(f64::total_cmp);
            assert_eq!(values, [0.5, 0.7, 1.2]);
        }
    }
}
