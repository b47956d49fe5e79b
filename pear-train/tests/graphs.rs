//! Losses that are dropped without a backward pass leave no graph of the model behind.
#![cfg(target_os = "linux")]

mod common;

use common::Small;
use pear_core::forward::logits;
use pear_core::position::{PositionEmbeddingConfig, RotaryConfig};
use pear_core::{DecoderModel, HeadCoefficients, HeadId};
use pear_train::{loss_and_gradients, proxy_loss};

/// Resident memory of this process, in MiB.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<f64>()
        .unwrap()
        / 1024.0
}

/// What `count` calls add, after a few that warm the allocator up.
fn growth(count: usize, mut call: impl FnMut()) -> f64 {
    (0..5).for_each(|_| call());
    let before = resident();
    (0..count).for_each(|_| call());
    resident() - before
}

#[test]
fn memory_does_not_grow_with_losses_and_logits_that_are_dropped() {
    let rotary = PositionEmbeddingConfig::Rotary(RotaryConfig::new(common::HEAD_DIM, 1e4));
    let model = Small::new(4, 8, 4, 300, rotary);
    let heads = [HeadId::new(0, 1), HeadId::new(3, 2)];
    let coefficients = HeadCoefficients::ones(&heads, &model.shape(), &model.device()).unwrap();
    let mut coefficients = coefficients.trainable();
    let batch = model.task().batch(40, 0..16).unwrap();

    // The graph of one loss alone holds the attention weights of four layers: 13 MB.
    let grown = growth(40, || {
        drop(proxy_loss(&model, &batch, &coefficients).unwrap())
    });
    assert!(grown < 100.0, "40 losses: {grown} MiB");
    let tokens = batch.tokens(&model.device());
    let grown = growth(40, || {
        drop(logits(&model, tokens.clone(), &mut coefficients).unwrap())
    });
    assert!(grown < 100.0, "40 times logits: {grown} MiB");
}

#[test]
fn the_loss_and_its_gradient_are_those_of_loss_and_gradients() {
    let rotary = PositionEmbeddingConfig::Rotary(RotaryConfig::new(common::HEAD_DIM, 1e4));
    let model = Small::new(3, 4, 2, 40, rotary);
    let heads = [
        (HeadId::new(1, 0), 0.7),
        (HeadId::new(1, 3), 1.2),
        (HeadId::new(2, 2), 0.9),
    ];
    let coefficients = HeadCoefficients::new(&heads, &model.shape(), &model.device()).unwrap();
    let trainable = coefficients.clone().trainable();
    let batch = model.task().batch(6, 0..3).unwrap();
    let loss = proxy_loss(&model, &batch, &trainable).unwrap();
    let value = loss.clone().into_scalar::<f64>();
    let gradients = trainable.gradients(&(loss * 2.0).backward());

    let (expected, expected_gradients) = loss_and_gradients(&model, &batch, &coefficients).unwrap();
    assert!((value - expected).abs() < 1e-6, "{value}, {expected}");
    for (gradient, expected) in gradients.iter().zip(&expected_gradients) {
        assert!(
            (gradient - 2.0 * expected).abs() < 1e-6,
            "{gradients:?}, {expected_gradients:?}"
        );
    }
    // Fixed coefficients make no graph at all.
    assert!(
        !proxy_loss(&model, &batch, &coefficients)
            .unwrap()
            .is_autodiff()
    );
}
