//! Gradients of all heads from one backward pass.

mod common;

use common::{HEAD_DIM, Small};
use pear_core::position::{PositionEmbeddingConfig, RotaryConfig};
use pear_core::{DecoderModel, HeadCoefficients, HeadId};
use pear_train::{evaluate, gradient_scores, loss_and_gradients};

fn model() -> Small {
    let rotary = PositionEmbeddingConfig::Rotary(RotaryConfig::new(HEAD_DIM, 10_000.0));
    Small::new(3, 6, 2, 37, rotary)
}

#[test]
fn scores_agree_with_central_differences_and_with_the_gradient_of_the_batch() {
    let model = model();
    let heads: Vec<HeadId> = model.shape().heads().collect();
    let batch = model.task().batch(7, 0..5).unwrap();
    let ones = HeadCoefficients::ones(&heads, &model.shape(), &model.device()).unwrap();
    let (_, of_batch) = loss_and_gradients(&model, &batch, &ones).unwrap();
    for at_once in [1, 2, 5, usize::MAX] {
        let scores = gradient_scores(&model, &heads, &batch, at_once).unwrap();
        for (score, expected) in scores.iter().zip(&of_batch) {
            assert!(
                (score.gradient - f64::from(*expected)).abs() < 1e-5,
                "{at_once}: {score:?} and {expected}"
            );
        }
    }
    let scores = gradient_scores(&model, &heads, &batch, 2).unwrap();
    let largest = scores.iter().fold(0f64, |max, s| max.max(s.gradient.abs()));
    assert!(largest > 0.05, "nothing matters: {largest}");
    for score in scores {
        let at = |value| {
            let moved = [(score.head, value)];
            let moved = HeadCoefficients::new(&moved, &model.shape(), &model.device()).unwrap();
            evaluate(&model, &batch, Some(&moved)).unwrap().loss
        };
        let difference = (at(1.004) - at(0.996)) / 8e-3;
        assert!(
            (score.gradient - difference).abs() < 2e-3 + 5e-3 * largest,
            "{score:?} and {difference}"
        );
    }
}

#[test]
fn standard_errors_are_those_of_the_gradients_of_single_sequences() {
    let model = model();
    // In another order than the model's.
    let heads = [HeadId::new(2, 3), HeadId::new(0, 5), HeadId::new(2, 0)];
    let batch = model.task().batch(7, 0..6).unwrap();
    let scores = gradient_scores(&model, &heads, &batch, 4).unwrap();
    for (head, score) in heads.iter().zip(scores) {
        assert_eq!(score.head, *head);
        let one = HeadCoefficients::ones(&[*head], &model.shape(), &model.device()).unwrap();
        let single: Vec<f64> = (0..6)
            .map(|i| {
                let (_, gradients) =
                    loss_and_gradients(&model, &batch.slice(i..i + 1), &one).unwrap();
                f64::from(gradients[0])
            })
            .collect();
        let mean = single.iter().sum::<f64>() / 6.0;
        let variance = single.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / 5.0;
        assert!((score.gradient - mean).abs() < 1e-5, "{score:?}, {mean}");
        let error = score.standard_error.unwrap();
        assert!((error - (variance / 6.0).sqrt()).abs() < 1e-5, "{score:?}");
    }
    let alone = gradient_scores(&model, &heads, &batch.slice(0..1), 1).unwrap();
    assert!(alone.iter().all(|score| score.standard_error.is_none()));
}

#[test]
fn heads_that_the_model_lacks_are_refused() {
    let (model, heads) = (model(), [HeadId::new(3, 0)]);
    let batch = model.task().batch(7, 0..2).unwrap();
    assert!(gradient_scores(&model, &heads, &batch, 2).is_err());
}
