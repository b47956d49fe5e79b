//! Standard errors, and how much the heads found depend on.

mod common;

use common::{Copier, VOCAB};
use pear_core::{HeadId, ModelShape, ProxyTask};
use pear_locate::metric::{deviations, scores, standard_error};
use pear_locate::{
    Ablation, LocateOptions, Metric, Normalizers, PatchedLogits, RankBy, Report, ScoreSettings,
    Scores, locate, proxy_batches, stability,
};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Roughly normal, of mean 0 and variance 1.
fn normal(rng: &mut ChaCha8Rng) -> f32 {
    (0..12)
        .map(|_| (rng.next_u64() >> 40) as f32 / (1 << 24) as f32)
        .sum::<f32>()
        - 6.0
}

/// `samples` sequences and three heads: one whose effect grows with the logit, one that adds noise to the first, one of noise alone.
fn drawn(rng: &mut ChaCha8Rng, samples: usize) -> PatchedLogits {
    let base_logits: Vec<f32> = (0..samples).map(|_| 4.0 + 2.0 * normal(rng)).collect();
    let mut heads = vec![Vec::new(), Vec::new(), Vec::new()];
    for base in &base_logits {
        let first = 1.2 * base + 0.5 * normal(rng);
        heads[0].push(first);
        heads[1].push(first - 0.1 + 0.05 * normal(rng));
        heads[2].push(base + normal(rng));
    }
    let base = (0..samples).map(|_| normal(rng)).collect();
    let patched = vec![
        (0..3)
            .map(|_| (0..samples).map(|_| normal(rng)).collect())
            .collect(),
    ];
    let normalizers = Some(Normalizers { base, patched });
    PatchedLogits {
        n: 10,
        base_logits,
        patched_logits: vec![heads],
        normalizers,
        accuracy: 1.0,
        cross_entropy: 0.0,
    }
}

#[test]
fn standard_errors_are_the_spread_of_scores_from_other_sequences() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for metric in [Metric::LogitRatio, Metric::LogitDiff, Metric::LogProbDiff] {
        let runs: Vec<PatchedLogits> = (0..4000).map(|_| drawn(&mut rng, 40)).collect();
        for head in 0..3 {
            let found: Vec<f64> = runs
                .iter()
                .map(|run| scores(metric, run).unwrap()[0][head])
                .collect();
            let mean = found.iter().sum::<f64>() / found.len() as f64;
            let spread =
                (found.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / found.len() as f64).sqrt();
            let estimates = runs.iter().map(|run| {
                standard_error(&deviations(metric, run).unwrap()[0][head])
                    .unwrap()
                    .powi(2)
            });
            let estimate = (estimates.sum::<f64>() / runs.len() as f64).sqrt();
            assert!(
                (estimate / spread - 1.0).abs() < 0.05,
                "{metric}, head {head}: {estimate} where scores spread by {spread}"
            );
        }
    }
    assert_eq!(standard_error(&[0.0]), None);
}

#[test]
fn heads_are_compared_on_the_same_sequences() {
    let logits = drawn(&mut ChaCha8Rng::seed_from_u64(2), 200);
    let (scores, deviations) = (
        scores(Metric::LogitDiff, &logits).unwrap(),
        deviations(Metric::LogitDiff, &logits).unwrap(),
    );
    let errors: Vec<f64> = deviations[0]
        .iter()
        .map(|head| standard_error(head).unwrap())
        .collect();
    let by_length = vec![pear_locate::LengthScores {
        n: 10,
        samples: 200,
        base_logit: logits.base_logit(),
        accuracy: 1.0,
        scores: scores.clone(),
        standard_errors: Some(vec![errors.clone()]),
        head_samples: None,
        available: None,
    }];
    let settings = ScoreSettings {
        metric: Metric::LogitDiff,
        rank_by: RankBy::Score,
        ..ScoreSettings::default()
    };
    let scores = Scores::new(ModelShape::new("test", 1, 3), settings, by_length).unwrap();
    let report = Report {
        scores,
        by_length: vec![pear_locate::LengthReport {
            logits,
            warnings: Vec::new(),
        }],
    };
    // The second head is the first one less 0.1, little beside the errors of either.
    let gap = stability(&report, 1).gap.unwrap();
    assert!(
        (gap.difference - 0.1).abs() < 0.02 && gap.standard_error < 0.2 * errors[0],
        "{gap:?}, {errors:?}"
    );
    assert!(
        !gap.is_noise() && gap.difference < 3.0 * errors[0],
        "{gap:?}, {errors:?}"
    );
    assert!(stability(&report, 3).gap.is_none());
}

#[test]
fn a_planted_head_is_found_whatever_the_sequences() {
    let model = Copier::new(
        8,
        &[&[0.5, 0.25, 0.125, 0.0], &[3.0, 0.5, -2.0, 0.125]],
        false,
    );
    let batches = proxy_batches(
        &ProxyTask::new(VOCAB, &[0], 5).unwrap(),
        &[(8, 6), (5, 4), (6, 1)],
    )
    .unwrap();
    let options = LocateOptions {
        metric: Metric::LogitDiff,
        ablation: Ablation::Zero,
        ..LocateOptions::default()
    };
    let report = locate(&model, &batches[..2], &options).unwrap();
    let found = stability(&report, 1);
    let between: Vec<[&str; 2]> = found
        .overlaps
        .iter()
        .map(|o| o.between.each_ref().map(String::as_str))
        .collect();
    assert_eq!(
        between,
        [
            ["even sequences", "odd sequences"],
            ["n = 8", "n = 5"],
            ["logit-diff", "logit-ratio"]
        ]
    );
    assert!(
        found.overlaps.iter().all(|overlap| overlap.share == 1.0),
        "{found:?}"
    );
    assert!(!found.gap.unwrap().is_noise());
    assert_eq!(report.scores.significant().unwrap()[0], HeadId::new(1, 2));
    // One sequence has no halves and no spread.
    let report = locate(&model, &batches[1..], &options).unwrap();
    let found = stability(&report, 1);
    assert_eq!(
        (found.overlaps.len(), found.gap, report.scores.significant()),
        (2, None, None)
    );
}
