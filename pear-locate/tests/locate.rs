//! Scores, warnings and errors.

mod common;

use std::ops::ControlFlow;

use burn::module::Module;
use common::{Copier, TestDecoder, VOCAB, plain};
use pear_core::position::PositionEmbeddingConfig;
use pear_core::proxy::ProxyBatch;
use pear_core::{DecoderModel, HeadId, NoEdit, ProxyTask, forward};
use pear_locate::{
    Ablation, Error, Event, LocateOptions, Locator, Metric, Mode, Normalizers, PatchedLogits,
    Progress, Warning, locate, metric, patched_logits, proxy_batches,
};

fn task() -> ProxyTask {
    ProxyTask::new(VOCAB, &[0], 5).unwrap()
}

fn batches(lengths: &[(usize, usize)]) -> Vec<ProxyBatch> {
    proxy_batches(&task(), lengths).unwrap()
}

/// Copies well, but for head 1.2, which takes back part of it.
fn with_suppression() -> Copier {
    Copier::new(
        8,
        &[&[0.5, 0.25, 0.125, 0.0], &[3.0, 0.5, -2.0, 0.125]],
        false,
    )
}

#[test]
fn a_planted_suppression_head_is_found_first() {
    let model = with_suppression();
    for mode in [Mode::Activation, Mode::Path] {
        for ablation in [Ablation::SequenceMean, Ablation::BatchMean, Ablation::Zero] {
            for metric in [
                Metric::LogitRatio,
                Metric::LogitDiff,
                Metric::CentredLogitDiff,
                Metric::LogProbDiff,
            ] {
                let options = LocateOptions {
                    mode,
                    ablation,
                    metric,
                    ..LocateOptions::default()
                };
                let report = locate(&model, &batches(&[(8, 6)]), &options).unwrap();
                let heads = report.scores.heads();
                assert_eq!(heads[0].head, HeadId::new(1, 2), "{options:?}");
                assert!(
                    heads[0].score > 0.0 && heads[1].score <= 1e-6,
                    "{options:?}: {heads:?}"
                );
                assert_eq!(heads.last().unwrap().head, HeadId::new(1, 0), "{options:?}");
                assert_eq!(report.scores.by_length[0].accuracy, 1.0);
                assert_eq!(report.warnings().count(), 0, "{options:?}");
            }
        }
    }
}

#[test]
fn the_score_of_a_planted_head_is_the_one_computed_by_hand() {
    // Every copy counts fully: π = 0.5 + 0.25 + 0.125 + 3 + 0.5 − 2 + 0.125 = 2.5, and 4.5 without the suppressing head.
    let options = LocateOptions {
        ablation: Ablation::Zero,
        ..LocateOptions::default()
    };
    let report = locate(&with_suppression(), &batches(&[(8, 6)]), &options).unwrap();
    assert!(
        (report.scores.by_length[0].base_logit - 2.5).abs() < 1e-5,
        "{}",
        report.scores.by_length[0].base_logit
    );
    assert!((report.scores.heads()[0].score - (4.5 / 2.5 - 1.0)).abs() < 1e-5);
}

/// Two samples, one layer of two heads, numbers chosen so that every metric ranks or measures differently.
fn logits(base: [f32; 2], normalizers: bool) -> PatchedLogits {
    PatchedLogits {
        n: 10,
        base_logits: base.into(),
        patched_logits: vec![vec![vec![3.0, 5.0], vec![1.0, 4.0]]],
        normalizers: normalizers.then(|| Normalizers {
            base: vec![0.5, 1.5],
            patched: vec![vec![vec![1.0, 2.0], vec![-1.0, 0.0]]],
        }),
        accuracy: 0.9,
        cross_entropy: 0.1,
    }
}

#[test]
fn metrics_agree_with_hand_computed_numbers() {
    let close = |metric, normalizers, expected: [f64; 2]| {
        let scores = metric::scores(metric, &logits([2.0, 3.0], normalizers)).unwrap();
        assert!(
            scores[0]
                .iter()
                .zip(expected)
                .all(|(a, b)| (a - b).abs() < 1e-9),
            "{metric}: {scores:?}"
        );
    };
    // mean π = 2.5; mean π̃ = 4 and 2.5.
    close(Metric::LogitRatio, false, [4.0 / 2.5 - 1.0, 0.0]);
    close(Metric::LogitDiff, false, [1.5, 0.0]);
    // Normalizers move by 0.5 and by −1.5 on average.
    close(Metric::CentredLogitDiff, true, [1.0, 1.5]);
    close(Metric::LogProbDiff, true, [1.0, 1.5]);
    // The ratio of the means, not the mean of the ratios (which would be 1.5 / 2 = 0.75 and more).
    let scores = metric::scores(Metric::LogitRatio, &logits([1.0, 7.0], false)).unwrap();
    assert!((scores[0][0] - 0.0).abs() < 1e-9);
}

#[test]
fn a_ratio_to_a_vanishing_mean_logit_is_an_error_and_other_metrics_are_not() {
    let logits = logits([2.0, -2.0], false);
    let error = metric::scores(Metric::LogitRatio, &logits).unwrap_err();
    assert!(
        matches!(error, Error::RatioUndefined { n: 10, .. }),
        "{error}"
    );
    assert_eq!(
        metric::scores(Metric::LogitDiff, &logits).unwrap(),
        [[4.0, 2.5]]
    );
}

#[test]
fn small_and_negative_mean_logits_are_warned_of_for_ratios_only() {
    let kinds = |base, metric| Warning::of(metric, &logits(base, false));
    assert_eq!(
        kinds([-2.0, -3.0], Metric::LogitRatio),
        [Warning::NegativeBaseLogit {
            n: 10,
            base_logit: -2.5
        }]
    );
    assert_eq!(
        kinds([0.25, 0.75], Metric::LogitRatio),
        [Warning::SmallBaseLogit {
            n: 10,
            base_logit: 0.5
        }]
    );
    assert_eq!(kinds([2.0, 3.0], Metric::LogitRatio), []);
    assert_eq!(kinds([-2.0, -3.0], Metric::LogitDiff), []);
}

#[test]
fn a_hopeless_model_is_warned_of() {
    let model = TestDecoder::new(2, plain(), false);
    let options = LocateOptions {
        metric: Metric::LogitDiff,
        ..LocateOptions::default()
    };
    let report = locate(&model, &batches(&[(10, 5), (6, 5)]), &options).unwrap();
    let warnings: Vec<_> = report.warnings().collect();
    assert!(
        matches!(
            warnings[..],
            [
                Warning::NearChance { n: 10, .. },
                Warning::NearChance { n: 6, .. }
            ]
        ),
        "{warnings:?}"
    );
    assert!(
        warnings[0]
            .to_string()
            .starts_with("n = 10: the model predicts"),
        "{}",
        warnings[0]
    );
}

#[test]
fn accuracy_and_cross_entropy_are_means_over_the_second_half_without_its_first_token() {
    let decoder = TestDecoder::new(2, plain(), false);
    let batch = task().with_bos(Some(0)).batch(7, 0..5).unwrap();
    let found = patched_logits(&decoder, &batch, &LocateOptions::default()).unwrap();

    let logits = forward::logits(&decoder, batch.tokens(&decoder.device()), &mut NoEdit).unwrap();
    let logits: Vec<f64> = logits.into_data().iter::<f64>().collect();
    let (mut hits, mut entropy, mut count) = (0.0, 0.0, 0.0);
    for (sample, tokens) in batch.sequences().iter().enumerate() {
        // With a BOS, n ≤ i < 2n − 1 becomes n + 1 ≤ i < 2n.
        for i in 8..14 {
            let row = &logits[(sample * 15 + i) * VOCAB..][..VOCAB];
            let best = (0..VOCAB)
                .max_by(|&a, &b| row[a].total_cmp(&row[b]))
                .unwrap();
            hits += f64::from(u8::from(best == tokens[i + 1] as usize));
            entropy += row.iter().map(|x| x.exp()).sum::<f64>().ln() - row[tokens[i + 1] as usize];
            count += 1.0;
        }
    }
    assert!((found.accuracy - hits / count).abs() < 1e-12);
    assert!(
        (found.cross_entropy - entropy / count).abs() < 1e-4,
        "{} {}",
        found.cross_entropy,
        entropy / count
    );
}

#[test]
fn final_scores_are_the_plain_mean_over_lengths() {
    let model = TestDecoder::new(2, plain(), false);
    let options = LocateOptions {
        metric: Metric::LogitDiff,
        ..LocateOptions::default()
    };
    let report = locate(&model, &batches(&[(10, 2), (5, 6), (3, 4)]), &options).unwrap();
    let by_length = &report.scores.by_length;
    assert_eq!(
        by_length
            .iter()
            .map(|l| (l.n, l.samples))
            .collect::<Vec<_>>(),
        [(10, 2), (5, 6), (3, 4)]
    );
    let grid = report.scores.grid();
    for HeadId { layer, head } in report.scores.model.heads() {
        let mean = by_length.iter().map(|l| l.scores[layer][head]).sum::<f64>() / 3.0;
        assert!((grid[layer][head] - mean).abs() < 1e-12);
    }
    assert_eq!(report.scores.settings, options.settings(Some(5)));
    assert_eq!(report.by_length[1].logits.patched_logits[0][0].len(), 6);
}

#[test]
fn the_published_preset_is_that_of_the_authors_code() {
    let settings = LocateOptions::as_published().settings(None);
    assert_eq!(
        (settings.mode, settings.ablation, settings.metric),
        (Mode::Path, Ablation::BatchMean, Metric::CentredLogitDiff)
    );
}

#[test]
fn progress_rises_to_the_total() {
    let model = TestDecoder::new(3, plain(), false);
    for memory_budget in [0, LocateOptions::DEFAULT_MEMORY_BUDGET] {
        let mut seen: Vec<Progress> = Vec::new();
        let options = LocateOptions {
            memory_budget,
            ..LocateOptions::default()
        };
        Locator::new(&model, options)
            .run_with(&batches(&[(5, 3), (4, 2)]), |event| {
                if let Event::Layer(progress) = event {
                    seen.push(progress);
                }
                Ok::<_, Error>(ControlFlow::Continue(()))
            })
            .unwrap();
        assert!(
            seen.windows(2)
                .all(|pair| pair[0].done < pair[1].done && pair[0].total == pair[1].total)
        );
        let last = seen.last().unwrap();
        assert_eq!((last.n, last.done), (4, last.total));
    }
}

#[test]
fn a_logit_that_is_not_finite_names_the_head() {
    let model = Copier::new(5, &[&[1.0, 0.0], &[0.0, 0.5]], true);
    let options = LocateOptions {
        ablation: Ablation::Zero,
        ..LocateOptions::default()
    };
    let error = patched_logits(&model, &batches(&[(5, 2)])[0], &options).unwrap_err();
    assert!(
        matches!(
            error,
            Error::NotFinite {
                n: 5,
                head: HeadId { layer: 0, head: 0 },
                sample: 0,
                ..
            }
        ),
        "{error}"
    );
    let model = Copier::new(5, &[&[1.0, f32::NAN]], false);
    let error = patched_logits(&model, &batches(&[(5, 2)])[0], &options).unwrap_err();
    assert_eq!(
        error.to_string(),
        "n = 5: the logit of sequence 0 is NaN with no head replaced: layer 0 is the first whose output is not finite"
    );
}

#[test]
fn input_that_cannot_be_used_is_refused() {
    let model = TestDecoder::new(1, plain(), false);
    let refused = |batches: &[ProxyBatch]| {
        locate(&model, batches, &LocateOptions::default())
            .unwrap_err()
            .to_string()
    };
    assert_eq!(refused(&[]), "no proxy sequences to locate heads on");
    assert!(refused(&batches(&[(5, 2), (5, 3)])).starts_with("two batches of n = 5"));
    let foreign = ProxyBatch::from_sequences(vec![vec![1, 90, 1, 90]], 100).unwrap();
    assert_eq!(
        refused(&[foreign]),
        "proxy sequence 0: token 90 is not in the vocabulary of 31"
    );
    let learned = plain().with_position_embedding(PositionEmbeddingConfig::Learned {
        num_positions: 12,
        width: 16,
    });
    let short = TestDecoder::new(1, learned, false);
    let error = locate(
        &short,
        &batches(&[(6, 1), (7, 1)]),
        &LocateOptions::default(),
    )
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "a sequence of 14 tokens is longer than the 12 positions of the model"
    );
    let none = TestDecoder::new(0, plain(), false);
    let error = locate(&none, &batches(&[(6, 1)]), &LocateOptions::default()).unwrap_err();
    assert!(matches!(error, Error::NoHeads(_)));
}

#[test]
fn a_model_on_an_autodiff_device_is_refused() {
    let model = TestDecoder::new(1, plain(), false).train();
    let error = locate(&model, &batches(&[(6, 1)]), &LocateOptions::default()).unwrap_err();
    assert!(matches!(error, Error::Autodiff));
}
