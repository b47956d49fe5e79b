//! A model built by hand, attention and all, in which one head copies, one undoes it, and one does nothing.

use burn::prelude::*;
use pear_core::{
    DecoderLayer, DecoderModel, HeadAttention, HeadCoefficients, HeadId, ModelShape, Positions,
    ProxyTask, Qkv,
};
use pear_train::{Sequences, TrainOptions, Trainer, evaluate};

const VOCAB: usize = 12;
const N: usize = 5;
/// Of queries, keys and values: a place or two tokens, whichever is more.
const HEAD_DIM: usize = 2 * VOCAB;
/// Copies with weight 6, suppresses with weight −4, and writes nothing.
const WRITES: [f64; 3] = [6.0, -4.0, 0.0];

/// Every head attends from position `p` to `p + 1 − N`, where the token after this one stood for the first time.
struct Induction;

impl HeadAttention for Induction {
    fn project_qkv(&self, input: Tensor<3>, _: Positions) -> Qkv {
        let [batch, seq, _] = input.dims();
        let device = input.device();
        let place = Tensor::<2>::eye(HEAD_DIM, &device).narrow(0, 0, seq);
        let wide = |x: Tensor<2>| {
            x.unsqueeze::<4>()
                .expand([batch, WRITES.len(), seq, HEAD_DIM])
        };
        let earlier: Vec<f32> = (0..seq * HEAD_DIM)
            .map(|i| f32::from(u8::from(i / HEAD_DIM + 1 == i % HEAD_DIM + N)))
            .collect();
        let earlier = Tensor::<2>::from_data(TensorData::new(earlier, [seq, HEAD_DIM]), &device);
        let value = input
            .unsqueeze_dim::<4>(1)
            .expand([batch, WRITES.len(), seq, HEAD_DIM]);
        Qkv {
            query: wide(earlier * 200.0),
            key: wide(place),
            value,
        }
    }

    fn output_projection(&self, heads: Tensor<4>) -> Tensor<3> {
        let [batch, _, seq, _] = heads.dims();
        let weights = Tensor::<1>::from_floats(WRITES.map(|w| w as f32), &heads.device().inner())
            .reshape([1, WRITES.len(), 1, 1]);
        let copied = (heads.narrow(3, 0, VOCAB) * weights)
            .sum_dim(1)
            .reshape([batch, seq, VOCAB]);
        // What was read goes to the second half of the residual stream, where logits are read off.
        Tensor::cat(vec![copied.zeros_like(), copied], 2)
    }
}

struct Planted;

impl DecoderLayer for Induction {
    type Attention = Self;

    fn attention(&self) -> &Self {
        self
    }

    fn attention_input(&self, residual: Tensor<3>) -> Tensor<3> {
        residual
    }

    fn output(&self, residual: Tensor<3>, attention_output: Tensor<3>) -> Tensor<3> {
        residual + attention_output
    }
}

impl DecoderModel for Planted {
    type Layer<'a> = Induction;

    fn shape(&self) -> ModelShape {
        ModelShape::new("planted", 1, WRITES.len())
    }

    fn hidden_size(&self) -> usize {
        2 * VOCAB
    }

    fn vocab_size(&self) -> usize {
        VOCAB
    }

    fn device(&self) -> Device {
        Device::flex()
    }

    fn embed(&self, tokens: Tensor<2, Int>, _: Positions) -> Tensor<3> {
        let table = Tensor::cat(
            vec![
                Tensor::eye(VOCAB, &self.device()),
                Tensor::zeros([VOCAB, VOCAB], &self.device()),
            ],
            1,
        );
        burn::tensor::module::embedding(table, tokens)
    }

    fn layer(&self, _: usize) -> pear_core::Result<Induction> {
        Ok(Induction)
    }

    fn logits(&self, residual: Tensor<3>) -> Tensor<3> {
        residual.narrow(2, VOCAB, VOCAB)
    }
}

#[test]
fn the_copier_gains_the_suppressor_loses_and_the_idle_head_stays() {
    let task = ProxyTask::new(VOCAB, &[], 1).unwrap();
    let held_out = task.batch(N, 5000..5100).unwrap();
    let heads: Vec<HeadId> = Planted.shape().heads().collect();
    let options = TrainOptions {
        steps: 60,
        batch_size: 10,
        length: N,
        learning_rate: 0.02,
        ..TrainOptions::default()
    };
    let mut trainer = Trainer::new(&Planted, &heads, options).unwrap();
    let before = evaluate(&Planted, &held_out, None).unwrap();
    trainer.run(&Sequences::Drawn(task)).unwrap();
    let after = evaluate(&Planted, &held_out, Some(trainer.coefficients())).unwrap();
    let values = trainer.coefficients().values();
    println!("{values:?}: {before:?} to {after:?}");
    assert!(values[0] > 1.1 && values[1] < 0.9, "{values:?}");
    assert_eq!(values[2], 1.0);
    assert!(
        after.cross_entropy < 0.5 * before.cross_entropy,
        "{before:?}, {after:?}"
    );
}

#[test]
fn the_loss_and_accuracy_are_what_the_weights_say() {
    let batch = ProxyTask::new(VOCAB, &[], 1)
        .unwrap()
        .batch(N, 0..50)
        .unwrap();
    // One logit of 6 a − 4 b for the right token against eleven of 0.
    for (a, b) in [(1.0f32, 1.0), (1.0, 0.0), (0.0, 0.5)] {
        let values = [(HeadId::new(0, 0), a), (HeadId::new(0, 1), b)];
        let coefficients =
            HeadCoefficients::new(&values, &Planted.shape(), &Planted.device()).unwrap();
        let metrics = evaluate(&Planted, &batch, Some(&coefficients)).unwrap();
        let logit = f64::from(6.0 * a - 4.0 * b);
        let expected = (logit.exp() + (VOCAB - 1) as f64).ln() - logit;
        assert!(
            (metrics.cross_entropy - expected).abs() < 1e-5,
            "{metrics:?}, expected {expected}"
        );
        assert_eq!(metrics.accuracy, if logit > 0.0 { 1.0 } else { 0.0 });
    }
}
