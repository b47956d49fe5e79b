//! The trainer on small checkpoints: what moves and what does not, stopping and going on, and what is refused.

mod common;

use std::ops::ControlFlow;
use std::path::PathBuf;

use common::load;
use pear_core::proxy::ProxyBatch;
use pear_core::{DecoderModel, HeadCoefficients, HeadId, ProxyTask};
use pear_models::Decoder;
use pear_train::{
    Error, Schedule, Sequences, StepReport, TrainOptions, Trainer, evaluate, proxy_loss,
};

fn options() -> TrainOptions {
    TrainOptions {
        steps: 12,
        batch_size: 3,
        length: 6,
        learning_rate: 0.05,
        ..TrainOptions::default()
    }
}

fn heads() -> Vec<HeadId> {
    [(1, 3), (0, 0), (1, 5)]
        .map(|(layer, head)| HeadId::new(layer, head))
        .to_vec()
}

fn task(model: &Decoder) -> ProxyTask {
    ProxyTask::new(model.vocab_size(), &[0, 1, 2], 5).unwrap()
}

/// Trains to the end and returns every step.
fn train(model: &Decoder, heads: &[HeadId], options: TrainOptions) -> Vec<StepReport> {
    let mut steps = Vec::new();
    let mut trainer = Trainer::new(model, heads, options).unwrap();
    trainer
        .run_with(&Sequences::Drawn(task(model)), |_, step| {
            steps.push(step.clone());
            Ok::<_, Error>(ControlFlow::Continue(()))
        })
        .unwrap();
    steps
}

#[test]
fn gradients_agree_with_central_differences_for_every_kind_of_position_embedding() {
    for name in [
        "llama-3.1",
        "qwen2-14-2",
        "opt",
        "bloom",
        "gpt-neox",
        "xglm",
    ] {
        let model = load(name);
        let shape = model.shape();
        let all: Vec<(HeadId, f32)> = shape
            .heads()
            .map(|head| (head, 0.8 + 0.03 * head.head as f32))
            .collect();
        let batch = task(&model).batch(6, 0..3).unwrap();
        let coefficients = HeadCoefficients::new(&all, &shape, &model.device())
            .unwrap()
            .trainable();
        let gradients = coefficients.gradients(
            &proxy_loss(&model, &batch, &coefficients)
                .unwrap()
                .backward(),
        );
        assert_eq!(gradients.len(), all.len());
        let mut moved = 0;
        for (i, gradient) in gradients.into_iter().map(f64::from).enumerate() {
            let at = |step: f32| {
                let mut changed = all.clone();
                changed[i].1 += step;
                let changed = HeadCoefficients::new(&changed, &shape, &model.device()).unwrap();
                evaluate(&model, &batch, Some(&changed)).unwrap().loss
            };
            let difference = (at(5e-3) - at(-5e-3)) / 1e-2;
            // Rounding in f32, and the kinks of ReLU in OPT.
            assert!(
                (gradient - difference).abs() < 0.02 * difference.abs() + 4e-3,
                "{name}, {}: {gradient}, {difference}",
                all[i].0
            );
            moved += usize::from(difference.abs() > 0.01);
        }
        assert!(
            moved > all.len() / 2,
            "{name}: most heads should matter, {moved} of {} do",
            all.len()
        );
    }
}

#[test]
fn the_loss_falls_and_only_the_coefficients_move() {
    let model = load("llama-3.1");
    // A random model has nothing to generalise: the same few sequences in every step.
    let few = task(&model).batch(6, 0..8).unwrap();
    let batch =
        ProxyBatch::from_sequences(vec![few.sequences(); 40].concat(), model.vocab_size()).unwrap();
    let before = evaluate(&model, &few, None).unwrap();
    let all: Vec<HeadId> = model.shape().heads().collect();
    let options = TrainOptions {
        steps: 40,
        batch_size: 8,
        ..options()
    };
    let mut trainer = Trainer::new(&model, &all, options).unwrap();
    trainer.run(&Sequences::Given(batch)).unwrap();
    let after = evaluate(&model, &few, Some(trainer.coefficients())).unwrap();
    assert!(after.loss < before.loss - 0.1, "{before:?}, {after:?}");
    assert!(
        trainer
            .coefficients()
            .values()
            .iter()
            .all(|value| *value != 1.0)
    );
    // The model itself is as it was.
    assert_eq!(evaluate(&model, &few, None).unwrap(), before);
    assert_eq!(trainer.profile().unwrap().coefficients.len(), all.len());
}

#[test]
fn losses_are_those_of_the_positions_that_predict_the_second_half() {
    let model = load("llama-2");
    let batch = task(&model).batch(6, 0..4).unwrap();
    let metrics = evaluate(&model, &batch, None).unwrap();
    let (mut all, mut predictable, mut right) = (0.0, 0.0, 0);
    for sequence in batch.sequences() {
        let log_probs = pear_models::log_probs(&model, sequence).unwrap();
        all -= log_probs[5..11].iter().sum::<f64>();
        predictable -= log_probs[6..11].iter().sum::<f64>();
        for i in 6..11 {
            let greedy = pear_models::GenerateOptions {
                max_new_tokens: 1,
                ..Default::default()
            };
            let next = pear_models::generate(&model, &sequence[..=i], &greedy).unwrap();
            right += usize::from(next[0] == sequence[i + 1]);
        }
    }
    assert!((metrics.loss - all / 24.0).abs() < 1e-5);
    assert!((metrics.cross_entropy - predictable / 20.0).abs() < 1e-5);
    assert_eq!(metrics.accuracy, right as f64 / 20.0);

    let ones = HeadCoefficients::ones(&heads(), &model.shape(), &model.device()).unwrap();
    let loss: f64 = proxy_loss(&model, &batch, &ones).unwrap().into_scalar();
    assert!((loss - metrics.loss).abs() < 1e-5);
}

#[test]
fn a_run_stopped_anywhere_and_gone_on_with_is_bit_for_bit_the_uninterrupted_one() {
    let model = load("llama-3.1");
    let whole = train(&model, &heads(), options());
    let folder = tempfile::tempdir().unwrap();
    for stop in [1, 5, 11] {
        let path = folder.path().join(format!("after-{stop}.json"));
        let mut trainer = Trainer::new(&model, &heads(), options()).unwrap();
        let run = trainer.run_with(&Sequences::Drawn(task(&model)), |trainer, step| {
            if step.step + 1 < stop {
                return Ok(ControlFlow::Continue(()));
            }
            trainer.save(&path)?;
            Ok::<_, Error>(ControlFlow::Break(()))
        });
        run.unwrap();
        assert_eq!(trainer.steps_done(), stop);

        let mut resumed = Trainer::new(&model, &heads(), options()).unwrap();
        resumed.restore(&path).unwrap();
        let mut rest = Vec::new();
        let run = resumed.run_with(&Sequences::Drawn(task(&model)), |_, step| {
            rest.push(step.clone());
            Ok::<_, Error>(ControlFlow::Continue(()))
        });
        run.unwrap();
        assert_eq!(rest, whole[stop..]);
    }
}

#[test]
fn gradients_of_parts_of_a_batch_add_up_to_those_of_the_whole() {
    let model = load("bloom");
    let whole = train(&model, &heads(), options());
    let parts = train(
        &model,
        &heads(),
        TrainOptions {
            micro_batch_size: Some(2),
            ..options()
        },
    );
    for (a, b) in whole.iter().zip(&parts) {
        assert!(
            (a.loss - b.loss).abs() < 1e-5 && (a.gradient_norm - b.gradient_norm).abs() < 1e-4,
            "{a:?}, {b:?}"
        );
    }
}

#[test]
fn clamping_clipping_and_decay_do_what_they_say() {
    let model = load("llama-2");
    let clamped = train(
        &model,
        &heads(),
        TrainOptions {
            clamp: Some((0.97, 1.01)),
            ..options()
        },
    );
    assert!(
        clamped
            .iter()
            .flat_map(|step| &step.coefficients)
            .all(|value| (0.97..=1.01).contains(value))
    );
    let free = train(&model, &heads(), options());
    let distance = |steps: &[StepReport]| {
        steps[11]
            .coefficients
            .iter()
            .map(|value| (value - 1.0).abs())
            .sum::<f32>()
    };
    let decayed = train(
        &model,
        &heads(),
        TrainOptions {
            weight_decay: 5.0,
            ..options()
        },
    );
    assert!(
        distance(&decayed) < 0.8 * distance(&free),
        "{} and {}",
        distance(&decayed),
        distance(&free)
    );
    // The norm is told as it was; Adam does not see a scale that is the same in every step.
    let clipped = train(
        &model,
        &heads(),
        TrainOptions {
            clip_norm: Some(1e-3),
            ..options()
        },
    );
    assert_eq!(clipped[0].gradient_norm, free[0].gradient_norm);
    assert_ne!(clipped[11].coefficients, free[11].coefficients);
}

#[test]
fn learning_rates_rise_and_fall_as_the_schedule_says() {
    let model = load("llama-2");
    let rates = |schedule| -> Vec<f64> {
        let options = TrainOptions {
            steps: 6,
            learning_rate: 0.01,
            schedule,
            ..options()
        };
        train(&model, &heads(), options)
            .iter()
            .map(|step| step.learning_rate)
            .collect()
    };
    assert_eq!(
        rates(Schedule::Linear),
        [0.0, 0.005, 0.01, 0.0075, 0.005, 0.0025]
    );
    assert_eq!(
        rates(Schedule::Constant),
        [0.0, 0.005, 0.01, 0.01, 0.01, 0.01]
    );
    let cosine = rates(Schedule::Cosine);
    assert!(
        (cosine[4] - 0.005).abs() < 1e-12
            && (cosine[3] - 0.01 * (1.0 + 0.5f64.sqrt()) / 2.0).abs() < 1e-12
    );
}

#[test]
fn a_run_that_diverges_stops_with_an_error_and_keeps_its_last_good_state() {
    let model = load("llama-2");
    let options = TrainOptions {
        learning_rate: 1e38,
        warmup_steps: 0,
        schedule: Schedule::Constant,
        ..options()
    };
    let mut trainer = Trainer::new(&model, &heads(), options).unwrap();
    let error = trainer.run(&Sequences::Drawn(task(&model))).unwrap_err();
    assert!(matches!(error, Error::Diverged { .. }), "{error}");
    assert!(error.to_string().contains("diverged"));
    assert!(
        trainer
            .coefficients()
            .values()
            .iter()
            .all(|value| value.is_finite())
    );
}

#[test]
fn options_out_of_range_name_the_option() {
    let model = load("llama-2");
    let refused = [
        (
            "steps",
            TrainOptions {
                steps: 0,
                ..options()
            },
        ),
        (
            "batch_size",
            TrainOptions {
                batch_size: 0,
                ..options()
            },
        ),
        (
            "length",
            TrainOptions {
                length: 1,
                ..options()
            },
        ),
        (
            "learning_rate",
            TrainOptions {
                learning_rate: f64::NAN,
                ..options()
            },
        ),
        (
            "learning_rate",
            TrainOptions {
                learning_rate: -0.1,
                ..options()
            },
        ),
        (
            "learning_rate",
            TrainOptions {
                learning_rate: 0.0,
                ..options()
            },
        ),
        (
            "weight_decay",
            TrainOptions {
                weight_decay: f64::INFINITY,
                ..options()
            },
        ),
        (
            "clip_norm",
            TrainOptions {
                clip_norm: Some(0.0),
                ..options()
            },
        ),
        (
            "clamp",
            TrainOptions {
                clamp: Some((1.0, 0.5)),
                ..options()
            },
        ),
        (
            "micro_batch_size",
            TrainOptions {
                micro_batch_size: Some(0),
                ..options()
            },
        ),
    ];
    for (option, options) in refused {
        let error = Trainer::new(&model, &heads(), options)
            .unwrap_err()
            .to_string();
        assert!(error.contains(&format!("`{option}`")), "{error}");
    }
    let trainer = |heads: &[HeadId]| {
        Trainer::new(&model, heads, options())
            .unwrap_err()
            .to_string()
    };
    assert!(trainer(&[]).contains("no heads"));
    assert!(trainer(&[HeadId::new(0, 6)]).contains("head 0.6 does not exist"));
    assert!(trainer(&[HeadId::new(0, 1), HeadId::new(0, 1)]).contains("head 0.1 is listed twice"));
}

#[test]
fn given_sequences_that_run_out_or_are_too_long_are_refused_before_the_first_step() {
    let model = load("opt");
    let few =
        ProxyBatch::from_sequences(vec![[5, 6, 7, 8, 9, 10].repeat(2); 35], model.vocab_size())
            .unwrap();
    let mut trainer = Trainer::new(&model, &heads(), options()).unwrap();
    let error = trainer.run(&Sequences::Given(few)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "step 11 of 12 needs 3 sequences, but only 2 are left"
    );
    assert_eq!(trainer.steps_done(), 0);
    let long = task(&model).batch(60, 0..2).unwrap();
    assert!(
        trainer
            .step(&long)
            .unwrap_err()
            .to_string()
            .contains("`length` is 6")
    );
    let mut trainer = Trainer::new(
        &model,
        &heads(),
        TrainOptions {
            length: 60,
            ..options()
        },
    )
    .unwrap();
    assert!(
        trainer
            .step(&long)
            .unwrap_err()
            .to_string()
            .contains("longer than the 96 positions")
    );
}

#[test]
fn checkpoints_of_another_run_and_broken_ones_are_refused_with_their_name() {
    let model = load("llama-2");
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("run.json");
    Trainer::new(&model, &heads(), options())
        .unwrap()
        .save(&path)
        .unwrap();
    let refuse = |trainer: &mut Trainer<&Decoder>, expected: &str| {
        let error = trainer.restore(&path).unwrap_err().to_string();
        assert!(
            error.contains("run.json") && error.contains(expected),
            "{error}"
        );
    };
    refuse(
        &mut Trainer::new(&model, &heads()[..2], options()).unwrap(),
        "other heads",
    );
    let other = TrainOptions {
        learning_rate: 0.1,
        ..options()
    };
    refuse(
        &mut Trainer::new(&model, &heads(), other).unwrap(),
        "`learning_rate` was",
    );
    refuse(
        &mut Trainer::new(&load("gpt2"), &heads(), options()).unwrap(),
        "made for llama",
    );
    let mut same = Trainer::new(&model, &heads(), options()).unwrap();
    let whole = std::fs::read_to_string(&path).unwrap();
    for broken in [
        "",
        "{",
        "[]",
        &whole[..whole.len() / 2],
        &whole.replace("\"values\":[1.0,", "\"values\":["),
        &whole.replace("pear-checkpoint", "x"),
    ] {
        std::fs::write(&path, broken).unwrap();
        refuse(&mut same, "");
    }
    std::fs::remove_file(&path).unwrap();
    refuse(&mut same, "cannot read");
}
