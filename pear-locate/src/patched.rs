//! The raw outcome of replacing every head once.

use pear_core::forward::not_finite;
use pear_core::proxy::ProxyBatch;
use pear_core::{DecoderModel, HeadId, ModelShape, NoEdit};
use serde::{Deserialize, Serialize};

use crate::readings::{Performance, Reading};
use crate::selection::Selection;
use crate::{Error, Metric, Result};

/// Logits of the right token at the patched position, with each head replaced in turn and with none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PatchedLogits {
    /// Tokens that are repeated.
    pub n: usize,
    /// `base_logits[sample]`: no head replaced.
    pub base_logits: Vec<f32>,
    /// `patched_logits[layer][head][sample]`. Heads that were replaced in fewer sequences than others were so in the first ones; a head
    /// that never was has none, and a layer without any that was has no heads.
    pub patched_logits: Vec<Vec<Vec<f32>>>,
    /// What the metric subtracts from each logit first, if anything.
    pub normalizers: Option<Normalizers>,
    /// Share of second-half tokens that the model predicts.
    pub accuracy: f64,
    /// Mean cross-entropy over the same tokens, in nats.
    pub cross_entropy: f64,
}

/// The mean logit over the vocabulary ([centred logits](crate::Metric::CentredLogitDiff)), or the logarithm of the sum of their
/// exponentials ([log probabilities](crate::Metric::LogProbDiff)), for each run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Normalizers {
    /// `base[sample]`.
    pub base: Vec<f32>,
    /// `patched[layer][head][sample]`.
    pub patched: Vec<Vec<Vec<f32>>>,
}

/// The readings of sequences that ran together.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Part {
    /// No head replaced.
    pub base: Reading,
    /// Each head replaced, layer by layer.
    pub patched: Vec<Reading>,
}

impl PatchedLogits {
    /// Number of sequences.
    pub fn samples(&self) -> usize {
        self.base_logits.len()
    }

    /// `π`: the mean logit with no head replaced.
    pub fn base_logit(&self) -> f64 {
        mean(self.base_logits.iter().map(|&logit| f64::from(logit)))
    }

    /// Every `step`-th sequence from `start`, with the accuracy of all.
    pub(crate) fn every(&self, step: usize, start: usize) -> Self {
        let pick = |numbers: &Vec<f32>| {
            numbers
                .iter()
                .skip(start)
                .step_by(step)
                .copied()
                .collect::<Vec<f32>>()
        };
        let grid = |grid: &Vec<Vec<Vec<f32>>>| {
            grid.iter()
                .map(|heads| heads.iter().map(pick).collect())
                .collect()
        };
        let normalizers = self.normalizers.as_ref().map(|r| Normalizers {
            base: pick(&r.base),
            patched: grid(&r.patched),
        });
        Self {
            base_logits: pick(&self.base_logits),
            patched_logits: grid(&self.patched_logits),
            normalizers,
            ..*self
        }
    }

    /// The sequences of all parts, one part after the other.
    ///
    /// # Errors
    /// Numbers that are not finite, with the layer or the replaced head that gives them.
    pub(crate) fn collect<M: DecoderModel>(
        model: &M,
        batch: &ProxyBatch,
        selected: &Selection,
        metric: Metric,
        parts: &[Part],
        performance: Performance,
    ) -> Result<Self> {
        let base = |numbers: fn(&Reading) -> &[f32]| -> Vec<f32> {
            let parts = parts.iter().flat_map(|part| numbers(&part.base));
            parts.copied().collect()
        };
        let patched = |numbers: fn(&Reading) -> &[f32]| {
            // Readings stand in the order of the selection.
            let mut indices = 0..;
            selected.grid(|_| {
                let index = indices.next().expect("endless");
                let parts = parts.iter().flat_map(|part| numbers(&part.patched[index]));
                parts.copied().collect::<Vec<f32>>()
            })
        };
        let n = batch.n();
        let collected = Self {
            n,
            base_logits: base(|reading| &reading.logits),
            patched_logits: patched(|reading| &reading.logits),
            normalizers: metric.has_normalizers().then(|| Normalizers {
                base: base(|reading| &reading.normalizers),
                patched: patched(|reading| &reading.normalizers),
            }),
            accuracy: performance.accuracy(),
            cross_entropy: performance.cross_entropy(),
        };
        if let Some((sample, value)) = collected.base_not_finite() {
            let found =
                format!("n = {n}: the logit of sequence {sample} is {value} with no head replaced");
            let tokens = &batch.sequences()[sample];
            return Err(not_finite(model, tokens, &mut NoEdit, found).into());
        }
        collected.check_patched()?;
        Ok(collected)
    }

    /// The sequences of all parts, one part after the other, for the same heads; there is at least one.
    pub(crate) fn join(parts: Vec<Self>) -> Self {
        let add = |mut all: Self, part: Self| {
            all.extend([part]);
            all
        };
        parts.into_iter().reduce(add).expect("at least one part")
    }

    /// Adds sequences; heads that are not replaced in these stay with the ones that they have.
    pub(crate) fn extend(&mut self, parts: impl IntoIterator<Item = Self>) {
        let append = |mine: &mut Vec<Vec<Vec<f32>>>, theirs: Vec<Vec<Vec<f32>>>| {
            for (mine, theirs) in mine.iter_mut().zip(theirs) {
                for (mine, theirs) in mine.iter_mut().zip(theirs) {
                    mine.extend(theirs);
                }
            }
        };
        for part in parts {
            let share = part.samples() as f64 / (self.samples() + part.samples()) as f64;
            self.accuracy += share * (part.accuracy - self.accuracy);
            self.cross_entropy += share * (part.cross_entropy - self.cross_entropy);
            self.base_logits.extend(part.base_logits);
            append(&mut self.patched_logits, part.patched_logits);
            if let (Some(mine), Some(theirs)) = (&mut self.normalizers, part.normalizers) {
                mine.base.extend(theirs.base);
                append(&mut mine.patched, theirs.patched);
            }
        }
    }

    /// Whether each of `heads`, and no other, was replaced in the first ones of these sequences.
    pub(crate) fn is_first_sequences_of(
        &self,
        heads: &[HeadId],
        shape: &ModelShape,
        metric: Metric,
    ) -> bool {
        let Ok(selected) = Selection::of(shape, heads) else {
            return false;
        };
        let is_replaced = selected.grid(|_| true);
        let samples = self.samples();
        let fits = |grid: &[Vec<Vec<f32>>]| {
            let counts = |row: &Vec<Vec<f32>>| row.iter().map(Vec::len).collect::<Vec<_>>();
            let row_fits = |(row, replaced): (&Vec<Vec<f32>>, &Vec<bool>)| {
                row.len() == replaced.len()
                    && counts(row)
                        .iter()
                        .zip(replaced)
                        .all(|(&count, &replaced)| (count > 0) == replaced && count <= samples)
            };
            grid.len() == is_replaced.len() && grid.iter().zip(&is_replaced).all(row_fits)
        };
        let normalizers = match &self.normalizers {
            Some(normalizers) => {
                let lengths = |grid: &[Vec<Vec<f32>>]| -> Vec<usize> {
                    grid.iter().flatten().map(Vec::len).collect()
                };
                metric.has_normalizers()
                    && normalizers.base.len() == samples
                    && fits(&normalizers.patched)
                    && lengths(&normalizers.patched) == lengths(&self.patched_logits)
            }
            None => !metric.has_normalizers(),
        };
        fits(&self.patched_logits) && normalizers
    }

    /// Whether these are logits of this batch with the `selected` heads replaced, as far as their number tells.
    pub(crate) fn check_belongs(
        &self,
        batch: &ProxyBatch,
        selected: &Selection,
        metric: Metric,
    ) -> Result<()> {
        let expected = selected.grid(|_| batch.len());
        let is_grid = |grid: &[Vec<Vec<f32>>]| {
            let counts = grid
                .iter()
                .map(|row| row.iter().map(Vec::len).collect::<Vec<_>>());
            counts.eq(expected.iter().cloned())
        };
        let belongs =
            |base: &[f32], patched: &[Vec<Vec<f32>>]| base.len() == batch.len() && is_grid(patched);
        let normalizers = match &self.normalizers {
            Some(normalizers) => {
                metric.has_normalizers() && belongs(&normalizers.base, &normalizers.patched)
            }
            None => !metric.has_normalizers(),
        };
        if self.n == batch.n() && belongs(&self.base_logits, &self.patched_logits) && normalizers {
            return Ok(());
        }
        Err(Error::Unresumable { n: self.n })
    }

    /// The first sequence with a number that is not finite while no head is replaced.
    fn base_not_finite(&self) -> Option<(usize, f32)> {
        let normalizers = self.normalizers.as_ref().map(|readings| &readings.base);
        let mut base = [Some(&self.base_logits), normalizers].into_iter().flatten();
        base.find_map(|numbers| first_not_finite(numbers))
    }

    fn check_patched(&self) -> Result<()> {
        let patched = [
            Some(&self.patched_logits),
            self.normalizers.as_ref().map(|r| &r.patched),
        ];
        for (layer, heads) in patched
            .into_iter()
            .flatten()
            .flat_map(|grid| grid.iter().enumerate())
        {
            for (head, numbers) in heads.iter().enumerate() {
                if let Some((sample, value)) = first_not_finite(numbers) {
                    return Err(Error::NotFinite {
                        n: self.n,
                        head: HeadId::new(layer, head),
                        sample,
                        value,
                    });
                }
            }
        }
        Ok(())
    }
}

fn first_not_finite(numbers: &[f32]) -> Option<(usize, f32)> {
    numbers
        .iter()
        .copied()
        .enumerate()
        .find(|(_, value)| !value.is_finite())
}

pub(crate) fn mean(numbers: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = numbers.len() as f64;
    numbers.sum::<f64>() / count
}
