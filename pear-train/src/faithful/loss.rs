//! The losses of items, and their gradients.

use std::ops::Range;

use burn::prelude::*;
use burn::tensor::DType;
use burn::tensor::activation::softplus;
use pear_core::forward::training_residual;
use pear_core::kernels::cross_entropy;
use pear_core::{DecoderModel, HeadCoefficients, NoEdit, Positions};

use super::batch::{Prompts, parts};
use super::items::{Goal, Item};
use crate::Result;
use crate::recompute::{Graph, Pass, whole_sequences};
use crate::rows::{LOGITS_IN_MEMORY, mean_over_rows};

/// What one item gave.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ItemLoss {
    /// The loss, in nats.
    pub loss: f64,
    /// By how much it is as wanted, in nats: the logit of the preferred token minus that of the rejected one, or `log p − log p₀` of a
    /// token to be kept.
    pub difference: f64,
}

/// How the losses of items are computed.
#[derive(Clone, Copy, Debug)]
pub(super) struct LossSettings {
    pub margin: f64,
    pub tokens_at_once: usize,
}

/// An item, with what its loss depends on beside the model.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weighted<'a> {
    pub item: &'a Item,
    /// Of its loss in the sum.
    pub weight: f64,
    /// `log p₀` of its token under the unmodified model.
    pub reference: f64,
}

/// The natural-log probability of each item's [token](Item::token) after its prompt, with coefficients or for the unmodified model, in
/// the order of `items`. At most `tokens_at_once` tokens, padding included, are run together.
///
/// # Errors
/// Prompts longer than the model can read, tokens that it does not know, coefficients for a model of another shape or on top of others.
pub fn log_probs<M: DecoderModel>(
    model: &M,
    items: &[Item],
    coefficients: Option<&HeadCoefficients>,
    tokens_at_once: usize,
) -> Result<Vec<f64>> {
    // With p₀ = 1 the difference of a token to be kept is its log-probability.
    let keep: Vec<Item> = items
        .iter()
        .map(|item| Item::keep(item.prompt.clone(), item.token()))
        .collect();
    let references = vec![0.0; items.len()];
    let found = item_losses(model, &keep, &references, coefficients, 0.0, tokens_at_once)?;
    Ok(found.into_iter().map(|found| found.difference).collect())
}

/// The loss of each item, in the order of `items`. `references` are the unmodified model's [`log_probs`] of the same items; those of
/// preferences are not looked at.
///
/// # Errors
/// As [`log_probs`].
///
/// # Panics
/// If there are not as many references as items.
pub fn item_losses<M: DecoderModel>(
    model: &M,
    items: &[Item],
    references: &[f64],
    coefficients: Option<&HeadCoefficients>,
    margin: f64,
    tokens_at_once: usize,
) -> Result<Vec<ItemLoss>> {
    items.iter().try_for_each(|item| item.check(model))?;
    let weighted = evenly_weighted(items, references);
    let settings = LossSettings {
        margin,
        tokens_at_once,
    };
    let mut found = vec![ItemLoss::default(); items.len()];
    let refs: Vec<&Item> = items.iter().collect();
    for part in parts(&refs, tokens_at_once) {
        let rows: Vec<Weighted<'_>> = part.iter().map(|&index| weighted[index]).collect();
        let prompts = Prompts::new(rows.iter().map(|row| &row.item.prompt[..]));
        let tokens = prompts.tokens(&model.device());
        let residual = match coefficients {
            Some(coefficients) => training_residual(model, tokens, &mut coefficients.fixed())?,
            None => training_residual(model, tokens, &mut NoEdit)?,
        };
        let (_, losses) = weighted_sum(model, &rows, settings, prompts.last(residual));
        part.into_iter()
            .zip(losses)
            .for_each(|(index, loss)| found[index] = loss);
    }
    Ok(found)
}

/// [`item_losses`], and the gradient of their mean for each coefficient in the order of [`HeadCoefficients::heads`]. Trainable or not,
/// the coefficients are left as they are.
///
/// # Errors
/// As [`log_probs`].
///
/// # Panics
/// As [`item_losses`].
pub fn item_losses_and_gradients<M: DecoderModel>(
    model: &M,
    items: &[Item],
    references: &[f64],
    coefficients: &HeadCoefficients,
    margin: f64,
    tokens_at_once: usize,
) -> Result<(Vec<ItemLoss>, Vec<f64>)> {
    items.iter().try_for_each(|item| item.check(model))?;
    let settings = LossSettings {
        margin,
        tokens_at_once,
    };
    of_weighted(
        Graph::Whole,
        model,
        &evenly_weighted(items, references),
        coefficients,
        settings,
    )
}

fn evenly_weighted<'a>(items: &'a [Item], references: &[f64]) -> Vec<Weighted<'a>> {
    assert_eq!(
        items.len(),
        references.len(),
        "item losses: {} references for {} items",
        references.len(),
        items.len()
    );
    let weight = 1.0 / items.len().max(1) as f64;
    items
        .iter()
        .zip(references)
        .map(|(item, &reference)| Weighted {
            item,
            weight,
            reference,
        })
        .collect()
}

/// The loss of each item, and the gradient of their weighted sum.
pub(super) fn of_weighted<M: DecoderModel>(
    graph: Graph,
    model: &M,
    weighted: &[Weighted<'_>],
    coefficients: &HeadCoefficients,
    settings: LossSettings,
) -> Result<(Vec<ItemLoss>, Vec<f64>)> {
    let items: Vec<&Item> = weighted.iter().map(|weighted| weighted.item).collect();
    let mut found = vec![ItemLoss::default(); items.len()];
    let mut gradients = vec![0.0; coefficients.heads().len()];
    for part in parts(&items, settings.tokens_at_once) {
        let rows: Vec<Weighted<'_>> = part.iter().map(|&index| weighted[index]).collect();
        let prompts = Prompts::new(rows.iter().map(|row| &row.item.prompt[..]));
        let tokens = prompts.tokens(&model.device());
        let seq = tokens.dims()[1];
        let mut losses = Vec::new();
        let pass = Pass {
            input: model.embed(tokens, Positions::first(seq)),
            layer: whole_sequences(model, seq),
            loss: |residual| {
                let (sum, found) = weighted_sum(model, &rows, settings, prompts.last(residual));
                losses = found;
                sum
            },
        };
        let (_, of_part) = graph.loss_and_gradients(model, coefficients, pass)?;
        gradients
            .iter_mut()
            .zip(of_part)
            .for_each(|(sum, part)| *sum += f64::from(part));
        part.into_iter()
            .zip(losses)
            .for_each(|(index, loss)| found[index] = loss);
    }
    Ok((found, gradients))
}

/// The weighted sum of the losses of items that are run together, preferences first: `[1]`, tracked if `residual` is. And each of them.
/// `residual` is the residual stream after the last layer at the last token of each, `[items, hidden]`.
fn weighted_sum<M: DecoderModel>(
    model: &M,
    items: &[Weighted<'_>],
    settings: LossSettings,
    residual: Tensor<2>,
) -> (Tensor<1>, Vec<ItemLoss>) {
    let vocab = model.vocab_size();
    let rows_at_once = (LOGITS_IN_MEMORY / vocab.max(1)).max(1);
    let mut found = Vec::with_capacity(items.len());
    let mean = mean_over_rows(residual, rows_at_once, |residual, range: Range<usize>| {
        let logits = model.logits(residual.unsqueeze_dim(0));
        let logits = logits.reshape([range.len(), vocab]);
        let items = &items[range];
        let (losses, differences) = row_losses(logits, items, settings.margin);
        found.extend(numbers(&losses, &differences));
        let weights: Vec<f32> = items.iter().map(|row| row.weight as f32).collect();
        losses * Tensor::from_floats(weights.as_slice(), &model.device())
    });
    (mean * items.len() as f64, found)
}

fn numbers(losses: &Tensor<1>, differences: &Tensor<1>) -> Vec<ItemLoss> {
    let [losses, differences] = [losses, differences].map(|tensor| {
        let tensor = tensor.clone();
        let plain = if tensor.is_autodiff() {
            tensor.inner()
        } else {
            tensor
        };
        plain.into_data().iter::<f64>().collect::<Vec<_>>()
    });
    losses
        .into_iter()
        .zip(differences)
        .map(|(loss, difference)| ItemLoss { loss, difference })
        .collect()
}

/// Losses and [differences](ItemLoss::difference) of these items, preferences first: `[rows]` each, from logits `[rows, vocab]`.
fn row_losses(logits: Tensor<2>, items: &[Weighted<'_>], margin: f64) -> (Tensor<1>, Tensor<1>) {
    let preferences = items
        .iter()
        .take_while(|row| row.item.is_preference())
        .count();
    let (preferring, keeping) = items.split_at(preferences);
    let (mut losses, mut differences) = (Vec::new(), Vec::new());
    if !preferring.is_empty() {
        let difference = logit_differences(logits.clone().narrow(0, 0, preferences), preferring);
        losses.push(softplus(-difference.clone() + margin, 1.0));
        differences.push(difference);
    }
    if !keeping.is_empty() {
        let logits = logits.narrow(0, preferences, keeping.len());
        let tokens: Vec<u32> = keeping.iter().map(|row| row.item.token()).collect();
        let references: Vec<f32> = keeping.iter().map(|row| row.reference as f32).collect();
        let surprise = cross_entropy(logits, &tokens);
        let device = surprise.device();
        let lost = surprise + Tensor::from_floats(references.as_slice(), &device);
        losses.push(burn::tensor::activation::relu(lost.clone()));
        differences.push(-lost);
    }
    (Tensor::cat(losses, 0), Tensor::cat(differences, 0))
}

/// Logit of the preferred token minus that of the rejected one: `[rows]`, f32.
fn logit_differences(logits: Tensor<2>, items: &[Weighted<'_>]) -> Tensor<1> {
    let ids: Vec<i32> = items
        .iter()
        .flat_map(|row| match row.item.goal {
            Goal::Prefer {
                preferred,
                rejected,
            } => [preferred, rejected],
            Goal::Keep { keep } => [keep, keep],
        })
        .map(|id| id as i32)
        .collect();
    let ids = TensorData::new(ids, [items.len(), 2]);
    let device = if logits.is_autodiff() {
        logits.device().inner()
    } else {
        logits.device()
    };
    let pairs = logits.gather(1, Tensor::<2, Int>::from_data(ids, &device));
    let pairs = pairs.cast(DType::F32);
    (pairs.clone().narrow(1, 0, 1) - pairs.narrow(1, 1, 1)).reshape([items.len()])
}
