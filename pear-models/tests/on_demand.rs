//! A model whose layers are made when they are asked for and freed when they are dropped gives the numbers of one in memory.

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};

use burn::module::{Module, ModuleMapper, Param};
use burn::prelude::*;
use common::{expected, load};
use pear_core::forward::{logits, token_tensor};
use pear_core::{
    Attention, DecoderLayer, DecoderModel, HeadId, ModelShape, NoEdit, Positions, ProxyTask,
};
use pear_locate::{LocateOptions, Mode, locate, naive, proxy_batches};
use pear_models::{Decoder, GenerateOptions, Layer, generate};
use pear_train::{Sequences, TrainOptions, Trainer};

/// Hands out a copy of each layer, and counts how many are alive.
struct OnDemand {
    decoder: Decoder,
    alive: AtomicUsize,
    most_alive: AtomicUsize,
    made: AtomicUsize,
}

impl OnDemand {
    fn new(decoder: Decoder) -> Self {
        Self {
            decoder,
            alive: AtomicUsize::new(0),
            most_alive: AtomicUsize::new(0),
            made: AtomicUsize::new(0),
        }
    }

    /// The layers made since the last call, none of which is alive any more, and the most that were alive at once.
    fn counts(&self) -> (usize, usize) {
        assert_eq!(self.alive.load(Ordering::SeqCst), 0);
        let most_alive = self.most_alive.swap(0, Ordering::SeqCst);
        (self.made.swap(0, Ordering::SeqCst), most_alive)
    }
}

struct OwnedLayer<'a> {
    layer: Layer,
    alive: &'a AtomicUsize,
}

impl Drop for OwnedLayer<'_> {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

impl DecoderLayer for OwnedLayer<'_> {
    type Attention = Attention;

    fn attention(&self) -> &Attention {
        self.layer.attention()
    }

    fn attention_input(&self, residual: Tensor<3>) -> Tensor<3> {
        self.layer.attention_input(residual)
    }

    fn output(&self, residual: Tensor<3>, attention_output: Tensor<3>) -> Tensor<3> {
        self.layer.output(residual, attention_output)
    }
}

/// Gives every weight memory of its own.
struct Copies;

impl ModuleMapper for Copies {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|weight| Tensor::from_data(weight.to_data(), (&weight.device(), weight.dtype())))
    }
}

impl DecoderModel for OnDemand {
    type Layer<'a> = OwnedLayer<'a>;

    fn shape(&self) -> ModelShape {
        self.decoder.shape()
    }

    fn hidden_size(&self) -> usize {
        self.decoder.hidden_size()
    }

    fn vocab_size(&self) -> usize {
        self.decoder.vocab_size()
    }

    fn device(&self) -> Device {
        self.decoder.device()
    }

    fn embed(&self, tokens: Tensor<2, Int>, positions: Positions) -> Tensor<3> {
        self.decoder.embed(tokens, positions)
    }

    fn layer(&self, index: usize) -> pear_core::Result<OwnedLayer<'_>> {
        if index >= self.shape().num_layers {
            return Err(pear_core::Error::layer(index, "there is no such layer"));
        }
        let alive = 1 + self.alive.fetch_add(1, Ordering::SeqCst);
        self.most_alive.fetch_max(alive, Ordering::SeqCst);
        self.made.fetch_add(1, Ordering::SeqCst);
        let layer = self.decoder.layer(index)?.clone().map(&mut Copies);
        Ok(OwnedLayer {
            layer,
            alive: &self.alive,
        })
    }

    fn layers_on_demand(&self) -> bool {
        true
    }

    fn logits(&self, residual: Tensor<3>) -> Tensor<3> {
        self.decoder.logits(residual)
    }

    fn target_logits(&self, residual: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
        self.decoder.target_logits(residual, targets)
    }
}

#[test]
fn layers_made_on_demand_give_the_same_numbers_one_at_a_time() {
    let model = load("llama-3.1");
    let on_demand = OnDemand::new(model.clone());
    let layers = model.shape().num_layers;
    assert!(layers > 1);

    // Forward.
    let prompt = &expected("llama-3.1").prompts[0];
    let tokens = token_tensor(&[prompt], &model.device());
    let here = logits(&model, tokens.clone(), &mut NoEdit).unwrap();
    let there = logits(&on_demand, tokens, &mut NoEdit).unwrap();
    assert_eq!(here.into_data(), there.into_data());
    assert_eq!(on_demand.counts(), (layers, 1));

    // Locating, in one pass and head by head.
    let task = ProxyTask::new(model.vocab_size(), &[0], 1).unwrap();
    let batches = proxy_batches(&task, &[(6, 3), (4, 2)]).unwrap();
    for mode in [Mode::Activation, Mode::Path] {
        let options = LocateOptions {
            mode,
            ..LocateOptions::default()
        };
        let here = locate(&model, &batches, &options).unwrap();
        assert_eq!(here, locate(&on_demand, &batches, &options).unwrap());
        // Every layer serves all lengths, sequences and heads.
        assert_eq!(on_demand.counts(), (layers, 1));
        let here = naive::patched_logits(&model, &batches[1], &options).unwrap();
        assert_eq!(
            here,
            naive::patched_logits(&on_demand, &batches[1], &options).unwrap()
        );
        assert_eq!(on_demand.counts().1, 1);
    }

    // Training.
    let options = TrainOptions {
        steps: 4,
        batch_size: 3,
        length: 5,
        ..TrainOptions::default()
    };
    let heads = [HeadId::new(0, 1), HeadId::new(layers - 1, 0)];
    let resident = Trainer::new(&model, &heads, options.clone()).unwrap();
    let mut resident = resident.with_recompute(true);
    let mut streamed = Trainer::new(&on_demand, &heads, options).unwrap();
    resident.run(&Sequences::Drawn(task.clone())).unwrap();
    streamed.run(&Sequences::Drawn(task)).unwrap();
    assert_eq!(resident.losses(), streamed.losses());
    assert_eq!(
        resident.coefficients().values(),
        streamed.coefficients().values()
    );
    // Up, and down again.
    assert_eq!(on_demand.counts(), (4 * 2 * layers, 1));

    // Generating.
    let options = GenerateOptions {
        max_new_tokens: 5,
        ..GenerateOptions::default()
    };
    let here = generate(&model, prompt, &options).unwrap();
    let there = generate(&on_demand, prompt, &options).unwrap();
    assert_eq!(here, there);
    assert_eq!(on_demand.counts(), (5 * layers, 1));
}

/// Claims a layer more than it can make.
struct OneTooMany(OnDemand);

impl DecoderModel for OneTooMany {
    type Layer<'a> = OwnedLayer<'a>;

    fn shape(&self) -> ModelShape {
        let shape = self.0.shape();
        ModelShape::new(shape.architecture, shape.num_layers + 1, shape.num_heads)
    }

    fn hidden_size(&self) -> usize {
        self.0.hidden_size()
    }

    fn vocab_size(&self) -> usize {
        self.0.vocab_size()
    }

    fn device(&self) -> Device {
        self.0.device()
    }

    fn embed(&self, tokens: Tensor<2, Int>, positions: Positions) -> Tensor<3> {
        self.0.embed(tokens, positions)
    }

    fn layer(&self, index: usize) -> pear_core::Result<OwnedLayer<'_>> {
        self.0.layer(index)
    }

    fn logits(&self, residual: Tensor<3>) -> Tensor<3> {
        self.0.logits(residual)
    }
}

#[test]
fn a_layer_that_cannot_be_made_is_an_error_everywhere() {
    let model = OneTooMany(OnDemand::new(load("llama-3.1")));
    let missing = format!(
        "layer {}: there is no such layer",
        model.shape().num_layers - 1
    );
    let task = ProxyTask::new(model.vocab_size(), &[0], 1).unwrap();
    let batches = proxy_batches(&task, &[(4, 2)]).unwrap();
    let tokens = batches[0].tokens(&model.device());
    assert_eq!(
        logits(&model, tokens, &mut NoEdit).unwrap_err().to_string(),
        missing
    );
    let located = locate(&model, &batches, &LocateOptions::default());
    assert_eq!(located.unwrap_err().to_string(), missing);
    let options = TrainOptions {
        steps: 1,
        batch_size: 1,
        length: 4,
        ..TrainOptions::default()
    };
    let mut trainer = Trainer::new(&model, &[HeadId::new(0, 0)], options).unwrap();
    let trained = trainer.run(&Sequences::Drawn(task));
    assert_eq!(trained.unwrap_err().to_string(), missing);
    let generated = generate(&model, &[1, 2], &GenerateOptions::default());
    assert_eq!(generated.unwrap_err().to_string(), missing);
}
