//! Coefficients fit the model they were made for, stay with their heads, and leave no graph that nobody asked for.

use burn::module::Module;
use burn::nn::attention::{
    MhaInput, MultiHeadAttention, MultiHeadAttentionConfig, generate_autoregressive_mask,
};
use burn::nn::{Linear, LinearConfig};
use burn::prelude::*;
use burn::tensor::Distribution;
use pear_core::edit::{ReplaceHead, Replacement};
use pear_core::forward::{logits, residual_cached, training_logits};
use pear_core::reparam::HeadScaling;
use pear_core::{
    Attention, AttentionConfig, DecoderLayer, DecoderModel, Error, HeadCoefficients, HeadEdit,
    HeadId, KvCache, LayerCoefficients, ModelShape, NoEdit, Positions, Result,
};

const VOCAB: usize = 11;
const HIDDEN: usize = 12;

#[derive(Module, Debug)]
struct Layer<A: Module> {
    attention: A,
}

impl<A: Module + pear_core::HeadAttention> DecoderLayer for Layer<A> {
    type Attention = A;

    fn attention(&self) -> &A {
        &self.attention
    }

    fn attention_input(&self, residual: Tensor<3>) -> Tensor<3> {
        residual
    }

    fn output(&self, residual: Tensor<3>, attention_output: Tensor<3>) -> Tensor<3> {
        residual + attention_output
    }
}

#[derive(Module, Debug)]
struct Model<A: Module> {
    layers: Vec<Layer<A>>,
    embedding: Linear,
    num_heads: usize,
}

impl<A: Module + pear_core::HeadAttention> DecoderModel for Model<A> {
    type Layer<'a>
        = &'a Layer<A>
    where
        Self: 'a;

    fn shape(&self) -> ModelShape {
        ModelShape::new("test", self.layers.len(), self.num_heads)
    }

    fn hidden_size(&self) -> usize {
        HIDDEN
    }

    fn vocab_size(&self) -> usize {
        VOCAB
    }

    fn max_positions(&self) -> Option<usize> {
        Some(6)
    }

    fn device(&self) -> Device {
        self.embedding.weight.val().device()
    }

    fn embed(&self, tokens: Tensor<2, Int>, _: Positions) -> Tensor<3> {
        burn::tensor::module::embedding(self.embedding.weight.val(), tokens)
    }

    fn layer(&self, index: usize) -> Result<&Layer<A>> {
        Ok(&self.layers[index])
    }

    fn logits(&self, residual: Tensor<3>) -> Tensor<3> {
        residual.matmul(self.embedding.weight.val().transpose().unsqueeze())
    }
}

fn grouped() -> AttentionConfig {
    AttentionConfig::new(HIDDEN, 6).with_num_key_value_heads(2)
}

/// Two layers of six query heads on two key/value heads.
fn model() -> Model<Attention> {
    let device = Device::flex();
    let layer = || Layer {
        attention: grouped().init(&device).unwrap(),
    };
    Model {
        layers: vec![layer(), layer()],
        embedding: LinearConfig::new(VOCAB, HIDDEN)
            .with_bias(false)
            .init(&device),
        num_heads: 6,
    }
}

fn tokens(ids: &[i32]) -> Tensor<2, Int> {
    Tensor::from_data(
        TensorData::new(ids.to_vec(), [1, ids.len()]),
        &Device::flex(),
    )
}

fn coefficients(model: &Model<Attention>, pairs: &[(usize, usize, f32)]) -> HeadCoefficients {
    let pairs: Vec<_> = pairs
        .iter()
        .map(|&(l, h, value)| (HeadId::new(l, h), value))
        .collect();
    HeadCoefficients::new(&pairs, &model.shape(), &Device::flex()).unwrap()
}

fn layer_of(num_heads: usize) -> LayerCoefficients {
    let shape = ModelShape::new("test", 1, num_heads);
    let head = [(HeadId::new(0, 1), 0.5)];
    HeadCoefficients::new(&head, &shape, &Device::flex())
        .unwrap()
        .layer(0)
        .unwrap()
        .clone()
}

#[test]
fn coefficients_of_another_shape_are_refused_wherever_they_are_attached() {
    let model = model();
    // The number of key/value heads is not that of heads.
    let wrong = ModelShape::new("test", 2, 2);
    let mut wrong =
        HeadCoefficients::new(&[(HeadId::new(0, 1), 0.0)], &wrong, &Device::flex()).unwrap();
    let refused = logits(&model, tokens(&[1, 2]), &mut wrong).unwrap_err();
    assert!(matches!(refused, Error::ShapeMismatch { .. }), "{refused}");
    let refused = training_logits(&model, tokens(&[1, 2]), &mut wrong.tracked()).unwrap_err();
    assert!(matches!(refused, Error::ShapeMismatch { .. }), "{refused}");

    let attention = grouped().init(&Device::flex()).unwrap();
    let refused = attention
        .clone()
        .with_coefficients(Some(layer_of(2)))
        .unwrap_err();
    assert!(
        matches!(
            refused,
            Error::HeadCount {
                expected: 6,
                found: 2
            }
        ),
        "{refused}"
    );
    assert!(attention.with_coefficients(Some(layer_of(6))).is_ok());

    let shape = model.shape();
    let beyond = HeadCoefficients::new(&[(HeadId::new(999, 0), 0.5)], &shape, &Device::flex());
    assert!(matches!(beyond.unwrap_err(), Error::HeadOutOfRange { .. }));
}

#[test]
#[should_panic(expected = "LayerCoefficients::scale: head outputs of shape [1, 3, 2, 4]")]
fn scaling_another_number_of_heads_panics() {
    layer_of(6).scale(Tensor::ones([1, 3, 2, 4], &Device::flex()));
}

#[test]
#[should_panic(expected = "LayerCoefficients::fold: an output projection of shape [8, 4]")]
fn folding_into_a_weight_of_other_heads_panics() {
    layer_of(6).fold(Tensor::ones([8, 4], &Device::flex()));
}

#[test]
fn edits_that_cannot_be_made_are_errors() {
    let model = model();
    let replace = |layer, head, position, with| {
        let mut edit = ReplaceHead {
            head: HeadId::new(layer, head),
            position,
            with,
        };
        logits(&model, tokens(&[1, 2, 3]), &mut edit)
    };
    assert!(replace(1, 5, Some(2), Replacement::Zero).is_ok());
    let cases = [
        (
            replace(2, 0, None, Replacement::Zero),
            "head 2.0 does not exist",
        ),
        (
            replace(0, 6, None, Replacement::Zero),
            "head 0.6 does not exist",
        ),
        (
            replace(0, 0, Some(3), Replacement::Zero),
            "position 3 of a sequence of 3",
        ),
        (
            replace(
                0,
                0,
                None,
                Replacement::Vector(Tensor::zeros([1, 5], &Device::flex())),
            ),
            "expected [batch, head_dim] = [1, 2]",
        ),
    ];
    for (result, expected) in cases {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let mut beyond = ReplaceHead {
        head: HeadId::new(0, 6),
        position: None,
        with: Replacement::Zero,
    };
    assert!(
        beyond
            .edit(0, Tensor::ones([1, 6, 2, 4], &Device::flex()))
            .is_err()
    );
}

#[test]
fn coefficients_on_top_of_others_are_refused() {
    let mut model = model();
    let mut on_top = coefficients(&model, &[(1, 0, 0.5)]);
    assert!(logits(&model, tokens(&[1]), &mut on_top).is_ok());
    let attention = model.layers[0].attention.clone();
    model.layers[0].attention = attention.with_coefficients(Some(layer_of(6))).unwrap();
    // Even for another layer: what is learned or measured would be relative to those of the first.
    let refused = logits(&model, tokens(&[1]), &mut on_top).unwrap_err();
    assert!(
        matches!(refused, Error::AlreadyReweighted { layer: 0 }),
        "{refused}"
    );
    assert!(logits(&model, tokens(&[1]), &mut NoEdit).is_ok());
}

#[test]
fn fixed_coefficients_stay_fixed_when_their_module_is_trained() {
    let model = model();
    let fixed = coefficients(&model, &[(0, 1, 0.5), (1, 2, 0.25)]);
    assert!(!fixed.clone().train().is_tracked());
    assert!(!fixed.clone().trainable().fixed().train().is_tracked());
    assert!(fixed.clone().trainable().is_tracked());
    assert!(fixed.clone().trainable().valid().train().is_tracked());
    let attention = model.layers[0].attention.clone();
    let reweighted = attention
        .with_coefficients(fixed.layer(0).cloned())
        .unwrap()
        .train();
    assert!(!reweighted.coefficients().unwrap().is_tracked());
}

#[test]
fn saved_coefficients_stay_with_their_heads() {
    let model = model();
    let saved = coefficients(&model, &[(0, 1, 0.5), (0, 4, 0.25), (1, 5, 2.0)]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("coefficients.bpk");
    saved.clone().save_file(&path).unwrap();
    // As many heads in the same layers, but others.
    let others = coefficients(&model, &[(0, 0, 1.0), (0, 2, 1.0), (1, 3, 1.0)]);
    let loaded = others.load_file(&path);
    assert_eq!(
        (loaded.heads(), loaded.values()),
        (saved.heads(), saved.values())
    );
    let heads = Tensor::<4>::ones([1, 6, 1, 1], &Device::flex());
    let scaled = loaded.layer(0).unwrap().scale(heads).into_data();
    assert_eq!(
        scaled.iter::<f32>().collect::<Vec<_>>(),
        [1.0, 0.5, 1.0, 1.0, 0.25, 1.0]
    );
}

#[test]
fn inference_with_trainable_coefficients_makes_no_graph() {
    let model = model();
    let mut trainable = coefficients(&model, &[(0, 1, 0.5), (1, 3, 0.7)]).trainable();
    let fixed = logits(&model, tokens(&[1, 2, 3]), &mut trainable.fixed()).unwrap();
    let untracked = logits(&model, tokens(&[1, 2, 3]), &mut trainable).unwrap();
    assert!(!untracked.is_autodiff());
    assert_eq!(untracked.into_data(), fixed.clone().into_data());
    let tracked = training_logits(&model, tokens(&[1, 2, 3]), &mut trainable.tracked()).unwrap();
    assert!(tracked.is_tracked());
    assert_eq!(tracked.clone().inner().into_data(), fixed.into_data());
    let gradients = trainable.gradients(&tracked.square().sum().backward());
    assert!(
        gradients.iter().all(|gradient| *gradient != 0.0),
        "{gradients:?}"
    );

    // What would keep a graph is refused.
    let refused = logits(&model, tokens(&[1]), &mut trainable.tracked()).unwrap_err();
    assert!(matches!(refused, Error::Tracked), "{refused}");
    let mut cache = KvCache::new(2, 4);
    let refused = residual_cached(
        &model.clone().train(),
        tokens(&[1]),
        &mut cache,
        &mut NoEdit,
    );
    assert!(matches!(refused.unwrap_err(), Error::Tracked));
}

#[test]
fn tokens_and_positions_that_the_model_does_not_have_are_errors() {
    let model = model();
    let refused = logits(&model, tokens(&[1, 11]), &mut NoEdit).unwrap_err();
    assert!(
        matches!(
            refused,
            Error::OutOfVocabulary {
                token: 11,
                vocab_size: 11
            }
        ),
        "{refused}"
    );
    let refused = logits(&model, tokens(&[-1]), &mut NoEdit).unwrap_err();
    assert!(
        matches!(refused, Error::OutOfVocabulary { token: -1, .. }),
        "{refused}"
    );
    let refused = logits(&model, tokens(&[1; 7]), &mut NoEdit).unwrap_err();
    assert!(
        matches!(
            refused,
            Error::TooLong {
                length: 7,
                max_positions: 6
            }
        ),
        "{refused}"
    );
    let mut cache = KvCache::new(2, 8);
    residual_cached(&model, tokens(&[1; 4]), &mut cache, &mut NoEdit).unwrap();
    let refused = residual_cached(&model, tokens(&[1; 3]), &mut cache, &mut NoEdit).unwrap_err();
    assert!(
        matches!(refused, Error::TooLong { length: 7, .. }),
        "{refused}"
    );
}

#[test]
fn scaling_that_finds_no_output_projection_is_an_error() {
    let model = model();
    let attach = |layer_of: fn(&str) -> Option<usize>| {
        let scaling = HeadScaling::new(coefficients(&model, &[(1, 2, 0.5)]), layer_of);
        scaling
            .attach(model.clone())
            .map(|_| ())
            .map_err(|error| error.to_string())
    };
    attach(|path| (path == "layers.1.attention.o_proj.weight").then_some(1)).unwrap();
    let error = attach(|path| (path == "layers.1.attn.o_proj.weight").then_some(1)).unwrap_err();
    assert!(
        error.contains("layer 1") && error.contains("no parameter"),
        "{error}"
    );
    let error = attach(|path| path.ends_with("o_proj.weight").then_some(1)).unwrap_err();
    assert!(
        error.contains("expected one parameter, found layers.0"),
        "{error}"
    );
    let error = attach(|path| (path == "embedding.weight").then_some(1)).unwrap_err();
    assert!(error.contains("[11, 12]"), "{error}");
}

#[test]
fn burns_own_attention_gives_what_burn_computes_and_can_be_reweighted() {
    let device = Device::flex();
    let attention: MultiHeadAttention = MultiHeadAttentionConfig::new(HIDDEN, 3)
        .with_dropout(0.0)
        .init(&device);
    let input = Tensor::<3>::random([2, 5, HIDDEN], Distribution::Normal(0.0, 1.0), &device);
    let mask = generate_autoregressive_mask(2, 5, &device);
    let theirs = attention
        .forward(MhaInput::self_attn(input.clone()).mask_attn(mask))
        .context;
    let qkv = pear_core::HeadAttention::project_qkv(&attention, input, Positions::first(5));
    let heads = pear_core::attend(&attention, qkv.query, qkv.key, qkv.value);
    let ours = pear_core::HeadAttention::output_projection(&attention, heads);
    let error: f32 = (ours - theirs).abs().max().into_scalar();
    assert!(error < 1e-6, "{error}");

    let embedding = LinearConfig::new(VOCAB, HIDDEN)
        .with_bias(false)
        .init(&device);
    let model = Model {
        layers: vec![Layer { attention }],
        embedding,
        num_heads: 3,
    };
    let mut off =
        HeadCoefficients::new(&[(HeadId::new(0, 1), 0.0)], &model.shape(), &device).unwrap();
    let mut zeroed = ReplaceHead {
        head: HeadId::new(0, 1),
        position: None,
        with: Replacement::Zero,
    };
    let scaled = logits(&model, tokens(&[1, 2, 3]), &mut off).unwrap();
    let replaced = logits(&model, tokens(&[1, 2, 3]), &mut zeroed).unwrap();
    assert_eq!(scaled.into_data(), replaced.into_data());
}
