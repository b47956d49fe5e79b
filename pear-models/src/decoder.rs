//! The decoder of every family.

use burn::module::{Initializer, Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::prelude::*;
use burn::tensor::DType;
use burn::tensor::module::embedding;
use pear_core::kernels::linear;
use pear_core::position::{PositionEmbedding, PositionEmbeddingConfig};
use pear_core::{DecoderModel, HeadCoefficients, ModelShape, Norm, NormConfig, Positions, Profile};

use crate::config::DecoderConfig;
use crate::layer::{Layer, LayerRef};
use crate::layer_config::LayerConfig;
use crate::layer_stream::{LayerStream, StreamStatistics};

/// A decoder-only language model, configured by [`DecoderConfig`].
///
/// [`DecoderConfig::init`] makes one with random weights, [`ModelDirectory::load`](crate::ModelDirectory::load) one with those of a checkpoint,
/// and [`ModelDirectory::stream`](crate::ModelDirectory::stream) one whose layers are read when they are visited.
/// Parameters are named as in a Llama checkpoint, whatever the family.
#[derive(Module, Debug)]
pub struct Decoder {
    /// `[vocab, embedding_size]`.
    embed_tokens: Param<Tensor<2>>,
    project_in: Option<Linear>,
    positions: PositionEmbedding,
    embed_norm: Option<Norm>,
    /// Empty where they are streamed.
    layers: Vec<Layer>,
    norm: Option<Norm>,
    project_out: Option<Linear>,
    /// `[vocab, embedding_size]`; absent where it is the embedding.
    lm_head: Option<Param<Tensor<2>>>,
    /// `[vocab]`.
    lm_head_bias: Option<Param<Tensor<1>>>,
    /// In place of the layers.
    #[module(skip)]
    stream: Option<LayerStream>,
    #[module(skip)]
    config: DecoderConfig,
}

impl Decoder {
    pub(crate) fn init(config: &DecoderConfig, device: &Device) -> pear_core::Result<Self> {
        Ok(Self {
            layers: layers(&config.layers, device)?,
            ..Self::without_layers(config, device)?
        })
    }

    /// Everything but the layers.
    pub(crate) fn without_layers(
        config: &DecoderConfig,
        device: &Device,
    ) -> pear_core::Result<Self> {
        config.validate()?;
        let projected = config.embedding_size != config.hidden_size;
        let project = |from, to| LinearConfig::new(from, to).with_bias(false).init(device);
        let norm = |norm: Option<NormConfig>| Some(norm?.init(config.hidden_size, device));
        let table = || {
            Initializer::Normal {
                mean: 0.0,
                std: 0.02,
            }
            .init([config.vocab_size, config.embedding_size], device)
        };
        Ok(Self {
            embed_tokens: table(),
            project_in: projected.then(|| project(config.embedding_size, config.hidden_size)),
            positions: config.position_embedding.init(device)?,
            embed_norm: norm(config.embedding_norm),
            layers: Vec::new(),
            norm: norm(config.final_norm),
            project_out: projected.then(|| project(config.hidden_size, config.embedding_size)),
            lm_head: (!config.tie_word_embeddings).then(table),
            lm_head_bias: config
                .lm_head_bias
                .then(|| Initializer::Zeros.init([config.vocab_size], device)),
            stream: None,
            config: config.clone(),
        })
    }

    /// The same model with its layers from `stream`.
    pub(crate) fn streamed(self, stream: LayerStream) -> Self {
        Self {
            layers: Vec::new(),
            stream: Some(stream),
            ..self
        }
    }

    /// What reading its layers has cost so far; `None` where they are in memory.
    pub fn stream_statistics(&self) -> Option<StreamStatistics> {
        self.stream.as_ref().map(LayerStream::statistics)
    }

    /// What the model was made from.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// The dtype of the weights.
    pub fn dtype(&self) -> DType {
        self.embed_tokens.val().dtype()
    }

    /// The model with these coefficients on its heads from now on, in place of any it had.
    ///
    /// # Errors
    /// [`pear_core::Error::ShapeMismatch`] for coefficients of a model of another shape.
    pub fn with_coefficients(mut self, coefficients: &HeadCoefficients) -> pear_core::Result<Self> {
        coefficients.check_shape(&self.shape())?;
        if let Some(stream) = &mut self.stream {
            stream.set_coefficients(coefficients);
        }
        for (index, layer) in self.layers.iter_mut().enumerate() {
            layer.self_attn = layer
                .self_attn
                .clone()
                .with_coefficients(coefficients.layer(index).cloned())?;
        }
        Ok(self)
    }

    /// As [`with_coefficients`](Self::with_coefficients), from a profile.
    ///
    /// # Errors
    /// A profile for another shape of model.
    pub fn with_profile(self, profile: &Profile) -> pear_core::Result<Self> {
        let coefficients = profile.for_model(&self.shape(), &self.device())?;
        self.with_coefficients(&coefficients)
    }

    /// The same function with all coefficients multiplied into the output projections, and none left to apply.
    pub fn fold(mut self) -> Self {
        if let Some(stream) = &mut self.stream {
            stream.fold();
        }
        for layer in &mut self.layers {
            layer.self_attn = layer.self_attn.clone().fold();
        }
        self
    }

    /// The norm and projection between the residual stream and the unembedding: `[batch, seq, hidden]` to
    /// `[batch, seq, embedding_size]`.
    fn before_unembedding(&self, residual: Tensor<3>) -> Tensor<3> {
        let x = match &self.norm {
            Some(norm) => norm.forward(residual),
            None => residual,
        };
        match &self.project_out {
            Some(project) => project.forward(x),
            None => x,
        }
    }

    /// Scales and caps logits, in the families that do.
    fn shape_logits<const D: usize>(&self, mut logits: Tensor<D>) -> Tensor<D> {
        if let Some(scale) = self.config.logit_scale {
            logits = logits * scale;
        }
        match self.config.logit_soft_cap {
            Some(cap) => (logits / cap).tanh() * cap,
            None => logits,
        }
    }

    /// `[vocab, embedding_size]`.
    fn unembedding(&self) -> Tensor<2> {
        self.lm_head.as_ref().unwrap_or(&self.embed_tokens).val()
    }
}

fn layers(configs: &[LayerConfig], device: &Device) -> pear_core::Result<Vec<Layer>> {
    let positions = layer_positions(configs, device)?;
    let layers = configs.iter().zip(positions);
    layers
        .map(|(config, positions)| Layer::new(config, positions, device))
        .collect()
}

/// The position embedding of each layer. Equal ones are one, and so are their tables.
pub(crate) fn layer_positions(
    configs: &[LayerConfig],
    device: &Device,
) -> pear_core::Result<Vec<PositionEmbedding>> {
    let mut shared: Vec<(&PositionEmbeddingConfig, PositionEmbedding)> = Vec::new();
    let mut positions = Vec::with_capacity(configs.len());
    for config in configs {
        let wanted = &config.attention.position_embedding;
        positions.push(match shared.iter().find(|(known, _)| *known == wanted) {
            Some((_, positions)) => positions.clone(),
            None => {
                let positions = wanted.init(device)?;
                shared.push((wanted, positions.clone()));
                positions
            }
        });
    }
    Ok(positions)
}

impl DecoderModel for Decoder {
    type Layer<'a> = LayerRef<'a>;

    fn shape(&self) -> ModelShape {
        self.config.shape()
    }

    fn hidden_size(&self) -> usize {
        self.config.hidden_size
    }

    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn device(&self) -> Device {
        self.embed_tokens.val().device()
    }

    fn max_positions(&self) -> Option<usize> {
        self.config.max_positions()
    }

    fn positions_depend_on_length(&self) -> bool {
        let mut layers = self.config.layers.iter();
        layers.any(|layer| layer.attention.position_embedding.depends_on_length())
    }

    fn embed(&self, tokens: Tensor<2, Int>, positions: Positions) -> Tensor<3> {
        let mut x = embedding(self.embed_tokens.val(), tokens);
        if let Some(scale) = self.config.embedding_scale {
            x = x * scale;
        }
        if let Some(project) = &self.project_in {
            x = project.forward(x);
        }
        x = self.positions.add(x, positions);
        match &self.embed_norm {
            Some(norm) => norm.forward(x),
            None => x,
        }
    }

    fn layer(&self, index: usize) -> pear_core::Result<LayerRef<'_>> {
        match &self.stream {
            None => Ok(LayerRef::Resident(&self.layers[index])),
            Some(stream) => Ok(LayerRef::Streamed(stream.layer(index)?)),
        }
    }

    fn layers_on_demand(&self) -> bool {
        self.stream.is_some()
    }

    fn logits(&self, residual: Tensor<3>) -> Tensor<3> {
        let bias = self.lm_head_bias.as_ref().map(|bias| bias.val());
        let logits = linear(
            self.before_unembedding(residual),
            self.unembedding().transpose(),
            bias,
        );
        self.shape_logits(logits.cast(DType::F32))
    }

    fn target_logits(&self, residual: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
        let x = self.before_unembedding(residual.unsqueeze_dim(1));
        let [rows, _, width] = x.dims();
        let chosen = self
            .unembedding()
            .select(0, targets.clone())
            .cast(DType::F32);
        let logits = (x.reshape([rows, width]).cast(DType::F32) * chosen)
            .sum_dim(1)
            .reshape([rows]);
        self.shape_logits(match &self.lm_head_bias {
            Some(bias) => logits + bias.val().select(0, targets).cast(DType::F32),
            None => logits,
        })
    }
}

#[cfg(test)]
mod tests {
    use pear_core::HeadAttention;
    use pear_core::position::RotaryConfig;

    use super::*;
    use crate::config::DecoderSizes;

    #[test]
    fn each_layer_has_its_own_positions_and_equal_ones_share_a_table() {
        let device = Device::flex();
        let mut config = DecoderConfig::llama(DecoderSizes {
            vocab_size: 11,
            hidden_size: 32,
            intermediate_size: 20,
            num_hidden_layers: 3,
            num_attention_heads: 2,
        });
        let other = PositionEmbeddingConfig::Rotary(RotaryConfig::new(16, 500.0));
        config.layers[1].attention.position_embedding = other.clone();
        let decoder = config.init(&device).unwrap();
        let attention = |layer: usize| &decoder.layers[layer].self_attn;
        let has_table = |layer: usize| format!("{:?}", attention(layer)).contains("Some(Tables");

        let token = Tensor::<3>::ones([1, 1, 32], &device);
        let query = |layer: usize, position: usize| {
            let positions = Positions::after(position, 1);
            attention(layer).project_qkv(token.clone(), positions).query
        };
        assert!(!has_table(0) && !has_table(1) && !has_table(2));
        query(0, 5);
        assert!(has_table(0) && !has_table(1) && has_table(2));

        // At position 0 nothing is rotated.
        let error_against = |positions: &PositionEmbeddingConfig| {
            let positions = positions.init(&device).unwrap();
            let rotated = positions.rotate(query(1, 0), Positions::after(5, 1));
            let error = (query(1, 5) - rotated).abs().max();
            error.into_scalar::<f32>()
        };
        assert!(error_against(&other) < 1e-6);
        assert!(error_against(&config.layers[0].attention.position_embedding) > 1e-3);
    }
}
