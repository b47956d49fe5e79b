//! The loss on a decoder of one's own: right, and nothing computed that is not needed.

mod common;

use burn::module::{Module, ModuleVisitor, Param};
use burn::prelude::*;
use burn::tensor::activation::log_softmax;
use common::{HEAD_DIM, Small};
use pear_core::position::{PositionEmbeddingConfig, RotaryConfig};
use pear_core::proxy::ProxyBatch;
use pear_core::{DecoderModel, HeadCoefficients, HeadEdit, HeadId, NoEdit, forward};
use pear_train::{evaluate, proxy_loss};

fn rotary() -> PositionEmbeddingConfig {
    PositionEmbeddingConfig::Rotary(RotaryConfig::new(HEAD_DIM, 10_000.0))
}

fn learned(heads: usize) -> PositionEmbeddingConfig {
    PositionEmbeddingConfig::Learned {
        num_positions: 40,
        width: heads * HEAD_DIM,
    }
}

fn alibi(heads: usize) -> PositionEmbeddingConfig {
    PositionEmbeddingConfig::Alibi {
        num_heads: heads,
        max_bias: 8.0,
    }
}

fn all_heads(model: &Small) -> Vec<(HeadId, f32)> {
    model
        .shape()
        .heads()
        .map(|head| {
            (
                head,
                0.7 + 0.04 * head.head as f32 + 0.1 * head.layer as f32,
            )
        })
        .collect()
}

fn coefficients(model: &Small, values: &[(HeadId, f32)]) -> HeadCoefficients {
    HeadCoefficients::new(values, &model.shape(), &model.device()).unwrap()
}

/// The loss by its definition: a whole run, all logits, log-softmax.
fn defined(model: &Small, batch: &ProxyBatch, edit: &mut impl HeadEdit) -> Tensor<1> {
    let device = model.device();
    let [n, seq] = [batch.n(), batch.seq_len()];
    let logits = forward::training_logits(model, batch.tokens(&device), edit).unwrap();
    let log_probs = log_softmax(logits.narrow(1, seq - n - 1, n), 2);
    let labels = batch
        .tokens(&device)
        .narrow(1, seq - n, n)
        .unsqueeze_dim::<3>(2);
    -log_probs.gather(2, labels).mean()
}

#[test]
fn every_gradient_agrees_with_a_central_difference_whatever_the_positions_and_groups() {
    let models = [
        ("rotary, 14 / 2 heads", Small::new(3, 14, 2, 37, rotary())),
        ("alibi, 6 / 6", Small::new(3, 6, 6, 37, alibi(6))),
        ("alibi, 6 / 2", Small::new(3, 6, 2, 37, alibi(6))),
        ("learned, 6 / 3", Small::new(3, 6, 3, 37, learned(6))),
        (
            "none, 6 / 1",
            Small::new(3, 6, 1, 37, PositionEmbeddingConfig::None),
        ),
    ];
    for (name, model) in models {
        let values = all_heads(&model);
        let batch = model.task().batch(7, 0..4).unwrap();
        let tracked = coefficients(&model, &values).trainable();
        let gradients =
            tracked.gradients(&proxy_loss(&model, &batch, &tracked).unwrap().backward());
        let (mut worst, mut largest) = (0f64, 0f64);
        for (i, &gradient) in gradients.iter().enumerate() {
            let at = |step: f32| {
                let mut moved = values.clone();
                moved[i].1 += step;
                evaluate(&model, &batch, Some(&coefficients(&model, &moved)))
                    .unwrap()
                    .loss
            };
            let difference = (at(4e-3) - at(-4e-3)) / 8e-3;
            worst = worst.max((f64::from(gradient) - difference).abs());
            largest = largest.max(difference.abs());
        }
        println!(
            "{name}: {} gradients up to {largest:.3}, apart by {worst:.1e}",
            gradients.len()
        );
        assert!(largest > 0.05, "{name}: nothing matters");
        // What f32 leaves of a difference over 8e-3 and its own curvature.
        assert!(worst < 2e-3 + 5e-3 * largest, "{name}: {worst}");
    }
}

#[test]
fn shared_key_value_heads_give_the_same_loss_on_tracked_and_on_plain_tensors() {
    for key_value_heads in [1, 2, 7, 14] {
        let model = Small::new(2, 14, key_value_heads, 37, rotary());
        let batch = model.task().batch(6, 0..3).unwrap();
        let values = coefficients(&model, &all_heads(&model));
        let plain: f64 = proxy_loss(&model, &batch, &values).unwrap().into_scalar();
        let tracked = proxy_loss(&model, &batch, &values.trainable()).unwrap();
        let tracked_loss: f64 = tracked.clone().into_scalar();
        tracked.backward();
        // A few units in the last place of f32.
        assert!(
            (plain - tracked_loss).abs() < 5e-7 * plain,
            "{key_value_heads}: {plain} and {tracked_loss}"
        );
    }
}

#[test]
fn the_loss_is_the_definition_with_and_without_a_bos() {
    let model = Small::new(3, 6, 2, 37, rotary());
    for task in [model.task(), model.task().with_bos(Some(0))] {
        let batch = task.batch(7, 0..4).unwrap();
        let values = coefficients(&model, &all_heads(&model));
        let expected: f64 = defined(&model, &batch, &mut values.clone()).into_scalar();
        let loss: f64 = proxy_loss(&model, &batch, &values).unwrap().into_scalar();
        let evaluated = evaluate(&model, &batch, Some(&values)).unwrap().loss;
        assert!(
            (loss - expected).abs() < 1e-5 && (evaluated - expected).abs() < 1e-5,
            "{loss}, {evaluated}, {expected}"
        );
        let plain: f64 = defined(&model, &batch, &mut NoEdit).into_scalar();
        assert!((evaluate(&model, &batch, None).unwrap().loss - plain).abs() < 1e-5);
    }
}

#[test]
fn logits_too_large_for_one_piece_change_neither_loss_nor_gradients() {
    let model = Small::new(2, 6, 2, 60_000, rotary());
    let batch = model.task().batch(30, 0..10).unwrap();
    let tracked = coefficients(&model, &all_heads(&model)).trainable();
    let loss = proxy_loss(&model, &batch, &tracked).unwrap();
    let value: f64 = loss.clone().into_scalar();
    let gradients = tracked.gradients(&(loss * 2.0).backward());
    let calls = model.seen().logits;
    assert_eq!(calls.iter().sum::<usize>(), 300);
    assert!(calls.len() > 1, "{calls:?}");

    let reference = defined(&model, &batch, &mut tracked.tracked());
    let expected: f64 = reference.clone().into_scalar();
    let reference = tracked.gradients(&reference.backward());
    assert!(
        (value - expected).abs() < 1e-5 * expected,
        "{value}, {expected}"
    );
    let largest = reference.iter().fold(0f32, |max, g| max.max(g.abs()));
    for (ours, reference) in gradients.iter().zip(&reference) {
        // Twice, for the loss was doubled: it is a tensor like any other.
        assert!(
            (ours - 2.0 * reference).abs() < 1e-4 * largest,
            "{ours} and 2 × {reference}"
        );
    }
}

#[test]
fn there_is_no_graph_below_the_first_reweighted_layer_and_no_logits_of_the_first_half() {
    let model = Small::new(4, 6, 2, 37, rotary());
    let batch = model.task().batch(7, 0..3).unwrap();
    for first in 0..4 {
        let heads = [HeadId::new(first, 1), HeadId::new(3, 4)];
        let tracked = HeadCoefficients::ones(
            &heads[..1 + usize::from(first < 3)],
            &model.shape(),
            &model.device(),
        )
        .unwrap()
        .trainable();
        model.seen();
        proxy_loss(&model, &batch, &tracked).unwrap().backward();
        let seen = model.seen();
        // The input of the first re-weighted layer is still plain.
        assert_eq!(
            seen.layers,
            (0..4)
                .map(|layer| (layer, layer > first))
                .collect::<Vec<_>>()
        );
        assert_eq!(seen.logits, [3 * 7]);
    }
}

#[test]
fn evaluating_makes_no_graph_even_with_trainable_coefficients() {
    let model = Small::new(3, 6, 2, 37, rotary());
    let batch = model.task().batch(7, 0..3).unwrap();
    let values = coefficients(&model, &all_heads(&model));
    let plain = evaluate(&model, &batch, Some(&values)).unwrap();
    model.seen();
    assert_eq!(
        evaluate(&model, &batch, Some(&values.trainable())).unwrap(),
        plain
    );
    assert!(model.seen().layers.iter().all(|(_, tracked)| !tracked));
}

#[test]
fn frozen_weights_are_never_on_the_autodiff_side_and_keep_every_bit() {
    struct Bits(Vec<u32>);
    impl ModuleVisitor for Bits {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            assert!(!param.val().is_autodiff());
            self.0
                .extend(param.val().into_data().iter::<f32>().map(f32::to_bits));
        }
    }
    let model = Small::new(3, 6, 2, 37, learned(6));
    let bits = || {
        let mut bits = Bits(Vec::new());
        model.weights.visit(&mut bits);
        bits.0
    };
    let before = bits();
    let heads: Vec<HeadId> = model.shape().heads().collect();
    let options = pear_train::TrainOptions {
        steps: 6,
        batch_size: 3,
        length: 6,
        ..Default::default()
    };
    let mut trainer = pear_train::Trainer::new(&model, &heads, options).unwrap();
    let task = pear_train::Sequences::Drawn(model.task());
    trainer.run(&task).unwrap();
    assert!(!before.is_empty() && before == bits());
}

#[test]
fn unlisted_heads_keep_exactly_one() {
    let model = Small::new(2, 6, 2, 37, rotary());
    let listed = [HeadId::new(1, 2), HeadId::new(1, 5)];
    let options = pear_train::TrainOptions {
        steps: 8,
        batch_size: 3,
        length: 6,
        learning_rate: 0.1,
        ..Default::default()
    };
    let mut trainer = pear_train::Trainer::new(&model, &listed, options).unwrap();
    let task = pear_train::Sequences::Drawn(model.task());
    trainer.run(&task).unwrap();
    let learned = trainer.coefficients();
    assert!(learned.layer(0).is_none());
    let per_head: Vec<f32> = learned
        .layer(1)
        .unwrap()
        .per_head()
        .into_data()
        .iter()
        .collect();
    for (head, value) in per_head.into_iter().enumerate() {
        assert_eq!(
            value != 1.0,
            listed.contains(&HeadId::new(1, head)),
            "head {head}: {value}"
        );
    }
    let profile = trainer.profile().unwrap();
    assert_eq!(
        profile
            .coefficients
            .iter()
            .map(|c| c.head)
            .collect::<Vec<_>>(),
        listed
    );
}
