//! Which parameters a decoder has, and their shapes, without making it.

use pear_core::QkNorm;
use pear_core::position::PositionEmbeddingConfig;

use crate::config::DecoderConfig;
use crate::dense_mlp_config::DenseMlpConfig;
use crate::experts_config::ExpertsConfig;
use crate::layer_config::{LayerConfig, MlpConfig, Residual};
use crate::module_shape::ModuleShape;
use crate::param::ModuleId::{self, *};
use crate::param::{ParamId, ParamKind};

impl DecoderConfig {
    /// Every parameter of the [`Decoder`](crate::Decoder) and its shape; those of experts after all others.
    ///
    /// They are made one by one: a config may lie about how many experts there are.
    pub(crate) fn parameters(&self) -> impl Iterator<Item = (ParamId, Vec<usize>)> + '_ {
        let of_layers = |in_experts: bool| {
            let layers = self.layers.iter().enumerate();
            layers.flat_map(move |(layer, config)| {
                let mut modules = config.modules();
                modules.retain(|(_, shape)| shape.num_experts().is_some() == in_experts);
                parameters(Some(layer), modules)
            })
        };
        parameters(None, self.modules())
            .chain(of_layers(false))
            .chain(of_layers(true))
    }

    /// Numbers in all parameters.
    pub fn num_parameters(&self) -> u64 {
        let of_layers = (0..self.layers.len()).map(|layer| self.num_layer_parameters(layer));
        of_layers.fold(numbers(self.modules()), u64::saturating_add)
    }

    /// Numbers in the parameters of a layer.
    ///
    /// # Panics
    /// If there is no such layer.
    pub fn num_layer_parameters(&self, layer: usize) -> u64 {
        numbers(self.layers[layer].modules())
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
        let unembedding = table.of_unembedding(self.tie_word_embeddings, self.lm_head_bias);
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

/// Numbers in the parameters of modules.
fn numbers(modules: Vec<(ModuleId, ModuleShape)>) -> u64 {
    let of_module = |(_, shape): (_, ModuleShape)| {
        let sizes = |kind| {
            let shape = shape.of(kind).unwrap_or_else(|| vec![0]);
            shape
                .into_iter()
                .fold(1, |numbers: u64, size| numbers.saturating_mul(size as u64))
        };
        let one = ParamKind::ALL
            .into_iter()
            .map(sizes)
            .fold(0, u64::saturating_add);
        one.saturating_mul(shape.num_experts().unwrap_or(1) as u64)
    };
    modules
        .into_iter()
        .map(of_module)
        .fold(0, u64::saturating_add)
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
                let norm = ModuleShape::norm(width, qk_norm.norm());
                let norm = match qk_norm {
                    QkNorm::EachHead(_) => norm.in_rows(attention.head_dim),
                    _ => norm,
                };
                modules.push((id, norm));
            }
        }
        let norm = ModuleShape::norm(hidden, self.norm);
        modules.extend(self.residual.norms().iter().map(|&id| (id, norm)));
        match self.mlp {
            MlpConfig::Dense(mlp) => {
                modules.extend(projections(&mlp, hidden, [GateProj, UpProj, DownProj]));
            }
            MlpConfig::Experts(experts) => modules.extend(of_experts(&experts, hidden)),
        }
        modules
    }
}

/// The projections of an MLP: gate, if it has one, up and down.
fn projections(
    mlp: &DenseMlpConfig,
    hidden: usize,
    [gate, up, down]: [ModuleId; 3],
) -> impl Iterator<Item = (ModuleId, ModuleShape)> {
    let inner = mlp.intermediate_size;
    let into_mlp = ModuleShape::linear(hidden, inner, mlp.bias);
    let gate = mlp.gated.then_some((gate, into_mlp));
    let down = (down, ModuleShape::linear(inner, hidden, mlp.bias));
    gate.into_iter().chain([(up, into_mlp), down])
}

/// Router, experts and shared expert.
fn of_experts(config: &ExpertsConfig, hidden: usize) -> Vec<(ModuleId, ModuleShape)> {
    let num_experts = config.num_experts;
    let router = ModuleShape::linear(hidden, num_experts, config.router_bias);
    let mut modules = vec![(Router, router)];
    let names = [ExpertGateProj, ExpertUpProj, ExpertDownProj];
    for (id, shape) in projections(&config.expert, hidden, names) {
        modules.push((id, shape.of_experts(num_experts)));
    }
    if let Some(shared) = &config.shared {
        let names = [SharedGateProj, SharedUpProj, SharedDownProj];
        modules.extend(projections(&shared.mlp, hidden, names));
        if shared.gated {
            modules.push((SharedExpertGate, ModuleShape::linear(hidden, 1, false)));
        }
    }
    modules
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
) -> impl Iterator<Item = (ParamId, Vec<usize>)> {
    modules.into_iter().flat_map(move |(module, shape)| {
        let experts = shape.num_experts();
        // Once, without a number, for modules outside the experts.
        (0..experts.unwrap_or(1)).flat_map(move |number| {
            ParamKind::ALL.into_iter().filter_map(move |kind| {
                let id = ParamId {
                    layer,
                    expert: experts.map(|_| number),
                    module,
                    kind,
                };
                Some((id, shape.of(kind)?))
            })
        })
    })
}

#[cfg(test)]
mod tests {
    use burn::module::{Module, ModuleVisitor, Param};
    use burn::prelude::*;
    use pear_core::NormConfig;
    use pear_core::kernels::Activation;

    use super::*;
    use crate::config::DecoderSizes;
    use crate::experts_config::{ExpertRouting, SharedExpertConfig};

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

    /// A layer of experts with all that they can have, and a dense one.
    fn mixture() -> DecoderConfig {
        let mut config = llama();
        let MlpConfig::Dense(expert) = config.layers[0].mlp else {
            unreachable!("Llama has dense layers");
        };
        config.layers[0].mlp = MlpConfig::Experts(ExpertsConfig {
            num_experts: 3,
            num_experts_per_token: 2,
            expert: DenseMlpConfig {
                bias: true,
                ..expert
            },
            routing: ExpertRouting::Softmax,
            router_bias: true,
            shared: Some(SharedExpertConfig {
                mlp: expert,
                gated: true,
            }),
        });
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
        for config in [llama(), full(), sandwich, branches, bare, mixture()] {
            let mut seen = Paths::default();
            config.init(&Device::flex()).unwrap().visit(&mut seen);
            let mut expected: Vec<_> = config
                .parameters()
                .map(|(id, shape)| (id.to_string(), shape))
                .collect();
            seen.found.sort();
            expected.sort();
            assert_eq!(seen.found, expected);
            let numbers =
                |(_, shape): &(String, Vec<usize>)| shape.iter().product::<usize>() as u64;
            let total: u64 = seen.found.iter().map(numbers).sum();
            assert_eq!(config.num_parameters(), total);
            for (id, _) in config.parameters() {
                assert_eq!(ParamId::from_path(&id.to_string()), Some(id));
            }
        }
    }
}
