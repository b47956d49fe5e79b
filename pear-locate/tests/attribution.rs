//! The first-order estimate against what replacing a head really does.

mod common;

use burn::prelude::*;
use common::{Copier, VOCAB, models};
use pear_core::edit::CaptureHeads;
use pear_core::forward::residual;
use pear_core::proxy::ProxyBatch;
use pear_core::{DecoderModel, HeadId, LayerRange, ProxyTask};
use pear_locate::{
    Ablation, Error, LocateOptions, Method, Metric, Mode, PatchedLogits, locate, patched_logits,
    rank_correlation,
};

fn batch(n: usize, samples: usize) -> ProxyBatch {
    ProxyTask::new(VOCAB, &[0], 5)
        .unwrap()
        .batch(n, 0..samples)
        .unwrap()
}

fn run<M: DecoderModel>(model: &M, batch: &ProxyBatch, options: &LocateOptions) -> PatchedLogits {
    patched_logits(model, batch, options).unwrap()
}

/// Logits of the right token when `head`'s output at the probe is multiplied by `factor`, from a whole forward pass; the other heads
/// as in the clean run in path mode.
fn scaled<M: DecoderModel>(
    model: &M,
    batch: &ProxyBatch,
    mode: Mode,
    head: HeadId,
    factor: f64,
) -> Vec<f64> {
    let tokens = batch.tokens(&model.device());
    let mut normal = CaptureHeads::default();
    residual(model, tokens.clone(), &mut normal).unwrap();
    let mut edit = |layer: usize, heads: Tensor<4>| {
        let heads = if mode == Mode::Path {
            normal.outputs[layer].clone()
        } else {
            heads
        };
        if layer != head.layer {
            return heads;
        }
        let [samples, _, _, head_dim] = heads.dims();
        let place = [
            0..samples,
            head.head..head.head + 1,
            batch.patch_position()..batch.patch_position() + 1,
            0..head_dim,
        ];
        let output = heads.clone().slice(place.clone()) * factor;
        heads.slice_assign(place, output)
    };
    let last = residual(model, tokens, &mut edit).unwrap();
    let logits = model.logits(last.narrow(1, batch.patch_position(), 1));
    let vocab = logits.dims()[2];
    let logits: Vec<f32> = logits.into_data().iter::<f32>().collect();
    batch
        .targets()
        .enumerate()
        .map(|(sample, target)| f64::from(logits[sample * vocab + target as usize]))
        .collect()
}

#[test]
fn the_estimate_is_the_derivative_by_finite_differences() {
    const STEP: f64 = 0.01;
    for (name, model) in models() {
        let batch = batch(5, 2);
        for mode in [Mode::Activation, Mode::Path] {
            let options = LocateOptions {
                mode,
                ablation: Ablation::Zero,
                method: Method::Attribution,
                ..LocateOptions::default()
            };
            let estimated = run(&model, &batch, &options);
            // Some heads of every layer: each costs two whole runs.
            for head in model
                .shape()
                .heads()
                .filter(|head| head.head == head.layer % model.shape().num_heads)
            {
                // Replacing by zero is a step of −1 in the factor.
                let [up, down] = [1.0 + STEP, 1.0 - STEP]
                    .map(|factor| scaled(&model, &batch, mode, head, factor));
                for sample in 0..batch.len() {
                    let right = -(up[sample] - down[sample]) / (2.0 * STEP);
                    let patched = estimated.patched_logits[head.layer][head.head][sample];
                    let found = f64::from(patched - estimated.base_logits[sample]);
                    assert!(
                        (found - right).abs() < 0.01 * right.abs().max(0.5),
                        "{name}, {mode}, {head}: {found}, not {right}"
                    );
                }
            }
        }
    }
}

#[test]
fn where_logits_are_linear_in_the_heads_the_estimate_is_exact() {
    // Copies and nothing else: no norm, no MLP, and with path patching no attention either.
    let model = Copier::new(
        8,
        &[&[0.5, 0.25, 0.125, 0.0], &[3.0, 0.5, -2.0, 0.125]],
        false,
    );
    for metric in [Metric::LogitDiff, Metric::CentredLogitDiff] {
        let options = LocateOptions {
            mode: Mode::Path,
            ablation: Ablation::Zero,
            metric,
            ..LocateOptions::default()
        };
        let exact = locate(&model, &[batch(8, 6)], &options).unwrap().scores;
        let options = LocateOptions {
            method: Method::Attribution,
            ..options
        };
        let estimated = locate(&model, &[batch(8, 6)], &options).unwrap().scores;
        for (exact, estimated) in exact
            .grid()
            .iter()
            .flatten()
            .zip(estimated.grid().iter().flatten())
        {
            assert!(
                (exact - estimated).abs() < 1e-4,
                "{metric}: {estimated}, not {exact}"
            );
        }
        assert!(exact.heads()[0].score > 1.0);
    }
}

#[test]
fn scores_of_some_layers_or_little_memory_are_those_of_all() {
    for (name, model) in models().into_iter().take(2) {
        let batch = batch(5, 4);
        let layers = model.shape().num_layers;
        for (method, metric) in [
            (Method::Attribution, Metric::LogProbDiff),
            (Method::Exact, Metric::LogitDiff),
        ] {
            let options = LocateOptions {
                method,
                metric,
                ..LocateOptions::default()
            };
            let whole = run(&model, &batch, &options);
            let scarce = run(
                &model,
                &batch,
                &LocateOptions {
                    memory_budget: 1,
                    ..options.clone()
                },
            );
            let upper = LayerRange {
                first: 1,
                last: layers - 1,
            };
            let part = run(
                &model,
                &batch,
                &LocateOptions {
                    layers: Some(upper),
                    ..options.clone()
                },
            );
            assert!(part.patched_logits[0].is_empty(), "{name}");
            for other in [&scarce, &part] {
                for layer in 1..layers {
                    let pairs = whole.patched_logits[layer]
                        .iter()
                        .flatten()
                        .zip(other.patched_logits[layer].iter().flatten());
                    let worst = pairs.fold(0f32, |worst, (a, b)| worst.max((a - b).abs()));
                    assert!(worst < 1e-3, "{name}, {method}, layer {layer}: {worst}");
                }
            }
        }
    }
}

#[test]
fn ranks_are_compared() {
    let model = Copier::new(
        8,
        &[&[0.5, 0.25, 0.125, 0.0], &[3.0, 0.5, -2.0, 0.125]],
        false,
    );
    let options = LocateOptions {
        metric: Metric::LogitDiff,
        ablation: Ablation::Zero,
        ..LocateOptions::default()
    };
    let located = |options: &LocateOptions| locate(&model, &[batch(8, 6)], options).unwrap().scores;
    let exact = located(&options);
    let estimated = located(&LocateOptions {
        method: Method::Attribution,
        ..options.clone()
    });
    assert!((rank_correlation(&exact, &exact).unwrap() - 1.0).abs() < 1e-12);
    let correlation = rank_correlation(&exact, &estimated).unwrap();
    assert!(correlation > 0.9, "{correlation}");
    let top = located(&LocateOptions {
        layers: Some(LayerRange { first: 1, last: 1 }),
        ..options
    });
    assert_eq!(rank_correlation(&exact, &top), None);
}

#[test]
fn scores_by_gradient_come_from_elsewhere() {
    let (_, model) = models().swap_remove(0);
    let options = LocateOptions {
        method: Method::Gradient,
        ..LocateOptions::default()
    };
    let error = locate(&model, &[batch(6, 2)], &options).unwrap_err();
    assert!(matches!(error, Error::NotReplacing), "{error}");
}
