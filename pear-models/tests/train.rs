//! Learning coefficients against PyTorch: gradients, losses and coefficients over a dozen steps.

mod common;

use common::{distance, expected, load, names};
use pear_core::proxy::ProxyBatch;
use pear_core::{DecoderModel, HeadCoefficients, HeadId};
use pear_train::{TrainOptions, Trainer, proxy_loss};

/// What rounding in f32 leaves is below 1e-5.
const TOLERANCE: f64 = 1e-4;

#[test]
fn twelve_steps_follow_pytorch() {
    let mut compared = 0;
    for name in names() {
        let Some(train) = expected(&name).train else { continue };
        let model = load(&name);
        let heads: Vec<HeadId> = train.heads.iter().map(|&[layer, head]| HeadId::new(layer, head)).collect();
        let batches: Vec<ProxyBatch> =
            train.sequences.iter().map(|batch| ProxyBatch::from_sequences(batch.clone(), model.vocab_size()).unwrap()).collect();

        let ones = HeadCoefficients::ones(&heads, model.shape().num_heads, &model.device()).unwrap().trainable();
        let place = |head: &HeadId| ones.heads().iter().position(|h| h == head).unwrap();
        let gradients = ones.gradients(&proxy_loss(&model, &batches[0], &ones).unwrap().backward());
        let gradients: Vec<f64> = heads.iter().map(|head| f64::from(gradients[place(head)])).collect();
        assert!(distance(&gradients, &train.gradient) < TOLERANCE, "{name}: {gradients:?}, expected {:?}", train.gradient);

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
            assert!((report.loss - train.losses[step]).abs() < TOLERANCE, "{name}, step {step}: {report:?}");
            let ours: Vec<f64> = heads.iter().map(|head| f64::from(report.coefficients[place(head)])).collect();
            assert!(distance(&ours, &train.coefficients[step]) < TOLERANCE, "{name}, step {step}: {ours:?}");
        }
        compared += 1;
    }
    assert!(compared >= 8, "only {compared} models");
}
