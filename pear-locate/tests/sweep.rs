//! The fast sweep against the definition run literally.

mod common;

use burn::module::Module;
use burn::tensor::DType;
use common::{Copier, TestDecoder, To, VOCAB, models, plain};
use pear_core::position::PositionEmbeddingConfig;
use pear_core::proxy::ProxyBatch;
use pear_core::{AttentionConfig, DecoderModel, HeadId, ProxyTask};
use pear_locate::{
    Ablation, LocateOptions, Metric, Mode, PatchedLogits, naive, patched_logits, patched_logits_of,
};

const MODES: [Mode; 2] = [Mode::Activation, Mode::Path];
const ABLATIONS: [Ablation; 3] = [Ablation::SequenceMean, Ablation::BatchMean, Ablation::Zero];

fn batch(n: usize, samples: usize, bos: Option<u32>) -> ProxyBatch {
    ProxyTask::new(VOCAB, &[0], 5)
        .unwrap()
        .with_bos(bos)
        .batch(n, 0..samples)
        .unwrap()
}

fn numbers(logits: &PatchedLogits) -> Vec<f32> {
    let mut numbers: Vec<f32> = logits
        .patched_logits
        .iter()
        .flatten()
        .flatten()
        .chain(&logits.base_logits)
        .copied()
        .collect();
    if let Some(normalizers) = &logits.normalizers {
        numbers.extend(
            normalizers
                .patched
                .iter()
                .flatten()
                .flatten()
                .chain(&normalizers.base),
        );
    }
    numbers
}

/// The largest difference relative to the largest number.
fn distance(a: &PatchedLogits, b: &PatchedLogits) -> f32 {
    let (a, b) = (numbers(a), numbers(b));
    assert_eq!(a.len(), b.len());
    let largest = b.iter().fold(0f32, |largest, x| largest.max(x.abs()));
    a.iter()
        .zip(&b)
        .fold(0f32, |worst, (a, b)| worst.max((a - b).abs()))
        / largest
}

/// How much the heads matter, on the same scale.
fn effect(logits: &PatchedLogits) -> f32 {
    let largest = numbers(logits)
        .iter()
        .fold(0f32, |largest, x| largest.max(x.abs()));
    let changes = logits
        .patched_logits
        .iter()
        .flatten()
        .flat_map(|head| head.iter().zip(&logits.base_logits));
    changes.fold(0f32, |most, (patched, base)| {
        most.max((patched - base).abs())
    }) / largest
}

fn fast<M: DecoderModel>(model: &M, batch: &ProxyBatch, options: &LocateOptions) -> PatchedLogits {
    patched_logits(model, batch, options).unwrap()
}

#[test]
fn the_fast_sweep_equals_the_naive_one_for_every_model_mode_and_ablation() {
    let mut worst = 0f32;
    for (name, model) in models() {
        for bos in [None, Some(0)] {
            let batch = batch(6, 3, bos);
            for mode in MODES {
                for ablation in ABLATIONS {
                    let options = LocateOptions {
                        mode,
                        ablation,
                        ..LocateOptions::default()
                    };
                    let (ours, naive) = (
                        fast(&model, &batch, &options),
                        naive::patched_logits(&model, &batch, &options).unwrap(),
                    );
                    let distance = distance(&ours, &naive);
                    assert!(
                        distance < 1e-5,
                        "{name}, {options:?}, bos {bos:?}: {distance}"
                    );
                    assert!(
                        effect(&naive) > 0.01,
                        "{name}, {options:?}: heads do nothing, so that nothing is tested"
                    );
                    worst = worst.max(distance);
                }
            }
        }
    }
    println!("largest difference: {worst:e} of the largest logit");
}

#[test]
fn every_head_of_a_model_with_fourteen_query_and_two_key_value_heads_is_exact() {
    let config = AttentionConfig {
        head_dim: 4,
        ..AttentionConfig::new(12, 14)
    }
    .with_num_key_value_heads(2);
    let model = TestDecoder::new(4, config, false);
    let batch = batch(5, 4, None);
    for mode in MODES {
        let options = LocateOptions {
            mode,
            ..LocateOptions::default()
        };
        let (ours, naive) = (
            fast(&model, &batch, &options),
            naive::patched_logits(&model, &batch, &options).unwrap(),
        );
        let largest = numbers(&naive)
            .iter()
            .fold(0f32, |largest, x| largest.max(x.abs()));
        for (layer, heads) in naive.patched_logits.iter().enumerate() {
            assert_eq!(heads.len(), 14);
            for (head, samples) in heads.iter().enumerate() {
                for (sample, expected) in samples.iter().enumerate() {
                    let found = ours.patched_logits[layer][head][sample];
                    assert!(
                        (found - expected).abs() < 1e-5 * largest,
                        "{layer}.{head}, {sample}: {found}, not {expected}"
                    );
                }
            }
        }
    }
}

#[test]
fn what_metrics_subtract_is_the_same_for_both_sweeps() {
    let model = TestDecoder::new(2, plain(), false);
    let batch = batch(6, 3, None);
    for metric in [Metric::CentredLogitDiff, Metric::LogProbDiff] {
        let options = LocateOptions {
            metric,
            ..LocateOptions::default()
        };
        let (ours, naive) = (
            fast(&model, &batch, &options),
            naive::patched_logits(&model, &batch, &options).unwrap(),
        );
        assert!(ours.normalizers.is_some());
        assert!(distance(&ours, &naive) < 1e-5);
        assert!((ours.cross_entropy - naive.cross_entropy).abs() < 1e-5);
        assert_eq!(ours.accuracy, naive.accuracy);
    }
}

#[test]
fn a_tiny_memory_budget_changes_nothing() {
    let model = TestDecoder::new(3, plain().with_num_key_value_heads(3), false);
    let batch = batch(4, 7, Some(0));
    for mode in MODES {
        for ablation in ABLATIONS {
            for metric in [Metric::LogitRatio, Metric::LogProbDiff] {
                let ample = LocateOptions {
                    mode,
                    ablation,
                    metric,
                    ..LocateOptions::default()
                };
                let whole = fast(&model, &batch, &ample);
                // One sequence at a time, and a few; logits of one position at a time, and of a few.
                for memory_budget in [0, 100_000] {
                    let scarce = fast(
                        &model,
                        &batch,
                        &LocateOptions {
                            memory_budget,
                            ..ample.clone()
                        },
                    );
                    assert!(
                        distance(&scarce, &whole) < 1e-5,
                        "{mode} {ablation} {metric} {memory_budget}"
                    );
                    assert_eq!(scarce.accuracy, whole.accuracy);
                    assert!((scarce.cross_entropy - whole.cross_entropy).abs() < 1e-5);
                }
            }
        }
    }
}

#[test]
fn path_patching_differs_from_activation_patching_below_the_last_layer_only() {
    let model = TestDecoder::new(3, plain(), false);
    let batch = batch(6, 3, None);
    let sweep = |mode| {
        fast(
            &model,
            &batch,
            &LocateOptions {
                mode,
                ..LocateOptions::default()
            },
        )
        .patched_logits
    };
    let (activation, path) = (sweep(Mode::Activation), sweep(Mode::Path));
    let apart = |layer: usize| {
        let pairs = activation[layer]
            .iter()
            .flatten()
            .zip(path[layer].iter().flatten());
        pairs.fold(0f32, |most, (a, b)| most.max((a - b).abs()))
    };
    assert!(
        apart(0) > 0.1 && apart(1) > 0.1,
        "{} {}",
        apart(0),
        apart(1)
    );
    assert!(apart(2) < 1e-4, "{}", apart(2));
}

#[test]
fn sequences_do_not_see_each_other_unless_a_batch_mean_is_taken() {
    let model = TestDecoder::new(2, plain(), false);
    let batch = batch(5, 4, None);
    let alone =
        |options: &LocateOptions| fast(&model, &batch.slice(2..3), options).patched_logits[0][1][0];
    let among = |options: &LocateOptions| fast(&model, &batch, options).patched_logits[0][1][2];
    let options = |ablation| LocateOptions {
        ablation,
        ..LocateOptions::default()
    };
    for ablation in [Ablation::SequenceMean, Ablation::Zero] {
        assert!((alone(&options(ablation)) - among(&options(ablation))).abs() < 1e-4);
    }
    assert!(
        (alone(&options(Ablation::BatchMean)) - among(&options(Ablation::BatchMean))).abs() > 0.01
    );
}

#[test]
fn attention_of_ones_own_is_swept_as_exactly() {
    let model = Copier::new(6, &[&[2.0, 0.5, -0.25], &[0.125, -1.0, 1.0]], false);
    let batch = batch(6, 4, None);
    for mode in MODES {
        for ablation in ABLATIONS {
            let options = LocateOptions {
                mode,
                ablation,
                ..LocateOptions::default()
            };
            let naive = naive::patched_logits(&model, &batch, &options).unwrap();
            assert!(
                distance(&fast(&model, &batch, &options), &naive) < 1e-5,
                "{mode} {ablation}"
            );
        }
    }
}

#[test]
fn a_model_in_half_precision_is_swept_as_exactly_as_its_dtype_allows() {
    let alibi = PositionEmbeddingConfig::Alibi {
        num_heads: 6,
        max_bias: 8.0,
    };
    let model = TestDecoder::new(
        2,
        plain()
            .with_num_key_value_heads(2)
            .with_position_embedding(alibi),
        false,
    );
    let batch = batch(6, 3, None);
    for (dtype, tolerance) in [(DType::F16, 0.01), (DType::BF16, 0.06)] {
        let half = model.clone().map(&mut To(dtype));
        for mode in MODES {
            for ablation in ABLATIONS {
                let options = LocateOptions {
                    mode,
                    ablation,
                    ..LocateOptions::default()
                };
                let exact = fast(&model, &batch, &options);
                let distance = distance(&fast(&half, &batch, &options), &exact);
                assert!(
                    distance < tolerance,
                    "{dtype:?} {mode} {ablation}: {distance}"
                );
            }
        }
    }
}

#[test]
fn a_selection_of_heads_is_replaced_as_if_all_were() {
    let heads: Vec<HeadId> = [(2, 5), (0, 4), (2, 0), (0, 1)]
        .map(|(layer, head)| HeadId::new(layer, head))
        .to_vec();
    for (name, model) in models() {
        let batch = batch(6, 3, None);
        for mode in MODES {
            for ablation in ABLATIONS {
                for metric in [Metric::LogitRatio, Metric::LogProbDiff] {
                    let options = LocateOptions {
                        mode,
                        ablation,
                        metric,
                        ..LocateOptions::default()
                    };
                    let some = patched_logits_of(&model, &heads, &batch, &options).unwrap();
                    let naive = naive::patched_logits_of(&model, &heads, &batch, &options).unwrap();
                    assert!(distance(&some, &naive) < 1e-5, "{name}, {options:?}");
                    let all = fast(&model, &batch, &options);
                    let counts: Vec<usize> = some.patched_logits.iter().map(Vec::len).collect();
                    assert_eq!(counts, [6, 0, 6]);
                    for head in all_heads(&model) {
                        let found = some.patched_logits[head.layer].get(head.head);
                        if !heads.contains(&head) {
                            assert!(found.is_none_or(Vec::is_empty));
                            continue;
                        }
                        let expected = &all.patched_logits[head.layer][head.head];
                        for (a, b) in found.unwrap().iter().zip(expected) {
                            assert!((a - b).abs() < 1e-4, "{name}, {options:?}, {head}");
                        }
                    }
                }
            }
        }
    }
}

fn all_heads<M: DecoderModel>(model: &M) -> Vec<HeadId> {
    model.shape().heads().collect()
}

#[test]
fn heads_that_a_model_does_not_have_are_refused() {
    let model = TestDecoder::new(2, plain(), false);
    let options = LocateOptions::default();
    let refused = |heads: &[HeadId]| {
        let sweep = patched_logits_of(&model, heads, &batch(6, 3, None), &options);
        sweep.unwrap_err().to_string()
    };
    assert!(refused(&[HeadId::new(2, 0)]).contains("2.0"));
    assert!(refused(&[HeadId::new(1, 0), HeadId::new(1, 0)]).contains("1.0"));
}
