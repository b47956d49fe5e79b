//! The training loop.

use std::ops::ControlFlow;

use pear_core::files::Provenance;
use pear_core::{DecoderModel, HeadCoefficients};

use super::items::{ItemGroup, fingerprint};
use super::loss::{ItemLoss, LossSettings, Weighted, log_probs, of_weighted};
use super::momentum::norm;
use super::options::{FaithfulOptions, Place};
use super::report::{FaithfulStep, FrontPoint, GroupLoss};
use super::state::{Run, SavedPoint, State};
use super::whitening::{Whitening, predicted_divergence};
use crate::divergence::{of_pieces, value_of_pieces};
use crate::fisher::Fisher;
use crate::recompute::Graph;
use crate::text::{PlainText, References};
use crate::{Error, Result};

/// Learns coefficients that make a model prefer its context to its memory, at a price; see the [module](super).
///
/// It owns its model, which may be a reference or an `Arc` as well.
#[derive(Debug)]
pub struct FaithfulTrainer<M> {
    model: M,
    groups: Vec<ItemGroup>,
    text: PlainText,
    options: FaithfulOptions,
    whitening: Whitening,
    /// What the unmodified model predicts on text.
    references: References,
    /// Fixed: each step tracks a copy, so that no graph outlives it.
    coefficients: HeadCoefficients,
    graph: Graph,
    run: Run,
    state: State,
}

impl<M: DecoderModel> FaithfulTrainer<M> {
    /// Starts with coefficients of 1 for the heads of `fisher`, which was [estimated](crate::fisher()) on plain text of the kind of
    /// `text`.
    ///
    /// A model that carries coefficients already is refused by the first step.
    ///
    /// # Errors
    /// Options out of range; no groups; prompts or pieces longer than the model can read or with tokens that it does not know; no heads,
    /// or heads that the model does not have; a Fisher matrix that cannot be inverted.
    pub fn new(
        model: M,
        groups: Vec<ItemGroup>,
        text: PlainText,
        fisher: &Fisher,
        options: FaithfulOptions,
    ) -> Result<Self> {
        options.validate()?;
        if fisher.heads().is_empty() {
            return Err(Error::NoHeads);
        }
        if groups.is_empty() {
            return Err(Error::Items {
                group: "all".into(),
                problem: "no groups: expected at least one".into(),
            });
        }
        text.check(&model)?;
        for item in groups.iter().flat_map(ItemGroup::items) {
            item.check(&model)?;
        }
        let coefficients = HeadCoefficients::ones(fisher.heads(), &model.shape(), &model.device())?;
        let heads = coefficients.heads();
        let fisher = fisher.in_order(&heads);
        let run = Run {
            model: model.shape(),
            options: options.clone(),
            heads,
            provenance: Provenance::new(),
            items: fingerprint(&groups),
            text: text.fingerprint(),
            fisher: fisher.fingerprint(),
        };
        Ok(Self {
            whitening: Whitening::new(&fisher, options.shrinkage, options.ridge)?,
            state: State::new(run.heads.len()),
            references: References::default(),
            model,
            groups,
            text,
            options,
            coefficients,
            graph: Graph::Whole,
            run,
        })
    }

    /// Runs each layer once more in the backward pass instead of keeping the graph of all layers
    /// (activation checkpointing, [arXiv 1604.06174](https://arxiv.org/abs/1604.06174)): half the memory, for half
    /// as much time again, as with frozen weights a backward pass costs no more than a forward one. Gradients are the same but for rounding.
    pub fn with_recompute(mut self, recompute: bool) -> Self {
        self.graph = Graph::new(recompute);
        self
    }

    /// Says which weights these are: the checkpoint of other ones is refused.
    pub fn with_provenance(mut self, provenance: Provenance) -> Self {
        self.run.provenance = provenance;
        self
    }

    /// The model.
    pub fn model(&self) -> &M {
        &self.model
    }

    /// The groups of items.
    pub fn groups(&self) -> &[ItemGroup] {
        &self.groups
    }

    /// The options.
    pub fn options(&self) -> &FaithfulOptions {
        &self.options
    }

    /// Steps taken, over all stages.
    pub fn steps_done(&self) -> usize {
        self.state.steps
    }

    /// The coefficients of the last step, fixed. Those of a stage are the mean of several and stand in the [front](Self::front).
    pub fn coefficients(&self) -> HeadCoefficients {
        let values = self.whitening.coefficients(&self.state.momentum.theta);
        self.coefficients.with_values(&values)
    }

    /// What the stages that are done came to.
    pub fn front(&self) -> Vec<FrontPoint> {
        let points = self.state.front.iter();
        points
            .map(|point| FrontPoint {
                kl_weight: point.kl_weight,
                coefficients: self.coefficients.with_values(&point.values),
                kl: point.kl,
                predicted_kl: point.predicted_kl,
            })
            .collect()
    }

    /// Takes the steps that are left, unobserved, and returns the [front](Self::front).
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn run(&mut self) -> Result<Vec<FrontPoint>> {
        self.run_with(|_, _| Ok(ControlFlow::Continue(())))
    }

    /// Takes the steps that are left, and returns the [front](Self::front). `observe` sees every step, with the trainer as it is then,
    /// and may end the run, with an error of its own if need be.
    ///
    /// # Errors
    /// As [`step`](Self::step); what `observe` returns.
    pub fn run_with<E: From<Error>>(
        &mut self,
        mut observe: impl FnMut(&Self, &FaithfulStep) -> Result<ControlFlow<()>, E>,
    ) -> Result<Vec<FrontPoint>, E> {
        while let Some(report) = self.step()? {
            if observe(self, &report)?.is_break() {
                break;
            }
        }
        Ok(self.front())
    }

    /// The next step; `None` if all are done. The first one asks the unmodified model about all items to be kept.
    ///
    /// # Errors
    /// [`Error::Diverged`] for a loss, gradient or coefficient that is not finite, the trainer staying as it was; a model with
    /// coefficients.
    pub fn step(&mut self) -> Result<Option<FaithfulStep>> {
        let Some(place) = self.options.place(self.state.steps) else {
            return Ok(None);
        };
        if self.state.references.is_empty() {
            self.state.references = self.reference_log_probs()?;
        }
        let step = self.state.steps;
        let coefficients = self.coefficients();
        let (losses, mut gradient) = self.item_gradients(&coefficients)?;
        let pieces = self.text.drawn(step, self.options.text_batch_size);
        let (kl, of_kl) = of_pieces(
            self.graph,
            &self.model,
            &self.text,
            &self.references,
            &pieces,
            &coefficients,
            self.pieces_at_once(&pieces),
        )?;
        finite(step, "divergence", kl)?;
        for (gradient, of_kl) in gradient.iter_mut().zip(of_kl) {
            *gradient += place.stage.kl_weight * of_kl;
        }
        finite(step, "gradient", norm(&gradient))?;
        let mut state = self.state.clone();
        let report = FaithfulStep {
            step,
            stage: place.index,
            kl_weight: place.stage.kl_weight,
            groups: self.group_losses(&losses),
            kl,
            predicted_kl: predicted_divergence(&state.momentum.theta),
            step_norm: state.momentum.step(
                &self.whitening.gradient(&gradient),
                self.options.rate(place),
                self.options.max_step_norm,
            ),
        };
        for group in &report.groups {
            finite(step, "loss", group.loss)?;
        }
        for value in self.whitening.coefficients(&state.momentum.theta) {
            finite(step, "coefficient", f64::from(value))?;
        }
        state.steps += 1;
        self.close_stage(&mut state, place)?;
        self.state = state;
        Ok(Some(report))
    }

    /// Takes the iterate into the mean of its stage if it is one of the last, and the mean into the front after the last.
    fn close_stage(&self, state: &mut State, place: Place) -> Result<()> {
        let left = place.stage.steps - place.step;
        if left <= self.options.num_averaged(place.stage) {
            state.momentum.include();
        }
        if left > 1 {
            return Ok(());
        }
        let mean = state.momentum.take_mean();
        let values = self.whitening.coefficients(&mean);
        let coefficients = self.coefficients.with_values(&values);
        let kl = self.measured_divergence(&coefficients)?;
        state.front.push(SavedPoint {
            kl_weight: place.stage.kl_weight,
            values,
            kl: finite(state.steps - 1, "divergence", kl)?,
            predicted_kl: predicted_divergence(&mean),
        });
        Ok(())
    }

    fn measured_divergence(&self, coefficients: &HeadCoefficients) -> Result<f64> {
        let count = self.options.measured_pieces.min(self.text.pieces().len());
        let pieces: Vec<usize> = (0..count).collect();
        value_of_pieces(
            &self.model,
            &self.text,
            &self.references,
            &pieces,
            coefficients,
            self.pieces_at_once(&pieces),
        )
    }

    /// The unmodified model's log-probabilities for each item, group by group. Those of preferences are not needed and 0.
    fn reference_log_probs(&self) -> Result<Vec<Vec<f64>>> {
        let of_group = |group: &ItemGroup| {
            let kept: Vec<_> = group
                .items()
                .iter()
                .filter(|item| !item.is_preference())
                .cloned()
                .collect();
            let found = log_probs(&self.model, &kept, None, self.options.tokens_at_once)?;
            let mut found = found.into_iter();
            let all = group.items().iter();
            Ok(all
                .map(|item| {
                    if item.is_preference() {
                        0.0
                    } else {
                        found.next().unwrap_or(0.0)
                    }
                })
                .collect())
        };
        self.groups.iter().map(of_group).collect()
    }

    /// The loss of each item that is due, group by group, and the gradient of the weighted means.
    fn item_gradients(&self, coefficients: &HeadCoefficients) -> Result<(Vec<ItemLoss>, Vec<f64>)> {
        let (seed, step) = (self.options.seed, self.state.steps);
        let mut weighted = Vec::new();
        for (place, group) in self.groups.iter().enumerate() {
            let weight = group.weight() / group.per_step() as f64;
            let drawn = group.drawn(seed, place, step);
            weighted.extend(drawn.into_iter().map(|index| Weighted {
                item: &group.items()[index],
                weight,
                reference: self.state.references[place][index],
            }));
        }
        let settings = LossSettings {
            margin: self.options.margin,
            tokens_at_once: self.options.tokens_at_once,
        };
        of_weighted(self.graph, &self.model, &weighted, coefficients, settings)
    }

    /// The losses of a step, by group.
    fn group_losses(&self, losses: &[ItemLoss]) -> Vec<GroupLoss> {
        let mut rest = losses;
        let mut of_group = |group: &ItemGroup| {
            let (own, others) = rest.split_at(group.per_step());
            rest = others;
            let count = own.len() as f64;
            let wins = own.iter().filter(|item| item.difference > 0.0).count();
            GroupLoss {
                name: group.name().to_owned(),
                weight: group.weight(),
                loss: own.iter().map(|item| item.loss).sum::<f64>() / count,
                wins: wins as f64 / count,
            }
        };
        self.groups.iter().map(&mut of_group).collect()
    }

    fn pieces_at_once(&self, pieces: &[usize]) -> usize {
        let lengths = pieces.iter().map(|&piece| self.text.pieces()[piece].len());
        (self.options.tokens_at_once / lengths.max().unwrap_or(1)).max(1)
    }

    pub(super) fn parts(&mut self) -> (&Run, &[ItemGroup], &mut State) {
        (&self.run, &self.groups, &mut self.state)
    }

    pub(super) fn saved(&self) -> (&Run, &State) {
        (&self.run, &self.state)
    }
}

fn finite(step: usize, what: &'static str, value: f64) -> Result<f64> {
    if value.is_finite() {
        Ok(value)
    } else {
        Err(Error::Diverged { step, what, value })
    }
}
