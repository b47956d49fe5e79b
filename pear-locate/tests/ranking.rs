//! What heads are ranked by, and which stand out of the noise.

use pear_core::{HeadId, ModelShape};
use pear_locate::{LengthScores, LocateOptions, RankBy, ScoreSettings, Scores};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// One layer; scores and errors of one length.
fn scored(rank_by: RankBy, scores: &[f64], errors: Option<&[f64]>) -> Scores {
    let length = LengthScores {
        n: 10,
        samples: 20,
        base_logit: 9.0,
        accuracy: 0.9,
        scores: vec![scores.to_vec()],
        standard_errors: errors.map(|errors| vec![errors.to_vec()]),
        head_samples: None,
        available: None,
    };
    let settings = ScoreSettings {
        rank_by,
        ..ScoreSettings::default()
    };
    Scores::new(
        ModelShape::new("test", 1, scores.len()),
        settings,
        vec![length],
    )
    .unwrap()
}

fn top(scores: &Scores) -> Vec<usize> {
    let all = scores.top(scores.heads().len());
    all.into_iter().map(|head| head.head).collect()
}

#[test]
fn heads_are_ranked_by_z_or_lower_bound_or_score_and_listed_by_score() {
    let (found, errors) = ([0.5, 0.3, -0.2, 0.1], [0.4, 0.03, 0.1, 0.005]);
    let by = |rank_by| scored(rank_by, &found, Some(&errors));
    // z: 1.25, 10, −2, 20; lower bounds: −0.16, 0.25, −0.36, 0.09.
    assert_eq!(top(&by(RankBy::Z)), [3, 1, 0, 2]);
    assert_eq!(top(&by(RankBy::LowerBound)), [1, 3, 0, 2]);
    assert_eq!(top(&by(RankBy::Score)), [0, 1, 3, 2]);
    for rank_by in [RankBy::Z, RankBy::LowerBound, RankBy::Score] {
        let listed = by(rank_by);
        let listed: Vec<usize> = listed
            .heads()
            .iter()
            .map(|scored| scored.head.head)
            .collect();
        assert_eq!(listed, [0, 1, 3, 2]);
    }
}

#[test]
fn without_errors_heads_are_ranked_by_score_and_without_noise_the_sure_ones_come_first() {
    let found = [0.5, 0.3, -0.2, 0.1];
    assert_eq!(top(&scored(RankBy::Z, &found, None)), [0, 1, 3, 2]);
    let exact = scored(
        RankBy::Z,
        &[0.5, 0.3, -0.2, 0.1, 0.0],
        Some(&[0.1, 0.0, 0.0, 0.0, 0.0]),
    );
    assert_eq!(top(&exact), [1, 3, 0, 4, 2]);
}

#[test]
fn files_that_do_not_say_it_are_ranked_by_score() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scores.json");
    for rank_by in [RankBy::Z, RankBy::LowerBound, RankBy::Score] {
        let written = scored(rank_by, &[0.5, 0.3], Some(&[0.4, 0.03]));
        written.write(&path).unwrap();
        let read = Scores::read(&path).unwrap();
        assert_eq!(read, written);
        assert_eq!(read.settings.rank_by, rank_by);
    }
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains("rank_by"), "{text}");
    assert_eq!(LocateOptions::as_published().rank_by, RankBy::Score);
}

#[test]
fn ranks_within_a_budget_do_not_depend_on_how_early_a_head_was_settled() {
    // Both heads have effects as large and as noisy; the second was replaced in a quarter of the sequences, and its error is twice as large.
    let mut scores = scored(RankBy::Z, &[0.5, 0.51], Some(&[0.1, 0.2]));
    assert_eq!(top(&scores), [0, 1]);
    scores.by_length[0].head_samples = Some(vec![vec![20, 5]]);
    assert_eq!(top(&scores), [1, 0]);
}

/// Roughly normal, of mean 0 and variance 1.
fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let uniform = |rng: &mut ChaCha8Rng| (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
    (-2.0 * (1.0 - uniform(rng)).ln()).sqrt() * (std::f64::consts::TAU * uniform(rng)).cos()
}

#[test]
fn one_head_in_twenty_that_stands_out_does_so_by_chance() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let (heads, real, runs) = (200, 20, 400);
    let (mut rate, mut found_real) = (0.0, 0);
    for _ in 0..runs {
        let z: Vec<f64> = (0..heads)
            .map(|head| normal(&mut rng) + if head < real { 4.0 } else { 0.0 })
            .collect();
        let found = scored(RankBy::Z, &z, Some(&vec![1.0; heads]))
            .significant()
            .unwrap();
        let wrong = found.iter().filter(|head| head.head >= real).count();
        rate += wrong as f64 / found.len().max(1) as f64 / runs as f64;
        found_real += found.len() - wrong;
    }
    // 5 % of the share of heads without an effect.
    assert!((rate - 0.045).abs() < 0.01, "{rate}");
    let power = found_real as f64 / (runs * real) as f64;
    // Corrected after Bonferroni, as for a single false one in twenty runs, it would be 76 %.
    assert!(power > 0.9, "{power}");
}

#[test]
fn no_head_stands_out_where_none_has_an_effect() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let runs = 1000;
    let any = (0..runs).filter(|_| {
        let z: Vec<f64> = (0..100).map(|_| normal(&mut rng)).collect();
        let scores = scored(RankBy::Z, &z, Some(&[1.0; 100]));
        !scores.significant().unwrap().is_empty()
    });
    let share = any.count() as f64 / f64::from(runs);
    assert!(share < 0.07, "{share}");
    let heads = scored(RankBy::Z, &[0.0, 3.0, -5.0], Some(&[0.0, 0.5, 0.0]));
    assert_eq!(heads.significant().unwrap(), [HeadId::new(0, 1)]);
}
