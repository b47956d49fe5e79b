//! Which parameters a decoder has, and their shapes, without making it.

use pear_core::position::PositionEmbeddingConfig;
use pear_core::{NormConfig, QkNorm};

use crate::config::DecoderConfig;
use crate::layer_config::{LayerConfig, MlpConfig, Residual};
use crate::param::ModuleId::{self, *};
use crate::param::{ParamId, ParamKind};
use crate::tensor_part::MatrixLayout;

/// The weight of a module.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Weight {
    /// `[input, output]`.
    Linear { input: usize, output: usize },
    /// `[rows, width]`.
    Table { rows: usize, width: usize },
    /// `[width]`, in files perhaps as a matrix with rows of this many numbers.
    Vector { width: usize, row: Option<usize> },
}

/// The parameters of a module.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct ModuleShape {
    weight: Weight,
    /// Whether it has a weight of its own: a tied one is that of another module, and some norms have none.
    has_weight: bool,
    bias: bool,
}

impl ModuleShape {
    fn linear(input: usize, output: usize, bias: bool) -> Self {
        Self {
            weight: Weight::Linear { input, output },
            has_weight: true,
            bias,
        }
    }

    fn table(rows: usize, width: usize) -> Self {
        Self {
            weight: Weight::Table { rows, width },
            has_weight: true,
            bias: false,
        }
    }

    fn norm(width: usize, norm: NormConfig) -> Self {
        Self {
            weight: Weight::Vector { width, row: None },
            has_weight: norm.has_weight(),
            bias: norm.has_bias(),
        }
    }

    /// Output channels: columns of a linear module, rows of a table, numbers of a vector.
    pub fn channels(&self) -> usize {
        match self.weight {
            Weight::Linear { output, .. } => output,
            Weight::Table { rows, .. } => rows,
            Weight::Vector { width, .. } => width,
        }
    }

    /// How its weight stands in a file, where that of a linear module stands as `projections` says.
    pub fn layout(&self, projections: MatrixLayout) -> MatrixLayout {
        match self.weight {
            Weight::Linear { .. } => projections,
            Weight::Vector { row: Some(row), .. } => MatrixLayout::Rows(row),
            Weight::Table { .. } | Weight::Vector { .. } => MatrixLayout::Table,
        }
    }

    /// The shape of one of its parameters, if it has it.
    fn of(&self, kind: ParamKind) -> Option<Vec<usize>> {
        match (kind, self.weight) {
            (ParamKind::Bias, _) => self.bias.then(|| vec![self.channels()]),
            (ParamKind::Weight, _) if !self.has_weight => None,
            (ParamKind::Weight, Weight::Linear { input, output }) => Some(vec![input, output]),
            (ParamKind::Weight, Weight::Table { rows, width }) => Some(vec![rows, width]),
            (ParamKind::Weight, Weight::Vector { width, .. }) => Some(vec![width]),
        }
    }
}

impl DecoderConfig {
    /// Every parameter of the [`Decoder`](crate::Decoder) and its shape.
    pub(crate) fn parameters(&self) -> Vec<(ParamId, Vec<usize>)> {
        let layers = self.layers.iter().enumerate();
        let of_layers =
            layers.flat_map(|(layer, config)| parameters(Some(layer), config.modules()));
        parameters(None, self.modules())
            .into_iter()
            .chain(of_layers)
            .collect()
    }

    /// The shape of a module, if the model has it.
    pub(crate) fn module(&self, layer: Option<usize>, id: ModuleId) -> Option<ModuleShape> {
        let modules = match layer {
            Some(layer) => self.layers.get(layer)?.modules(),
            None => self.modules(),
        };
        let (_, shape) = modules.into_iter().find(|(module, _)| *module == id)?;
        Some(shape)
    }

    /// The modules outside the layers.
    fn modules(&self) -> Vec<(ModuleId, ModuleShape)> {
        let (hidden, embedding) = (self.hidden_size, self.embedding_size);
        let table = ModuleShape::table(self.vocab_size, embedding);
        let unembedding = ModuleShape {
            has_weight: !self.tie_word_embeddings,
            bias: self.lm_head_bias,
            ..table
        };
        let mut modules = vec![(EmbedTokens, table), (LmHead, unembedding)];
        if embedding != hidden {
            modules.push((ProjectIn, ModuleShape::linear(embedding, hidden, false)));
            modules.push((ProjectOut, ModuleShape::linear(hidden, embedding, false)));
        }
        if let PositionEmbeddingConfig::Learned {
            num_positions,
            width,
        } = self.position_embedding
        {
            modules.push((Positions, ModuleShape::table(num_positions, width)));
        }
        for (id, norm) in [
            (EmbedNorm, self.embedding_norm),
            (FinalNorm, self.final_norm),
        ] {
            modules.extend(norm.map(|norm| (id, ModuleShape::norm(hidden, norm))));
        }
        modules
    }
}

impl LayerConfig {
    fn modules(&self) -> Vec<(ModuleId, ModuleShape)> {
        let attention = &self.attention;
        let hidden = attention.hidden_size;
        let query = attention.num_attention_heads * attention.head_dim;
        let key_value = attention.num_key_value_heads * attention.head_dim;
        let into_heads = |width| ModuleShape::linear(hidden, width, attention.qkv_bias);
        let mut modules = vec![
            (QProj, into_heads(query)),
            (KProj, into_heads(key_value)),
            (VProj, into_heads(key_value)),
            (
                OProj,
                ModuleShape::linear(query, hidden, attention.output_bias),
            ),
        ];
        if let Some(qk_norm) = attention.qk_norm {
            for (id, heads) in [
                (QNorm, attention.num_attention_heads),
                (KNorm, attention.num_key_value_heads),
            ] {
                let width = qk_norm.width(heads, attention.head_dim);
                let mut norm = ModuleShape::norm(width, qk_norm.norm());
                if let QkNorm::EachHead(_) = qk_norm {
                    norm.weight = Weight::Vector {
                        width,
                        row: Some(attention.head_dim),
                    };
                }
                modules.push((id, norm));
            }
        }
        let norm = ModuleShape::norm(hidden, self.norm);
        modules.extend(self.residual.norms().iter().map(|&id| (id, norm)));
        let MlpConfig::Dense(mlp) = self.mlp;
        let inner = mlp.intermediate_size;
        let into_mlp = ModuleShape::linear(hidden, inner, mlp.bias);
        modules.push((UpProj, into_mlp));
        modules.push((DownProj, ModuleShape::linear(inner, hidden, mlp.bias)));
        if mlp.gated {
            modules.push((GateProj, into_mlp));
        }
        modules
    }
}

impl Residual {
    /// The norms of a layer.
    pub(crate) fn norms(self) -> &'static [ModuleId] {
        match self {
            Self::ParallelOneNorm => &[InputNorm],
            Self::NormedBranches => &[PostAttentionNorm, PostFeedforwardNorm],
            Self::Sandwich => &[
                InputNorm,
                PostAttentionNorm,
                PreFeedforwardNorm,
                PostFeedforwardNorm,
            ],
            Self::Serial | Self::SerialFromNorm | Self::Parallel | Self::PostNorm => {
                &[InputNorm, PostAttentionNorm]
            }
        }
    }
}

/// The parameters that these modules have, one after the other.
fn parameters(
    layer: Option<usize>,
    modules: Vec<(ModuleId, ModuleShape)>,
) -> Vec<(ParamId, Vec<usize>)> {
    let of_module = |(module, shape): (ModuleId, ModuleShape)| {
        ParamKind::ALL.into_iter().filter_map(move |kind| {
            let id = ParamId {
                layer,
                module,
                kind,
            };
            Some((id, shape.of(kind)?))
        })
    };
    modules.into_iter().flat_map(of_module).collect()
}

#[cfg(test)]
mod tests {
    use burn::module::{Module, ModuleVisitor, Param};
    use burn::prelude::*;
    use pear_core::kernels::Activation;

    use super::*;
    use crate::config::DecoderSizes;
    use crate::layer_config::DenseMlpConfig;

    /// The paths and shapes of a module's parameters.
    #[derive(Default)]
    struct Paths {
        path: Vec<String>,
        found: Vec<(String, Vec<usize>)>,
    }

    impl ModuleVisitor for Paths {
        fn enter_module(&mut self, name: &str, _container_type: &str) {
            self.path.push(name.into());
        }

        fn exit_module(&mut self, _name: &str, _container_type: &str) {
            self.path.pop();
        }

        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let shape = param.lazy_shape().to_vec();
            self.found.push((self.path.join("."), shape));
        }
    }

    fn llama() -> DecoderConfig {
        DecoderConfig::llama(DecoderSizes {
            vocab_size: 11,
            hidden_size: 12,
            intermediate_size: 20,
            num_hidden_layers: 2,
            num_attention_heads: 3,
        })
    }

    /// A Llama whose layers are all changed in the same way.
    fn changed(change: impl Fn(&mut LayerConfig)) -> DecoderConfig {
        let mut config = llama();
        config.layers.iter_mut().for_each(change);
        config
    }

    /// Everything that Llama does not have and that one model can have together, and a second layer unlike the first.
    fn full() -> DecoderConfig {
        let norm = NormConfig::Layer {
            eps: 1e-5,
            bias: true,
        };
        let mut config = changed(|layer| {
            layer.norm = norm;
            layer.mlp = MlpConfig::Dense(DenseMlpConfig {
                intermediate_size: 20,
                activation: Activation::Relu,
                gated: false,
                bias: true,
            });
            layer.attention.position_embedding = PositionEmbeddingConfig::None;
            layer.attention.qk_norm = Some(QkNorm::Head(NormConfig::Rms { eps: 1e-6 }));
            layer.attention.qkv_bias = true;
            layer.attention.output_bias = true;
        });
        config.embedding_size = 6;
        config.embedding_norm = Some(norm);
        config.final_norm = Some(norm);
        config.tie_word_embeddings = true;
        config.lm_head_bias = true;
        config.position_embedding = PositionEmbeddingConfig::Learned {
            num_positions: 9,
            width: 12,
        };
        let second = &mut config.layers[1];
        second.norm = NormConfig::Layer {
            eps: 1e-5,
            bias: false,
        };
        second.residual = Residual::ParallelOneNorm;
        second.attention.num_key_value_heads = 1;
        second.attention.qk_norm = None;
        second.mlp = llama().layers[0].mlp;
        config
    }

    #[test]
    fn parameters_are_those_of_the_decoder() {
        let sandwich = changed(|layer| {
            layer.norm = NormConfig::RmsPlusOne { eps: 1e-5 };
            layer.residual = Residual::Sandwich;
        });
        let branches = changed(|layer| {
            let norm = NormConfig::RmsRoundedOnce { eps: 1e-6 };
            layer.residual = Residual::NormedBranches;
            layer.attention.num_key_value_heads = 1;
            layer.attention.qk_norm = Some(QkNorm::Projection(norm));
        });
        let bare = changed(|layer| {
            let norm = NormConfig::Layer {
                eps: 1e-5,
                bias: false,
            };
            layer.norm = NormConfig::LayerWithoutWeight { eps: 1e-5 };
            layer.attention.qk_norm = Some(QkNorm::EachHead(norm));
        });
        for config in [llama(), full(), sandwich, branches, bare] {
            let mut seen = Paths::default();
            config.init(&Device::flex()).unwrap().visit(&mut seen);
            let mut expected: Vec<_> = config
                .parameters()
                .into_iter()
                .map(|(id, shape)| (id.to_string(), shape))
                .collect();
            seen.found.sort();
            expected.sort();
            assert_eq!(seen.found, expected);
            for (id, _) in config.parameters() {
                assert_eq!(ParamId::from_path(&id.to_string()), Some(id));
            }
        }
    }
}
