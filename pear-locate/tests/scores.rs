//! Scores files: ranks, noise, and what is written is read.

use pear_core::{HeadId, ModelShape};
use pear_locate::{LengthScores, ScoreSettings, Scores};

fn shape() -> ModelShape {
    ModelShape::new("llama", 2, 3)
}

fn length(n: usize, scores: [[f64; 3]; 2]) -> LengthScores {
    let scores = scores.map(|row| row.to_vec()).to_vec();
    LengthScores {
        n,
        samples: 4,
        base_logit: 9.5,
        accuracy: 0.75,
        scores,
        standard_errors: None,
        head_samples: None,
        available: None,
    }
}

#[test]
fn scores_are_ranked_by_their_mean_over_lengths_and_survive_a_file() {
    let lengths = vec![
        length(10, [[0.0, 0.5, 0.1], [0.3, -0.2, 0.1]]),
        length(20, [[0.0, 0.1, 0.1], [0.5, -0.2, 0.1]]),
    ];
    let scores = Scores::new(shape(), ScoreSettings::default(), lengths).unwrap();
    let ids = |pairs: &[(usize, usize)]| {
        pairs
            .iter()
            .map(|&(l, h)| HeadId::new(l, h))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        scores.top(6),
        ids(&[(1, 0), (0, 1), (0, 2), (1, 2), (0, 0), (1, 1)])
    );
    assert_eq!(scores.top(2), ids(&[(1, 0), (0, 1)]));
    assert!((scores.grid()[1][0] - 0.4).abs() < 1e-12);

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scores.json");
    scores.write(&path).unwrap();
    assert_eq!(Scores::read(&path).unwrap(), scores);
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(json["format"], "pear-scores");
    assert_eq!(json["version"], 1);
    assert_eq!(json["model"]["num_heads"], 3);
    assert_eq!(json["settings"]["ablation"], "sequence-mean");
    assert_eq!(json["settings"]["metric"], "logit-ratio");
    assert_eq!(
        json["heads"][0],
        serde_json::json!({"layer": 1, "head": 0, "score": 0.4})
    );
    assert_eq!(json["by_length"][1]["scores"][1][0], 0.5);
}

#[test]
fn a_file_whose_numbers_contradict_each_other_is_refused() {
    let lengths = vec![
        LengthScores {
            standard_errors: Some(vec![vec![0.1; 3]; 2]),
            ..length(10, [[0.0, 0.5, 0.1], [0.3, -0.2, 0.1]])
        },
        length(20, [[0.0, 0.1, 0.3], [0.5, 0.2, 0.2]]),
    ];
    let scores = Scores::new(shape(), ScoreSettings::default(), lengths).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scores.json");
    scores.write(&path).unwrap();
    let good: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let last_head = good["heads"].as_array().unwrap().len() - 1;
    let broken: [(&str, serde_json::Value, &str); 4] = [
        ("/heads/0/score", 0.45.into(), "0.45, but the mean"),
        (
            "/by_length/0/standard_errors/1/0",
            (-0.1).into(),
            "is negative",
        ),
        ("/by_length/0/scores/0/1", 1.7e308.into(), "but the mean"),
        (
            "/heads",
            good["heads"].as_array().unwrap()[..last_head].into(),
            "is missing",
        ),
    ];
    for (field, value, expected) in broken {
        let mut file = good.clone();
        *file.pointer_mut(field).unwrap() = value;
        std::fs::write(&path, file.to_string()).unwrap();
        let error = Scores::read(&path).unwrap_err().to_string();
        assert!(
            error.contains("scores.json") && error.contains(expected),
            "{field}: {error}"
        );
    }
    // Two that are finite, and their sum is not.
    let mut file = good;
    for length in ["/by_length/0/scores/0/1", "/by_length/1/scores/0/1"] {
        *file.pointer_mut(length).unwrap() = 1.7e308.into();
    }
    std::fs::write(&path, file.to_string()).unwrap();
    let error = Scores::read(&path).unwrap_err().to_string();
    assert!(error.contains("is inf"), "{error}");
}

#[test]
fn heads_that_stand_out_of_the_noise_are_told_from_those_that_do_not() {
    let with_errors = |error: f64, n| LengthScores {
        standard_errors: Some(vec![vec![error; 3], vec![0.001; 3]]),
        ..length(n, [[0.0, 0.5, 0.1], [0.3, -0.2, 0.001]])
    };
    let scores = Scores::new(
        shape(),
        ScoreSettings::default(),
        vec![with_errors(0.03, 10), with_errors(0.04, 20)],
    )
    .unwrap();
    // Two independent errors of 0.03 and 0.04: that of their mean is 0.025.
    assert!((scores.heads()[0].standard_error.unwrap() - 0.025).abs() < 1e-12);
    // In errors: 0.3 in the other layer 300 of its own, 0.5 twenty, 0.1 four; 0.001 in the other layer only √2.
    let heads = |pairs: &[(usize, usize)]| {
        pairs
            .iter()
            .map(|&(l, h)| HeadId::new(l, h))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        scores.significant().unwrap(),
        heads(&[(1, 0), (0, 1), (0, 2)])
    );
    let noisy = Scores::new(
        shape(),
        ScoreSettings::default(),
        vec![with_errors(0.08, 10)],
    )
    .unwrap();
    assert_eq!(noisy.significant().unwrap(), heads(&[(1, 0), (0, 1)]));
    let unknown = Scores::new(
        shape(),
        ScoreSettings::default(),
        vec![with_errors(0.045, 10), length(20, [[0.1; 3]; 2])],
    )
    .unwrap();
    assert_eq!(unknown.significant(), None);
}
