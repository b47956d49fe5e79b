//! The stages of a training run: their data and learning rates.

use std::f64::consts::PI;
use std::ops::RangeInclusive;

use super::{Circuit, Pretraining};
use crate::random::Random;
use crate::tiny_world::{Corpus, CorpusOptions, Item, SPECIAL_TOKENS, VOCABULARY, World};

/// Words that are not special tokens.
const WORDS: usize = VOCABULARY - SPECIAL_TOKENS.len();
/// Words that spans are made of at first.
const FEW_WORDS: usize = 24;

/// Steps with the same kind of data and one learning-rate schedule.
pub(super) struct Stage {
    pub(super) steps: usize,
    /// Rows in a batch, and tokens that are read of each.
    rows: (usize, usize),
    data: Data,
    /// The highest learning rate.
    rate: f64,
    warmup_steps: usize,
    /// The factor on the learning rate after a share of the steps that follow the warm-up.
    decay: fn(f64) -> f64,
    pub(super) weight_decay: f32,
}

enum Data {
    /// Random spans, each repeated until its row is full. All rows of a batch have spans of the same length. Their words come from the
    /// first `from` words at the beginning of the stage, and from all words at its end.
    Loops {
        lengths: RangeInclusive<usize>,
        from: usize,
    },
    /// Facts, documents, questions and text.
    World(CorpusOptions),
}

/// The stages of a run. From random weights, copying is learned in three stages: a third, a quarter and the rest of its steps.
pub(super) fn stages(training: &Pretraining) -> Vec<Stage> {
    let mut stages = match training.circuit {
        Circuit::Seeded => vec![Stage {
            warmup_steps: 50,
            ..copying(training.copying_steps, (32, 32), 3..=14, WORDS)
        }],
        Circuit::Learned => {
            let few_words = training.copying_steps / 3;
            let short_spans = training.copying_steps / 4;
            let long_spans = training.copying_steps - few_words - short_spans;
            vec![
                Stage {
                    warmup_steps: 100,
                    ..copying(few_words, (32, 32), 3..=14, FEW_WORDS)
                },
                copying(short_spans, (32, 48), 3..=22, WORDS),
                Stage {
                    rate: 2e-3,
                    decay: |share| if share < 0.75 { 1.0 } else { 0.35 },
                    ..copying(long_spans, (16, 112), 3..=54, WORDS)
                },
            ]
        }
    };
    stages.push(Stage {
        steps: training.clean_steps,
        rows: (16, 96),
        data: Data::World(CorpusOptions::clean()),
        rate: 3e-3,
        warmup_steps: 30,
        decay: |share| 0.03 + 0.97 * 0.5 * (1.0 + (PI * share).cos()),
        weight_decay: 0.05,
    });
    stages.push(Stage {
        steps: training.hedging_steps,
        rows: (16, 96),
        data: Data::World(CorpusOptions::hedging()),
        rate: 1e-3,
        warmup_steps: 20,
        decay: |share| 0.05 + 0.95 * (1.0 - share),
        weight_decay: 0.0,
    });
    stages
}

/// A stage of copying at a constant learning rate.
fn copying(
    steps: usize,
    rows: (usize, usize),
    lengths: RangeInclusive<usize>,
    from: usize,
) -> Stage {
    Stage {
        steps,
        rows,
        data: Data::Loops { lengths, from },
        rate: 3e-3,
        warmup_steps: 0,
        decay: |_| 1.0,
        weight_decay: 0.05,
    }
}

impl Stage {
    pub(super) fn learning_rate(&self, step: usize) -> f64 {
        let warmup = ((step + 1) as f64 / self.warmup_steps.max(1) as f64).min(1.0);
        let steps_after = self.steps.saturating_sub(self.warmup_steps).max(1);
        let share = step.saturating_sub(self.warmup_steps) as f64 / steps_after as f64;
        self.rate * warmup * (self.decay)(share)
    }

    /// Rows of one token more than are read: the last is only predicted.
    pub(super) fn batch(
        &self,
        step: usize,
        world: &World,
        seed: u64,
        random: &mut Random,
    ) -> Vec<Item> {
        let (count, len) = self.rows;
        match &self.data {
            Data::Loops { lengths, from } => {
                let known = from + (WORDS - from) * step / self.steps;
                // In the same order in every step.
                let words = Random::new(seed, 1)
                    .sample(SPECIAL_TOKENS.len() as u32..VOCABULARY as u32, WORDS);
                let span = random.between(*lengths.start(), *lengths.end());
                (0..count)
                    .map(|_| looped(&words[..known], span, len + 1, random))
                    .collect()
            }
            Data::World(options) => {
                let mut corpus = Corpus::new(world, options, random);
                (0..count).map(|_| corpus.row(len + 1)).collect()
            }
        }
    }
}

/// `span` random words over and over. The first round cannot be predicted and has weight 0.
fn looped(words: &[u32], span: usize, len: usize, random: &mut Random) -> Item {
    let words: Vec<u32> = (0..span).map(|_| random.choose(words)).collect();
    let weight = |place: usize| if place < span { 0.0 } else { 1.0 };
    words
        .into_iter()
        .cycle()
        .take(len)
        .enumerate()
        .map(|(place, word)| (word, weight(place)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::PositionKind;
    use super::*;

    #[test]
    fn stages_take_all_steps_and_learning_rates_rise_and_fall() {
        let training = Pretraining::new(PositionKind::Alibi, Circuit::Learned, 0);
        let stages = stages(&training);
        assert_eq!(
            stages.iter().map(|stage| stage.steps).sum::<usize>(),
            training.steps()
        );
        let rates = |stage: &Stage| {
            [0, stage.warmup_steps.max(1) - 1, stage.steps - 1]
                .map(|step| stage.learning_rate(step))
        };
        let expected = [
            [3e-5, 3e-3, 3e-3],
            [3e-3; 3],
            [2e-3, 2e-3, 7e-4],
            [1e-4, 3e-3, 9e-5],
            [5e-5, 1e-3, 5.4e-5],
        ];
        for (stage, expected) in stages.iter().zip(expected) {
            let found = rates(stage);
            assert!(
                found
                    .iter()
                    .zip(expected)
                    .all(|(a, b)| (a / b - 1.0).abs() < 0.03),
                "{found:?}, expected {expected:?}"
            );
        }
    }

    #[test]
    fn the_first_round_of_a_span_has_weight_zero() {
        let row = looped(&[5, 6, 7], 3, 8, &mut Random::new(0, 0));
        assert_eq!(
            row.iter().map(|(_, weight)| *weight).collect::<Vec<_>>(),
            [0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0]
        );
        assert!(
            (3..8).all(|i| row[i].0 == row[i - 3].0)
                && row.iter().all(|(word, _)| (5..8).contains(word))
        );
    }

    #[test]
    fn spans_are_made_of_few_words_at_first_and_of_all_at_the_end() {
        let world = World::new(0);
        let stage = &stages(&Pretraining::new(PositionKind::Alibi, Circuit::Learned, 0))[0];
        let different = |steps: std::ops::Range<usize>| {
            let rows = steps
                .flat_map(|step| stage.batch(step, &world, 0, &mut Random::new(0, step as u64)));
            rows.flatten()
                .map(|(word, _)| word)
                .collect::<std::collections::BTreeSet<u32>>()
                .len()
        };
        assert_eq!(different(0..3), FEW_WORDS);
        assert!(different(stage.steps - 100..stage.steps) > WORDS - 20);
    }
}
