//! The Fisher matrix against the divergence that it approximates, and the step that it leads to.

mod common;

use common::{HEAD_DIM, Small};
use pear_core::position::{PositionEmbeddingConfig, RotaryConfig};
use pear_core::{DecoderModel, HeadCoefficients, HeadId};
use pear_train::{
    Error, Fisher, PlainText, evaluate, fisher, gradient_scores, natural_step, text_divergence,
};

fn model() -> Small {
    let rotary = PositionEmbeddingConfig::Rotary(RotaryConfig::new(HEAD_DIM, 10_000.0));
    Small::new(2, 4, 2, 37, rotary)
}

fn text() -> PlainText {
    let piece = |index: u32, length: u32| -> Vec<u32> {
        (0..length)
            .map(|place| (index * 11 + place * place * 7 + place * 3) % 37)
            .collect()
    };
    // Of two lengths.
    PlainText::new((0..12).map(|i| piece(i, 20 + 10 * (i % 2))).collect(), 0).unwrap()
}

fn divergence(model: &Small, heads: &[HeadId], text: &PlainText, delta: &[f64]) -> f64 {
    let moved: Vec<(HeadId, f32)> = heads
        .iter()
        .zip(delta)
        .map(|(&head, d)| (head, 1.0 + *d as f32))
        .collect();
    let moved = HeadCoefficients::new(&moved, &model.shape(), &model.device()).unwrap();
    text_divergence(model, text, &moved, 12).unwrap()
}

fn estimate(model: &Small, heads: &[HeadId], draws: usize) -> Fisher {
    fisher(model, heads, &text(), draws, 1, 16).unwrap()
}

#[test]
fn small_changes_diverge_as_the_quadratic_form_says() {
    let (model, text) = (model(), text());
    let heads: Vec<HeadId> = model.shape().heads().collect();
    let fisher = estimate(&model, &heads, 40);
    assert_eq!(fisher.samples(), 12 * 40);
    let directions: Vec<Vec<f64>> = (0..8)
        .map(|i| {
            (0..8)
                .map(|j| ((i * 8 + j * j * 5 + 3 * i * j) as f64).sin())
                .collect()
        })
        .collect();
    for direction in directions {
        // The mean of both signs: what is odd in δ cancels.
        let at = |size: f64| {
            let delta: Vec<f64> = direction.iter().map(|d| size * d).collect();
            divergence(&model, &heads, &text, &delta)
        };
        let measured = (at(0.03) + at(-0.03)) / 2.0;
        let delta: Vec<f64> = direction.iter().map(|d| 0.03 * d).collect();
        let predicted = fisher.divergence(&delta);
        assert!(measured > 1e-5, "nothing changes: {measured}");
        // √(2 / 480) is 6.5 % for one standard error.
        assert!(
            (predicted / measured - 1.0).abs() < 0.25,
            "{predicted:e} and {measured:e}"
        );
    }
}

#[test]
fn the_matrix_is_symmetric_and_follows_the_order_of_its_heads() {
    let model = model();
    let heads = [HeadId::new(0, 1), HeadId::new(1, 3), HeadId::new(1, 0)];
    let forward = estimate(&model, &heads, 2);
    let size = heads.len();
    for (row, column) in [(0, 1), (0, 2), (1, 2)] {
        let [one, other] =
            [(row, column), (column, row)].map(|(r, c)| forward.matrix()[r * size + c]);
        assert_eq!(one, other);
    }
    let backward: Vec<HeadId> = heads.iter().rev().copied().collect();
    let backward = estimate(&model, &backward, 2);
    let reversed: Vec<f64> = backward.matrix().iter().rev().copied().collect();
    assert_eq!(forward.matrix(), reversed);
    let [one, other] = [
        forward.divergence(&[0.1, -0.2, 0.3]),
        backward.divergence(&[0.3, -0.2, 0.1]),
    ];
    // Sums in another order.
    assert!((one / other - 1.0).abs() < 1e-12, "{one} and {other}");
}

#[test]
fn draws_do_not_depend_on_what_runs_together() {
    let (model, text) = (model(), text());
    let heads: Vec<HeadId> = model.shape().heads().collect();
    let together = fisher(&model, &heads, &text, 3, 1, 100).unwrap();
    let alone = fisher(&model, &heads, &text, 3, 1, 1).unwrap();
    let largest = together
        .matrix()
        .iter()
        .fold(0f64, |max, x| max.max(x.abs()));
    for (a, b) in together.matrix().iter().zip(alone.matrix()) {
        assert!((a - b).abs() < 1e-4 * largest, "{a} and {b}");
    }
    let other = fisher(&model, &heads, &text, 3, 2, 100).unwrap();
    assert_ne!(together.matrix(), other.matrix());
}

#[test]
fn a_natural_step_costs_what_was_asked_and_gains_more_than_the_plain_gradient() {
    let (model, text) = (model(), text());
    let heads: Vec<HeadId> = model.shape().heads().collect();
    let fisher = estimate(&model, &heads, 40);
    let batch = model.task().batch(8, 0..60).unwrap();
    let scores = gradient_scores(&model, &heads, &batch, 20).unwrap();
    let gradient: Vec<f64> = scores.iter().map(|score| score.gradient).collect();
    let kl = 1e-3;
    let natural = natural_step(&fisher, &gradient, 0.01, kl).unwrap();
    assert!((fisher.divergence(&natural) - kl).abs() < 1e-12);
    let measured = divergence(&model, &heads, &text, &natural);
    assert!((measured / kl - 1.0).abs() < 0.4, "{measured}");

    let size = (kl / fisher.divergence(&gradient)).sqrt();
    let plain: Vec<f64> = gradient.iter().map(|g| -size * g).collect();
    let gain = |delta: &[f64]| -gradient.iter().zip(delta).map(|(g, d)| g * d).sum::<f64>();
    assert!(gain(&natural) > gain(&plain) && gain(&plain) > 0.0);
    let loss = |delta: &[f64]| {
        let moved = heads
            .iter()
            .zip(delta)
            .map(|(&head, d)| (head, 1.0 + *d as f32));
        let moved: Vec<_> = moved.collect();
        let moved = HeadCoefficients::new(&moved, &model.shape(), &model.device()).unwrap();
        evaluate(&model, &batch, Some(&moved)).unwrap().loss
    };
    let before = loss(&[0.0; 8]);
    assert!(loss(&natural) < before, "{} {before}", loss(&natural));
    assert!(
        loss(&natural) < loss(&plain),
        "{} {}",
        loss(&natural),
        loss(&plain)
    );
}

#[test]
fn what_cannot_be_estimated_or_inverted_is_refused() {
    let (model, text) = (model(), text());
    let heads: Vec<HeadId> = model.shape().heads().collect();
    assert!(fisher(&model, &heads, &text, 0, 1, 4).is_err());
    assert!(fisher(&model, &[HeadId::new(9, 9)], &text, 1, 1, 4).is_err());

    let few = PlainText::new(text.pieces()[..2].to_vec(), 0).unwrap();
    let few = fisher(&model, &heads, &few, 2, 1, 4).unwrap();
    let gradient = [1.0; 8];
    let error = natural_step(&few, &gradient, 0.0, 0.01).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Fisher {
                heads: 8,
                samples: 4
            }
        ),
        "{error}"
    );
    assert!(natural_step(&few, &gradient, 0.1, 0.01).is_ok());
    for (gradient, ridge, kl, named) in [
        (&gradient[..7], 0.1, 0.01, "7 numbers"),
        (&[0.0; 8][..], 0.1, 0.01, "not all 0"),
        (&gradient[..], -0.1, 0.01, "`ridge`"),
        (&gradient[..], 0.1, 0.0, "`kl`"),
        (&gradient[..], 0.1, f64::NAN, "`kl`"),
    ] {
        let error = natural_step(&few, gradient, ridge, kl).unwrap_err();
        assert!(error.to_string().contains(named), "{error}");
    }
}

#[test]
fn a_matrix_comes_back_from_a_file_as_it_was() {
    let heads = [HeadId::new(1, 3), HeadId::new(0, 1)];
    let fisher = estimate(&model(), &heads, 2);
    let mut json = serde_json::json!(fisher);
    let text = json.to_string();
    assert_eq!(serde_json::from_str::<Fisher>(&text).unwrap(), fisher);
    json["matrix"][1] = 7.0.into();
    let error = serde_json::from_value::<Fisher>(json.clone()).unwrap_err();
    assert!(error.to_string().contains("not symmetric"), "{error}");
    json["matrix"] = serde_json::json!([1.0]);
    let error = serde_json::from_value::<Fisher>(json).unwrap_err();
    assert!(error.to_string().contains("expected 4"), "{error}");
}
