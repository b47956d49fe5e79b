//! The divergence on plain text, alone and as a part of what is trained for.

mod common;

use burn::prelude::*;
use burn::tensor::activation::log_softmax;
use common::runs::{run, saved};
use common::{HEAD_DIM, Small};
use pear_core::forward::{self, token_tensor};
use pear_core::position::{PositionEmbeddingConfig, RotaryConfig};
use pear_core::{DecoderModel, HeadCoefficients, HeadId, NoEdit};
use pear_train::{
    PlainText, TrainOptions, Trainer, divergence_and_gradients, evaluate, loss_and_gradients,
    text_divergence,
};

fn model(vocab: usize) -> Small {
    let rotary = PositionEmbeddingConfig::Rotary(RotaryConfig::new(HEAD_DIM, 10_000.0));
    Small::new(3, 6, 2, vocab, rotary)
}

/// Pieces of three lengths.
fn text(vocab: u32, seed: u64) -> PlainText {
    let piece = |index: u32, length: u32| -> Vec<u32> {
        (0..length)
            .map(|place| (index * 31 + place * place * 7 + place * 3) % vocab)
            .collect()
    };
    let lengths = [9, 9, 5, 9, 12, 5, 9];
    PlainText::new((0..).zip(lengths).map(|(i, n)| piece(i, n)).collect(), seed).unwrap()
}

fn all_heads(model: &Small) -> Vec<(HeadId, f32)> {
    let heads = model.shape().heads();
    heads
        .map(|head| {
            (
                head,
                0.7 + 0.05 * head.head as f32 + 0.1 * head.layer as f32,
            )
        })
        .collect()
}

fn coefficients(model: &Small, values: &[(HeadId, f32)]) -> HeadCoefficients {
    HeadCoefficients::new(values, &model.shape(), &model.device()).unwrap()
}

/// The divergence by its definition, in double precision.
fn defined(model: &Small, text: &PlainText, coefficients: &HeadCoefficients) -> f64 {
    let log_probs = |logits: Tensor<3>| -> Vec<f64> {
        let data = log_softmax(logits, 2).into_data();
        data.iter::<f64>().collect()
    };
    let mut sum = 0.0;
    for piece in text.pieces() {
        let tokens = || token_tensor(&[piece], &model.device());
        let original = log_probs(forward::logits(model, tokens(), &mut NoEdit).unwrap());
        let changed = forward::logits(model, tokens(), &mut coefficients.clone()).unwrap();
        let pairs = original.into_iter().zip(log_probs(changed));
        sum += pairs.map(|(p0, p)| p0.exp() * (p0 - p)).sum::<f64>();
    }
    sum / text.num_positions() as f64
}

#[test]
fn the_divergence_is_its_definition_however_many_pieces_run_together() {
    let (model, text) = (model(37), text(37, 0));
    let values = coefficients(&model, &all_heads(&model));
    let expected = defined(&model, &text, &values);
    assert!(expected > 0.01, "{expected}");
    for at_once in [1, 2, 100] {
        let found = text_divergence(&model, &text, &values, at_once).unwrap();
        let (with_gradients, _) =
            divergence_and_gradients(&model, &text, &values, at_once).unwrap();
        for found in [found, with_gradients] {
            assert!((found - expected).abs() < 1e-6, "{found}, {expected}");
        }
    }
    let ones = HeadCoefficients::ones(&[HeadId::new(1, 1)], &model.shape(), &model.device());
    let none = text_divergence(&model, &text, &ones.unwrap(), 3).unwrap();
    assert!(none.abs() < 1e-7, "{none}");
}

#[test]
fn every_gradient_of_the_divergence_agrees_with_a_central_difference() {
    let (model, text) = (model(37), text(37, 0));
    let values = all_heads(&model);
    let (_, gradients) =
        divergence_and_gradients(&model, &text, &coefficients(&model, &values), 2).unwrap();
    let largest = gradients.iter().fold(0f64, |max, g| max.max(g.abs()));
    assert!(largest > 0.02, "nothing matters: {largest}");
    for (i, gradient) in gradients.iter().enumerate() {
        let at = |step: f32| {
            let mut moved = values.clone();
            moved[i].1 += step;
            defined(&model, &text, &coefficients(&model, &moved))
        };
        let difference = (at(4e-3) - at(-4e-3)) / 8e-3;
        assert!(
            (gradient - difference).abs() < 1e-4 + 5e-3 * largest,
            "{i}: {gradient} and {difference}"
        );
    }
}

#[test]
fn logits_too_large_for_one_part_change_neither_divergence_nor_gradients() {
    let model = model(900_000);
    let piece = |first: u32| (0..7).map(|i| first + 120_000 * i).collect();
    let text = PlainText::new(vec![piece(1), piece(2)], 0).unwrap();
    let values = coefficients(&model, &all_heads(&model));
    model.seen();
    let (kl, gradients) = divergence_and_gradients(&model, &text, &values, 2).unwrap();
    // Of two models, 2^24 logits in all.
    assert_eq!(model.seen().logits, [9, 9, 5, 5]);

    let tracked = values.trainable();
    let tokens = token_tensor(text.pieces(), &model.device());
    let original = log_softmax(
        forward::logits(&model, tokens.clone(), &mut NoEdit).unwrap(),
        2,
    );
    let logits = forward::training_logits(&model, tokens, &mut tracked.tracked()).unwrap();
    let terms = original.clone().exp() * (original - log_softmax(logits, 2));
    let reference = terms.sum_dim(2).mean();
    let expected: f64 = reference.clone().into_scalar();
    let reference = tracked.gradients(&reference.backward());
    assert!(
        (kl - expected).abs() < 1e-4 * expected,
        "{kl} and {expected}"
    );
    let largest = reference.iter().fold(0f32, |max, g| max.max(g.abs()));
    for (ours, reference) in gradients.iter().zip(&reference) {
        assert!(
            (*ours as f32 - reference).abs() < 1e-4 * largest,
            "{ours} and {reference}"
        );
    }
}

fn options() -> TrainOptions {
    TrainOptions {
        steps: 8,
        batch_size: 3,
        length: 6,
        learning_rate: 0.03,
        micro_batch_size: Some(2),
        kl_weight: 2.0,
        text_batch_size: 3,
        sparsity: 0.05,
        ..TrainOptions::default()
    }
}

fn trainer<'a>(model: &'a Small, text: &PlainText, options: TrainOptions) -> Trainer<&'a Small> {
    let heads: Vec<HeadId> = model.shape().heads().collect();
    Trainer::new(model, &heads, options)
        .unwrap()
        .with_text(text.clone())
        .unwrap()
}

#[test]
fn a_step_follows_the_gradient_of_proxy_loss_and_weighted_divergence() {
    let (model, text) = (model(37), text(37, 4));
    let options = TrainOptions {
        sparsity: 0.0,
        ..options()
    };
    let mut trainer = trainer(&model, &text, options.clone());
    let steps = run(&mut trainer, 3);
    let before = trainer.coefficients().clone();
    let batch = model.task().batch(6, 9..12).unwrap();
    let report = trainer.step(&batch).unwrap();
    assert_eq!(steps[2].coefficients, before.values());

    let drawn = text
        .drawn(3, 3)
        .into_iter()
        .map(|i| text.pieces()[i].clone());
    let drawn = PlainText::new(drawn.collect(), 0).unwrap();
    let (loss, of_loss) = loss_and_gradients(&model, &batch, &before).unwrap();
    let (kl, of_kl) = divergence_and_gradients(&model, &drawn, &before, 3).unwrap();
    assert!((report.loss - loss).abs() < 1e-6);
    assert!((report.kl.unwrap() - kl).abs() < 1e-6 && kl > 1e-5);
    let both = of_loss.iter().zip(&of_kl);
    let norm = both
        .map(|(a, b)| (f64::from(*a) + 2.0 * b).powi(2))
        .sum::<f64>()
        .sqrt();
    assert!((report.gradient_norm - norm).abs() < 1e-5 * norm);
    let distance = before
        .values()
        .into_iter()
        .map(|v| f64::from(v - 1.0).abs());
    assert!((report.distance_from_one - distance.sum::<f64>()).abs() < 1e-6);
    assert_eq!(trainer.kl().len(), 4);
}

#[test]
fn a_run_with_text_and_prices_goes_on_bit_for_bit_after_any_step() {
    let (model, folder) = (model(37), tempfile::tempdir().unwrap());
    let (other_order, text) = (text(37, 5), text(37, 4));
    let path = folder.path().join("run.json");
    let mut whole = trainer(&model, &text, options());
    let steps = run(&mut whole, usize::MAX);
    let end = saved(&whole, &path);
    for stop in 1..steps.len() {
        let mut first = trainer(&model, &text, options());
        run(&mut first, stop);
        saved(&first, &path);
        let mut second = trainer(&model, &text, options());
        second.restore(&path).unwrap();
        assert_eq!(run(&mut second, usize::MAX), steps[stop..]);
        assert_eq!(saved(&second, &path), end, "stopped after {stop}");
        assert_eq!(second.profile().unwrap(), whole.profile().unwrap());
    }
    let record = whole.profile().unwrap().training.unwrap();
    assert_eq!((record.kl_weight, record.sparsity), (2.0, 0.05));
    assert_eq!((record.kl.len(), record.text_batch_size), (8, Some(3)));

    let fewer = PlainText::new(text.pieces()[1..].to_vec(), 4).unwrap();
    for other in [other_order, fewer] {
        let mut other = trainer(&model, &other, options());
        let error = other.restore(&path).unwrap_err().to_string();
        assert!(error.contains("other plain text"), "{error}");
    }
    let cheaper = TrainOptions {
        kl_weight: 1.0,
        ..options()
    };
    let error = trainer(&model, &text, cheaper).restore(&path).unwrap_err();
    assert!(
        error.to_string().contains("`kl_weight` was 2.0 and is 1.0"),
        "{error}"
    );
}

#[test]
fn without_prices_text_changes_nothing_and_is_not_read() {
    let (model, text, folder) = (model(37), text(37, 4), tempfile::tempdir().unwrap());
    let path = folder.path().join("run.json");
    let free = TrainOptions {
        kl_weight: 0.0,
        sparsity: 0.0,
        ..options()
    };
    let heads: Vec<HeadId> = model.shape().heads().collect();
    let mut plain = Trainer::new(&model, &heads, free.clone()).unwrap();
    let steps = run(&mut plain, usize::MAX);
    assert!(steps.iter().all(|step| step.kl.is_none()));
    let rows: usize = model.seen().logits.iter().sum();
    let mut with_text = trainer(&model, &text, free);
    assert_eq!(run(&mut with_text, usize::MAX), steps);
    assert_eq!(model.seen().logits.iter().sum::<usize>(), rows);
    assert_eq!(saved(&with_text, &path), saved(&plain, &path));
    let profile = serde_json::to_string(&with_text.profile().unwrap()).unwrap();
    for absent in ["kl_weight", "sparsity", "\"kl\"", "\"text"] {
        assert!(!profile.contains(absent), "{absent}");
    }

    // A checkpoint of before there were prices.
    let mut old: serde_json::Value = serde_json::from_str(&saved(&plain, &path)).unwrap();
    for option in ["kl_weight", "text_batch_size", "sparsity"] {
        old["options"].as_object_mut().unwrap().remove(option);
    }
    for field in ["kl", "text"] {
        old.as_object_mut().unwrap().remove(field);
    }
    std::fs::write(&path, old.to_string()).unwrap();
    let old_options = TrainOptions {
        text_batch_size: TrainOptions::default().text_batch_size,
        kl_weight: 0.0,
        sparsity: 0.0,
        ..options()
    };
    let mut resumed = Trainer::new(&model, &heads, old_options).unwrap();
    resumed.restore(&path).unwrap();
    assert_eq!(resumed.steps_done(), 8);
}

#[test]
fn a_higher_price_of_divergence_leaves_less_of_it() {
    let (model, text) = (model(37), text(37, 1));
    let held_out = model.task().batch(6, 1000..1030).unwrap();
    let trained = |kl_weight| {
        let options = TrainOptions {
            steps: 40,
            kl_weight,
            sparsity: 0.0,
            text_batch_size: 7,
            ..options()
        };
        let mut trainer = trainer(&model, &text, options);
        run(&mut trainer, usize::MAX);
        let learned = trainer.coefficients();
        let loss = evaluate(&model, &held_out, Some(learned)).unwrap().loss;
        (text_divergence(&model, &text, learned, 7).unwrap(), loss)
    };
    let (free, some, much) = (trained(0.0), trained(3.0), trained(300.0));
    assert!(
        free.0 > 2.0 * some.0 && some.0 > 2.0 * much.0,
        "{free:?} {some:?} {much:?}"
    );
    assert!(
        free.1 < some.1 && some.1 < much.1,
        "{free:?} {some:?} {much:?}"
    );
}

#[test]
fn a_price_of_distance_leaves_coefficients_on_exactly_one_and_out_of_the_profile() {
    let (model, text) = (model(37), text(37, 1));
    let trained = |sparsity| {
        let options = TrainOptions {
            steps: 40,
            sparsity,
            ..options()
        };
        let mut trainer = trainer(&model, &text, options);
        let steps = run(&mut trainer, usize::MAX);
        let values = trainer.coefficients().values();
        let at_one = values.iter().filter(|value| **value == 1.0).count();
        let last = steps.last().unwrap();
        assert_eq!((last.at_one, &last.coefficients), (at_one, &values));
        let listed = trainer.profile().unwrap().coefficients;
        if sparsity > 0.0 {
            assert_eq!(listed.len(), 18 - at_one);
            assert!(listed.iter().all(|c| c.value != 1.0));
        } else {
            assert_eq!(listed.len(), 18);
        }
        at_one
    };
    let counts = [0.0, 0.1, 0.3, 1e3].map(trained);
    assert_eq!((counts[0], counts[3]), (0, 18), "{counts:?}");
    assert!(
        0 < counts[1] && counts[1] < counts[2] && counts[2] < 18,
        "{counts:?}"
    );
}

#[test]
fn copies_share_the_pieces_and_learn_what_one_model_learns() {
    let (one, two, text) = (model(37), model(37), text(37, 2));
    let mut alone = trainer(&one, &text, options());
    run(&mut alone, usize::MAX);
    one.seen();
    let mut shared = trainer(&one, &text, options()).with_copies([&two]);
    run(&mut shared, usize::MAX);
    assert!(!two.seen().logits.is_empty());
    for (a, b) in alone.kl().iter().zip(shared.kl()) {
        assert!((a - b).abs() < 1e-6, "{a} {b}");
    }
    let pairs = alone.coefficients().values();
    for (a, b) in pairs.iter().zip(shared.coefficients().values()) {
        assert!((a - b).abs() < 1e-4, "{a} {b}");
    }
}

#[test]
fn text_that_is_missing_or_that_the_model_cannot_read_is_refused() {
    let model = model(37);
    let heads = [HeadId::new(0, 0)];
    let mut trainer = Trainer::new(&model, &heads, options()).unwrap();
    let error = trainer
        .step(&model.task().batch(6, 0..3).unwrap())
        .unwrap_err();
    assert!(
        error.to_string().contains("`kl_weight` is 2: expected 0"),
        "{error}"
    );
    let unknown = PlainText::new(vec![vec![1, 37]], 0).unwrap();
    let error = trainer.with_text(unknown).unwrap_err().to_string();
    assert!(error.contains("37"), "{error}");
    for (options, named) in [
        (
            TrainOptions {
                kl_weight: -1.0,
                ..options()
            },
            "`kl_weight`",
        ),
        (
            TrainOptions {
                sparsity: f64::NAN,
                ..options()
            },
            "`sparsity`",
        ),
        (
            TrainOptions {
                text_batch_size: 0,
                ..options()
            },
            "`text_batch_size`",
        ),
    ] {
        let error = Trainer::new(&model, &heads, options).unwrap_err();
        assert!(error.to_string().contains(named), "{error}");
    }
}
