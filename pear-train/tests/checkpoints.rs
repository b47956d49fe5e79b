//! Stopping at any moment and going on, and files that cannot be gone on with.

mod common;

use std::io::{Error as IoError, Write};
use std::ops::ControlFlow;
use std::path::Path;

use common::{HEAD_DIM, Small};
use pear_core::files::write_atomic;
use pear_core::position::{PositionEmbeddingConfig, RotaryConfig};
use pear_core::{HeadId, ProxyTask};
use pear_train::{Error, Schedule, Sequences, StepReport, TrainOptions, Trainer};

fn model() -> Small {
    Small::new(2, 6, 2, 37, PositionEmbeddingConfig::Rotary(RotaryConfig::new(HEAD_DIM, 10_000.0)))
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

fn drawn(task: &ProxyTask) -> Sequences {
    Sequences::Drawn(task.clone())
}

/// Runs on until `stop` steps are done and returns those taken.
fn run(trainer: &mut Trainer<Small>, task: &ProxyTask, stop: usize) -> Vec<StepReport> {
    let mut steps = Vec::new();
    let each = |trainer: &Trainer<Small>, step: &StepReport| {
        steps.push(step.clone());
        Ok(if trainer.steps_done() < stop { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    };
    trainer.run(&drawn(task), each).unwrap();
    steps
}

fn saved(trainer: &Trainer<Small>, path: &Path) -> String {
    trainer.save(path).unwrap();
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn a_run_killed_after_any_step_goes_on_bit_for_bit() {
    let (model, folder) = (model(), tempfile::tempdir().unwrap());
    let (task, path) = (model.task(), folder.path().join("run.json"));
    let mut whole = Trainer::new(&model, &heads(), options()).unwrap();
    let steps = run(&mut whole, &task, usize::MAX);
    let end = saved(&whole, &path);
    for stop in 0..=steps.len() {
        let mut first = Trainer::new(&model, &heads(), options()).unwrap();
        if stop > 0 {
            run(&mut first, &task, stop);
        }
        let file = saved(&first, &path);
        let mut second = Trainer::new(&model, &heads(), options()).unwrap();
        second.restore(&path).unwrap();
        // No float loses a bit in the file.
        assert_eq!(saved(&second, &path), file);
        assert_eq!(run(&mut second, &task, usize::MAX), steps[stop..]);
        assert_eq!(saved(&second, &path), end, "stopped after {stop}");
        assert_eq!(second.profile().unwrap(), whole.profile().unwrap());
    }
}

#[test]
fn a_write_that_is_interrupted_leaves_the_checkpoint_before_it() {
    let (model, folder) = (model(), tempfile::tempdir().unwrap());
    let (task, path) = (model.task(), folder.path().join("run.json"));
    let mut trainer = Trainer::new(&model, &heads(), options()).unwrap();
    run(&mut trainer, &task, 4);
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
    assert!(matches!(trainer.save(&folder.path().join("no/such/folder.json")), Err(Error::Core(_))));
}

#[test]
fn numbers_that_no_run_leaves_are_refused_and_the_trainer_stays_as_it_was() {
    let (model, folder) = (model(), tempfile::tempdir().unwrap());
    let (task, path) = (model.task(), folder.path().join("run.json"));
    let mut trainer = Trainer::new(&model, &heads(), options()).unwrap();
    run(&mut trainer, &task, 3);
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
        assert!(matches!(error, Error::Checkpoint { .. }), "{field}: {error}");
        assert_eq!((other.steps_done(), other.coefficients().values()), (0, vec![1.0; 3]));
    }
    std::fs::write(&path, good.to_string()).unwrap();
    Trainer::new(&model, &heads(), options()).unwrap().restore(&path).unwrap();
}

#[test]
fn patience_ends_a_run_that_no_longer_improves_and_a_resumed_one_at_the_same_step() {
    let (model, folder) = (model(), tempfile::tempdir().unwrap());
    let (task, path) = (model.task(), folder.path().join("run.json"));
    let patient = |patience| TrainOptions { steps: 60, patience, ..options() };
    let mut trainer = Trainer::new(&model, &heads(), patient(Some(4))).unwrap();
    let steps = run(&mut trainer, &task, usize::MAX);
    assert!(steps.len() < 60 && trainer.is_stalled());
    let losses = trainer.losses();
    let best = losses.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
    assert_eq!(steps.len() - 1 - best, 4, "{losses:?}");

    let mut first = Trainer::new(&model, &heads(), patient(Some(4))).unwrap();
    run(&mut first, &task, steps.len() - 2);
    first.save(&path).unwrap();
    let mut second = Trainer::new(&model, &heads(), patient(Some(4))).unwrap();
    second.restore(&path).unwrap();
    assert_eq!(run(&mut second, &task, usize::MAX), steps[steps.len() - 2..]);
    // A run that has ended takes no further step.
    assert_eq!(run(&mut second, &task, usize::MAX), []);

    let mut never = Trainer::new(&model, &heads(), patient(None)).unwrap();
    assert_eq!(run(&mut never, &task, usize::MAX).len(), 60);
    let error = Trainer::new(&model, &heads(), patient(Some(0))).unwrap_err().to_string();
    assert!(error.contains("`patience`"), "{error}");
}

#[test]
fn the_first_step_moves_nothing_and_yet_counts_and_later_ones_are_adamw_by_its_definition() {
    let (model, folder) = (model(), tempfile::tempdir().unwrap());
    let (task, path) = (model.task(), folder.path().join("run.json"));
    let options = TrainOptions { steps: 6, batch_size: 3, length: 6, learning_rate: 0.02, ..TrainOptions::default() };
    let mut trainer = Trainer::new(&model, &heads(), options.clone()).unwrap();
    let (mut values, mut mean, mut square) = ([1f64; 3], [0f64; 3], [0f64; 3]);
    for step in 0..6 {
        let batch = task.batch(6, step * 3..step * 3 + 3).unwrap();
        let tracked = trainer.coefficients().clone().trainable();
        let gradients = tracked.gradients(&pear_train::proxy_loss(&model, &batch, &tracked).unwrap().backward());
        let report = trainer.step(&batch).unwrap();
        let rate = if step < 2 { 0.02 * step as f64 / 2.0 } else { 0.02 * (6 - step) as f64 / 4.0 };
        assert_eq!(report.learning_rate, rate);
        let t = step as i32 + 1;
        for i in 0..3 {
            let g = f64::from(gradients[i]);
            mean[i] = 0.9 * mean[i] + 0.1 * g;
            square[i] = 0.999 * square[i] + 0.001 * g * g;
            let (m, v) = (mean[i] / (1.0 - 0.9f64.powi(t)), square[i] / (1.0 - 0.999f64.powi(t)));
            values[i] -= rate * m / (v.sqrt() + 1e-8);
            assert!((f64::from(report.coefficients[i]) - values[i]).abs() < 1e-6, "step {step}: {report:?}, {values:?}");
        }
        if step == 0 {
            assert_eq!(report.coefficients, [1.0; 3]);
            let file: serde_json::Value = serde_json::from_str(&saved(&trainer, &path)).unwrap();
            assert_eq!(file["optimizer"]["steps"], 1);
            assert!(file["optimizer"]["mean"][0].as_f64().unwrap() != 0.0);
        }
    }
}
