//! Learning coefficients against PyTorch: gradients, losses and coefficients over a dozen steps.

mod common;

use burn::prelude::*;
use burn::tensor::DType;
use common::{distance, expected, load, names, open};
use pear_core::kernels::inner_product;
use pear_core::model::DecoderLayer;
use pear_core::proxy::ProxyBatch;
use pear_core::{DecoderModel, HeadCoefficients, HeadId};
use pear_models::Decoder;
use pear_train::{TrainOptions, Trainer, proxy_loss};

/// What rounding in f32 leaves is below 1e-5.
const TOLERANCE: f64 = 1e-4;

#[test]
fn twelve_steps_follow_pytorch() {
    let mut compared = 0;
    for name in names() {
        let Some(train) = expected(&name).train else {
            continue;
        };
        let model = load(&name);
        let heads: Vec<HeadId> = train
            .heads
            .iter()
            .map(|&[layer, head]| HeadId::new(layer, head))
            .collect();
        let batches: Vec<ProxyBatch> = train
            .sequences
            .iter()
            .map(|batch| ProxyBatch::from_sequences(batch.clone(), model.vocab_size()).unwrap())
            .collect();

        let ones = HeadCoefficients::ones(&heads, &model.shape(), &model.device()).unwrap();
        let place = |head: &HeadId| ones.heads().iter().position(|h| h == head).unwrap();
        let gradients = gradients(&model, &heads, &batches[0]);
        assert!(
            distance(&gradients, &train.gradient) < TOLERANCE,
            "{name}: {gradients:?}, expected {:?}",
            train.gradient
        );

        let options = TrainOptions {
            steps: batches.len(),
            batch_size: batches[0].len(),
            length: batches[0].n(),
            learning_rate: train.learning_rate,
            warmup_steps: train.warmup_steps,
            ..TrainOptions::default()
        };
        let mut trainer = Trainer::new(&model, &heads, options).unwrap();
        for (step, batch) in batches.iter().enumerate() {
            let report = trainer.step(batch).unwrap();
            assert!(
                (report.loss - train.losses[step]).abs() < TOLERANCE,
                "{name}, step {step}: {report:?}"
            );
            let ours: Vec<f64> = heads
                .iter()
                .map(|head| f64::from(report.coefficients[place(head)]))
                .collect();
            assert!(
                distance(&ours, &train.coefficients[step]) < TOLERANCE,
                "{name}, step {step}: {ours:?}"
            );
        }
        compared += 1;
    }
    assert!(compared >= 8, "only {compared} models");
}

/// That of each head's coefficient where all are 1.
fn gradients(model: &Decoder, heads: &[HeadId], batch: &ProxyBatch) -> Vec<f64> {
    let ones = HeadCoefficients::ones(heads, &model.shape(), &model.device())
        .unwrap()
        .trainable();
    let gradients = ones.gradients(&proxy_loss(model, batch, &ones).unwrap().backward());
    let place = |head: &HeadId| ones.heads().iter().position(|h| h == head).unwrap();
    heads
        .iter()
        .map(|head| f64::from(gradients[place(head)]))
        .collect()
}

#[test]
fn gradients_over_a_half_precision_model_are_those_of_f32_up_to_its_rounding() {
    // Some gradients are sums of large parts that cancel: one model may be far off where most are not.
    for (dtype, typical, worst) in [(DType::BF16, 0.05, 0.5), (DType::F16, 0.005, 0.1)] {
        let mut errors = Vec::new();
        for name in names() {
            let Some(train) = expected(&name).train else {
                continue;
            };
            let heads: Vec<HeadId> = train
                .heads
                .iter()
                .map(|&[layer, head]| HeadId::new(layer, head))
                .collect();
            let model = open(&name).load(&Device::flex(), dtype).unwrap();
            let batch =
                ProxyBatch::from_sequences(train.sequences[0].clone(), model.vocab_size()).unwrap();
            let largest = train
                .gradient
                .iter()
                .fold(0.0, |largest: f64, g| largest.max(g.abs()));
            let error = distance(&gradients(&model, &heads, &batch), &train.gradient) / largest;
            assert!(
                error < worst,
                "{name} in {dtype:?}: off by {error} of the largest"
            );
            errors.push(error);
        }
        errors.sort_by(f64::total_cmp);
        assert!(errors[errors.len() / 2] < typical, "{dtype:?}: {errors:?}");
    }
}

#[test]
fn what_a_backward_pass_starts_from_has_the_gradients_of_the_layers_output() {
    for name in names() {
        let model = load(&name);
        let device = model.device();
        let random = |seed: u64| {
            let numbers: Vec<f32> = (0..2 * 3 * model.hidden_size())
                .map(|i| ((i as f32 + 1.0) * (seed as f32 + 0.7)).sin())
                .collect();
            let shape = [2, 3, model.hidden_size()];
            Tensor::<3>::from_data(TensorData::new(numbers, shape), &device)
        };
        for index in 0..model.shape().num_layers {
            let layer = model.layer(index).unwrap();
            let gradients = |start: &dyn Fn(Tensor<3>, Tensor<3>) -> Tensor<1>| {
                let [residual, output] = [1, 2].map(|seed| random(seed).autodiff().require_grad());
                let gradients = start(residual.clone(), output.clone()).backward();
                [residual, output].map(|x| x.grad(&gradients).unwrap())
            };
            let expected = gradients(&|residual, output| {
                inner_product(layer.output(residual, output), random(3))
            });
            let found =
                gradients(&|residual, output| layer.backward_start(residual, output, random(3)));
            for (expected, found) in expected.into_iter().zip(found) {
                let error: f32 = (expected.clone() - found).abs().max().into_scalar();
                let largest: f32 = expected.abs().max().into_scalar();
                assert!(
                    error < 1e-5 * largest.max(1.0),
                    "{name}, layer {index}: {error}"
                );
            }
        }
    }
}
