//! Stopping at any moment and going on, and files that cannot be resumed.

mod common;

use std::io::{Error as IoError, Write};

use common::runs::{run, saved};
use common::{HEAD_DIM, Small};
use pear_core::files::{Provenance, SequenceRecord, write_atomic};
use pear_core::position::{PositionEmbeddingConfig, RotaryConfig};
use pear_core::{HeadId, ProxyTask};
use pear_train::{Error, Schedule, Sequences, TrainOptions, Trainer, evaluate};

fn model() -> Small {
    Small::new(
        2,
        6,
        2,
        37,
        PositionEmbeddingConfig::Rotary(RotaryConfig::new(HEAD_DIM, 10_000.0)),
    )
}

fn heads() -> [HeadId; 3] {
    [HeadId::new(0, 5), HeadId::new(1, 0), HeadId::new(1, 3)]
}

/// Everything that has a state or touches it.
fn options() -> TrainOptions {
    TrainOptions {
        steps: 10,
        batch_size: 3,
        length: 6,
        learning_rate: 0.03,
        schedule: Schedule::Cosine,
        weight_decay: 0.1,
        clip_norm: Some(0.05),
        micro_batch_size: Some(2),
        ..TrainOptions::default()
    }
}

#[test]
fn a_run_killed_after_any_step_goes_on_bit_for_bit() {
    let (model, folder) = (model(), tempfile::tempdir().unwrap());
    let path = folder.path().join("run.json");
    let mut whole = Trainer::new(&model, &heads(), options()).unwrap();
    let steps = run(&mut whole, usize::MAX);
    let end = saved(&whole, &path);
    for stop in 0..=steps.len() {
        let mut first = Trainer::new(&model, &heads(), options()).unwrap();
        if stop > 0 {
            run(&mut first, stop);
        }
        let file = saved(&first, &path);
        let mut second = Trainer::new(&model, &heads(), options()).unwrap();
        second.restore(&path).unwrap();
        // No float loses a bit in the file.
        assert_eq!(saved(&second, &path), file);
        assert_eq!(run(&mut second, usize::MAX), steps[stop..]);
        assert_eq!(saved(&second, &path), end, "stopped after {stop}");
        assert_eq!(second.profile().unwrap(), whole.profile().unwrap());
    }
}

#[test]
fn a_write_that_is_interrupted_leaves_the_checkpoint_before_it() {
    let (model, folder) = (model(), tempfile::tempdir().unwrap());
    let path = folder.path().join("run.json");
    let mut trainer = Trainer::new(&model, &heads(), options()).unwrap();
    run(&mut trainer, 4);
    let before = saved(&trainer, &path);
    for bytes in [0, 1, before.len() / 2, before.len()] {
        let interrupted = write_atomic(&path, |file| {
            file.write_all(&before.as_bytes()[..bytes])?;
            Err(IoError::other("the disk is full"))
        });
        assert!(interrupted.is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), before);
    }
    // Nor is anything left beside it, not even by a process that dies between writing and renaming.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    std::fs::write(folder.path().join(".pear-half"), &before[..9]).unwrap();
    let mut resumed = Trainer::new(&model, &heads(), options()).unwrap();
    resumed.restore(&path).unwrap();
    assert_eq!(resumed.steps_done(), 4);
    assert!(matches!(
        trainer.save(folder.path().join("no/such/folder.json")),
        Err(Error::Core(_))
    ));
}

#[test]
fn numbers_that_no_run_leaves_are_refused_and_the_trainer_stays_as_it_was() {
    let (model, folder) = (model(), tempfile::tempdir().unwrap());
    let path = folder.path().join("run.json");
    let mut trainer = Trainer::new(&model, &heads(), options()).unwrap();
    run(&mut trainer, 3);
    let good: serde_json::Value = serde_json::from_str(&saved(&trainer, &path)).unwrap();
    let broken: [(&str, serde_json::Value); 8] = [
        ("/optimizer/steps", i32::MAX.into()),
        ("/optimizer/steps", (-1).into()),
        ("/optimizer/steps", 2.into()),
        ("/optimizer/square/0", (-1e-3).into()),
        ("/optimizer/mean", serde_json::json!([0.0])),
        ("/values/1", 1e300.into()),
        ("/losses", vec![1.0; 11].into()),
        ("/version", 2.into()),
    ];
    for (field, value) in broken {
        let mut file = good.clone();
        *file.pointer_mut(field).unwrap() = value;
        std::fs::write(&path, file.to_string()).unwrap();
        let mut other = Trainer::new(&model, &heads(), options()).unwrap();
        let error = other.restore(&path).unwrap_err();
        assert!(
            matches!(error, Error::Checkpoint { .. }),
            "{field}: {error}"
        );
        assert_eq!(
            (other.steps_done(), other.coefficients().values()),
            (0, vec![1.0; 3])
        );
    }
    std::fs::write(&path, good.to_string()).unwrap();
    Trainer::new(&model, &heads(), options())
        .unwrap()
        .restore(&path)
        .unwrap();
}

#[test]
fn patience_waits_for_held_out_sequences_and_goes_back_to_the_best_and_so_does_a_resumed_run() {
    let (model, folder) = (model(), tempfile::tempdir().unwrap());
    let (task, path) = (model.task(), folder.path().join("run.json"));
    let held_out = task.batch(6, 1000..1008).unwrap();
    // A rate so high that coefficients run past the best ones.
    let options = |patience| TrainOptions {
        steps: 60,
        learning_rate: 0.4,
        held_out_every: Some(2),
        patience,
        clamp: Some((-4.0, 4.0)),
        ..options()
    };
    let trainer = |patience| {
        Trainer::new(&model, &heads(), options(patience))
            .unwrap()
            .with_held_out(held_out.clone())
    };
    let mut whole = trainer(Some(3));
    let steps = run(&mut whole, usize::MAX);
    assert!(
        steps.len() < 60 && whole.is_stalled(),
        "{:?}",
        whole.held_out_losses()
    );

    let measured = whole.held_out_losses().to_vec();
    let after: Vec<usize> = measured.iter().map(|(steps, _)| *steps).collect();
    assert_eq!(after, (0..=steps.len()).step_by(2).collect::<Vec<_>>());
    let (index, &(best, lowest)) = measured
        .iter()
        .enumerate()
        .min_by(|a, b| a.1.1.total_cmp(&b.1.1))
        .unwrap();
    assert_eq!(
        (whole.best_step(), measured.len() - 1 - index),
        (Some(best), 3)
    );
    // What it ends with is what was measured then.
    assert_eq!(
        evaluate(&model, &held_out, Some(whole.coefficients()))
            .unwrap()
            .loss,
        lowest
    );
    assert_eq!(steps[best - 1].held_out.unwrap().loss, lowest);
    assert_ne!(
        whole.coefficients().values(),
        steps.last().unwrap().coefficients
    );
    let record = whole.profile().unwrap().training.unwrap();
    assert_eq!((record.best_step, record.held_out), (Some(best), measured));

    let mut first = trainer(Some(3));
    run(&mut first, steps.len() - 2);
    first.save(&path).unwrap();
    let mut second = trainer(Some(3));
    second.restore(&path).unwrap();
    assert_eq!(run(&mut second, usize::MAX), steps[steps.len() - 2..]);
    assert_eq!(second.profile().unwrap(), whole.profile().unwrap());
    // A run that has ended takes no further step, and its checkpoint leads to the same end.
    assert_eq!(run(&mut second, usize::MAX), []);
    whole.save(&path).unwrap();
    let mut third = trainer(Some(3));
    third.restore(&path).unwrap();
    assert_eq!(run(&mut third, usize::MAX), []);
    assert_eq!(third.profile().unwrap(), whole.profile().unwrap());

    let mut never = trainer(None);
    let steps = run(&mut never, usize::MAX);
    assert_eq!((steps.len(), never.best_step()), (60, None));
    assert_eq!(never.coefficients().values(), steps[59].coefficients);
}

#[test]
fn patience_without_anything_to_measure_is_refused() {
    let model = model();
    for (options, named) in [
        (
            TrainOptions {
                patience: Some(2),
                ..options()
            },
            "`patience`",
        ),
        (
            TrainOptions {
                patience: Some(0),
                held_out_every: Some(1),
                ..options()
            },
            "`patience`",
        ),
        (
            TrainOptions {
                held_out_every: Some(0),
                ..options()
            },
            "`held_out_every`",
        ),
    ] {
        let error = Trainer::new(&model, &heads(), options)
            .unwrap_err()
            .to_string();
        assert!(error.contains(named), "{error}");
    }
    let mut trainer = Trainer::new(
        &model,
        &heads(),
        TrainOptions {
            held_out_every: Some(1),
            ..options()
        },
    )
    .unwrap();
    let error = trainer
        .run(&Sequences::Drawn(model.task()))
        .unwrap_err()
        .to_string();
    assert!(error.contains("`held_out_every`"), "{error}");
}

#[test]
fn the_checkpoint_of_another_run_is_refused_with_what_differs() {
    let (model, folder) = (model(), tempfile::tempdir().unwrap());
    let path = folder.path().join("run.json");
    let made = |weights: &str, bos| {
        let mut provenance = Provenance::new();
        provenance.weights = Some(weights.into());
        provenance.dtype = Some("f32".into());
        provenance.sequences = Some(SequenceRecord::Drawn {
            bos,
            special: false,
        });
        provenance
    };
    let mut trainer = Trainer::new(&model, &heads(), options())
        .unwrap()
        .with_provenance(made("one", None));
    run(&mut trainer, 2);
    trainer.save(&path).unwrap();
    let refused = |heads: &[HeadId], options, provenance| {
        let mut other = Trainer::new(&model, heads, options)
            .unwrap()
            .with_provenance(provenance);
        let error = other.restore(&path).unwrap_err().to_string();
        assert_eq!(
            (other.steps_done(), other.coefficients().values()),
            (0, vec![1.0; heads.len()])
        );
        error
    };
    let error = refused(&heads(), options(), made("two", None));
    assert!(
        error.contains("other weights") && !error.contains("sequences"),
        "{error}"
    );
    let error = refused(&heads(), options(), made("one", Some(1)));
    assert!(
        error.contains("other proxy sequences") && !error.contains("weights"),
        "{error}"
    );
    let error = refused(&heads()[..2], options(), made("one", None));
    assert!(error.contains("other heads"), "{error}");
    let error = refused(
        &heads(),
        TrainOptions {
            learning_rate: 0.5,
            ..options()
        },
        made("one", None),
    );
    assert!(
        error.contains("`learning_rate` was 0.03 and is 0.5"),
        "{error}"
    );
    let mut resumed = Trainer::new(&model, &heads(), options())
        .unwrap()
        .with_provenance(made("one", None));
    resumed.restore(&path).unwrap();
    let other_seed = ProxyTask::new(37, &[0], 4).unwrap();
    let error = resumed
        .run(&Sequences::Drawn(other_seed))
        .unwrap_err()
        .to_string();
    assert!(error.contains("`seed` was 3 and is 4"), "{error}");
    let mut half = made("one", None);
    half.dtype = Some("bf16".into());
    let error = refused(&heads(), options(), half);
    assert!(error.contains("the dtype was f32 and is bf16"), "{error}");
    // Another release is no other run.
    let mut later = made("one", None);
    later.version = Some("99.0.0".into());
    Trainer::new(&model, &heads(), options())
        .unwrap()
        .with_provenance(later)
        .restore(&path)
        .unwrap();
}

#[test]
fn copies_share_the_sequences_and_learn_what_one_model_learns() {
    let (one, two, three) = (model(), model(), model());
    let options = TrainOptions {
        batch_size: 5,
        micro_batch_size: None,
        ..options()
    };
    let mut alone = Trainer::new(&one, &heads(), options.clone()).unwrap();
    run(&mut alone, usize::MAX);
    one.seen();
    let mut shared = Trainer::new(&one, &heads(), options)
        .unwrap()
        .with_copies([&two, &three]);
    run(&mut shared, usize::MAX);
    for (a, b) in alone.losses().iter().zip(shared.losses()) {
        assert!((a - b).abs() < 1e-5, "{a} {b}");
    }
    for (a, b) in alone
        .coefficients()
        .values()
        .iter()
        .zip(shared.coefficients().values())
    {
        assert!((a - b).abs() < 1e-5, "{a} {b}");
    }
    // Of the 5 sequences of each of 10 steps, 1, 2 and 2; n = 6 rows of logits each.
    let rows = [&one, &two, &three].map(|model| model.seen().logits.iter().sum::<usize>());
    assert_eq!(rows, [60, 120, 120]);
}

#[test]
fn the_first_step_moves_nothing_and_yet_counts_and_later_ones_are_adamw_by_its_definition() {
    let (model, folder) = (model(), tempfile::tempdir().unwrap());
    let (task, path) = (model.task(), folder.path().join("run.json"));
    let options = TrainOptions {
        steps: 6,
        batch_size: 3,
        length: 6,
        learning_rate: 0.02,
        ..TrainOptions::default()
    };
    let mut trainer = Trainer::new(&model, &heads(), options.clone()).unwrap();
    let (mut values, mut mean, mut square) = ([1f64; 3], [0f64; 3], [0f64; 3]);
    for step in 0..6 {
        let batch = task.batch(6, step * 3..step * 3 + 3).unwrap();
        let tracked = trainer.coefficients().clone().trainable();
        let gradients = tracked.gradients(
            &pear_train::proxy_loss(&model, &batch, &tracked)
                .unwrap()
                .backward(),
        );
        let report = trainer.step(&batch).unwrap();
        let rate = if step < 2 {
            0.02 * step as f64 / 2.0
        } else {
            0.02 * (6 - step) as f64 / 4.0
        };
        assert_eq!(report.learning_rate, rate);
        let t = step as i32 + 1;
        for i in 0..3 {
            let g = f64::from(gradients[i]);
            mean[i] = 0.9 * mean[i] + 0.1 * g;
            square[i] = 0.999 * square[i] + 0.001 * g * g;
            let (m, v) = (
                mean[i] / (1.0 - 0.9f64.powi(t)),
                square[i] / (1.0 - 0.999f64.powi(t)),
            );
            values[i] -= rate * m / (v.sqrt() + 1e-8);
            assert!(
                (f64::from(report.coefficients[i]) - values[i]).abs() < 1e-6,
                "step {step}: {report:?}, {values:?}"
            );
        }
        if step == 0 {
            assert_eq!(report.coefficients, [1.0; 3]);
            let file: serde_json::Value = serde_json::from_str(&saved(&trainer, &path)).unwrap();
            assert_eq!(file["optimizer"]["steps"], 1);
            assert!(file["optimizer"]["mean"][0].as_f64().unwrap() != 0.0);
        }
    }
}
