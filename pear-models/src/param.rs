//! The parameters of a decoder, by id.

use std::fmt;

/// A module of the [`Decoder`](crate::Decoder) that has parameters of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ModuleId {
    EmbedTokens,
    /// From the width of the embedding to that of the residual stream.
    ProjectIn,
    /// Learned positions.
    Positions,
    EmbedNorm,
    FinalNorm,
    /// From the width of the residual stream to that of the unembedding.
    ProjectOut,
    LmHead,
    InputNorm,
    PostAttentionNorm,
    PreFeedforwardNorm,
    PostFeedforwardNorm,
    QProj,
    KProj,
    VProj,
    OProj,
    QNorm,
    KNorm,
    GateProj,
    UpProj,
    DownProj,
    /// Chooses experts: one channel for each.
    Router,
    ExpertGateProj,
    ExpertUpProj,
    ExpertDownProj,
    /// How much of the shared expert a token takes: one channel.
    SharedExpertGate,
    SharedGateProj,
    SharedUpProj,
    SharedDownProj,
}

/// One of the two parameters that a module may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ParamKind {
    Weight,
    Bias,
}

/// A parameter of the [`Decoder`](crate::Decoder).
///
/// Written out it is the parameter's path among burn's modules, which is its name in a Llama checkpoint wherever Llama has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ParamId {
    /// The layer, for the modules that every layer has.
    pub layer: Option<usize>,
    /// The expert, for the modules that every expert of a layer has.
    pub expert: Option<usize>,
    pub module: ModuleId,
    pub kind: ParamKind,
}

/// Where a module is among burn's modules.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Path<'a> {
    /// Within the decoder.
    Model(&'a str),
    /// Within each layer.
    Layer(&'a str),
    /// Within each expert of a layer.
    Expert(&'a str),
}

/// Where the experts of a layer are within it.
const EXPERTS: &str = "moe.experts.";

impl ModuleId {
    const ALL: [Self; 28] = [
        Self::EmbedTokens,
        Self::ProjectIn,
        Self::Positions,
        Self::EmbedNorm,
        Self::FinalNorm,
        Self::ProjectOut,
        Self::LmHead,
        Self::InputNorm,
        Self::PostAttentionNorm,
        Self::PreFeedforwardNorm,
        Self::PostFeedforwardNorm,
        Self::QProj,
        Self::KProj,
        Self::VProj,
        Self::OProj,
        Self::QNorm,
        Self::KNorm,
        Self::GateProj,
        Self::UpProj,
        Self::DownProj,
        Self::Router,
        Self::ExpertGateProj,
        Self::ExpertUpProj,
        Self::ExpertDownProj,
        Self::SharedExpertGate,
        Self::SharedGateProj,
        Self::SharedUpProj,
        Self::SharedDownProj,
    ];

    const fn path(self) -> Path<'static> {
        match self {
            Self::EmbedTokens => Path::Model("embed_tokens"),
            Self::ProjectIn => Path::Model("project_in"),
            Self::Positions => Path::Model("positions"),
            Self::EmbedNorm => Path::Model("embed_norm"),
            Self::FinalNorm => Path::Model("norm"),
            Self::ProjectOut => Path::Model("project_out"),
            Self::LmHead => Path::Model("lm_head"),
            Self::InputNorm => Path::Layer("input_layernorm"),
            Self::PostAttentionNorm => Path::Layer("post_attention_layernorm"),
            Self::PreFeedforwardNorm => Path::Layer("pre_feedforward_layernorm"),
            Self::PostFeedforwardNorm => Path::Layer("post_feedforward_layernorm"),
            Self::QProj => Path::Layer("self_attn.q_proj"),
            Self::KProj => Path::Layer("self_attn.k_proj"),
            Self::VProj => Path::Layer("self_attn.v_proj"),
            Self::OProj => Path::Layer("self_attn.o_proj"),
            Self::QNorm => Path::Layer("self_attn.q_norm"),
            Self::KNorm => Path::Layer("self_attn.k_norm"),
            Self::GateProj => Path::Layer("mlp.gate_proj"),
            Self::UpProj => Path::Layer("mlp.up_proj"),
            Self::DownProj => Path::Layer("mlp.down_proj"),
            Self::Router => Path::Layer("moe.router"),
            Self::ExpertGateProj => Path::Expert("gate_proj"),
            Self::ExpertUpProj => Path::Expert("up_proj"),
            Self::ExpertDownProj => Path::Expert("down_proj"),
            Self::SharedExpertGate => Path::Layer("moe.shared_expert_gate"),
            Self::SharedGateProj => Path::Layer("moe.shared_expert.gate_proj"),
            Self::SharedUpProj => Path::Layer("moe.shared_expert.up_proj"),
            Self::SharedDownProj => Path::Layer("moe.shared_expert.down_proj"),
        }
    }
}

/// Parameters that the decoder holds itself, without a module around them.
const BARE: [(ModuleId, ParamKind, &str); 3] = [
    (ModuleId::EmbedTokens, ParamKind::Weight, "embed_tokens"),
    (ModuleId::LmHead, ParamKind::Weight, "lm_head"),
    (ModuleId::LmHead, ParamKind::Bias, "lm_head_bias"),
];

impl ParamKind {
    pub const ALL: [Self; 2] = [Self::Weight, Self::Bias];

    /// As the last part of a name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Weight => "weight",
            Self::Bias => "bias",
        }
    }
}

impl ParamId {
    /// The weight of a module that the model has once.
    pub const fn model_weight(module: ModuleId) -> Self {
        Self {
            layer: None,
            expert: None,
            module,
            kind: ParamKind::Weight,
        }
    }

    /// The weight of a module that every layer has.
    pub const fn layer_weight(layer: usize, module: ModuleId) -> Self {
        Self {
            layer: Some(layer),
            expert: None,
            module,
            kind: ParamKind::Weight,
        }
    }

    /// The parameter with this path among burn's modules: `layers.3.self_attn.q_proj.weight`.
    pub fn from_path(path: &str) -> Option<Self> {
        if let Some(&(module, kind, _)) = BARE.iter().find(|(.., name)| *name == path) {
            return Some(Self {
                layer: None,
                expert: None,
                module,
                kind,
            });
        }
        let (module, kind) = path.rsplit_once('.')?;
        let kind = ParamKind::ALL.into_iter().find(|k| k.name() == kind)?;
        let numbered = module
            .strip_prefix("layers.")
            .and_then(|rest| rest.split_once('.'));
        let (layer, module) = match numbered {
            Some((number, name)) => (Some(number.parse().ok()?), Path::Layer(name)),
            None => (None, Path::Model(module)),
        };
        let of_expert = match module {
            Path::Layer(name) => name.strip_prefix(EXPERTS),
            _ => None,
        };
        let (expert, module) = match of_expert.and_then(|rest| rest.split_once('.')) {
            Some((number, name)) => (Some(number.parse().ok()?), Path::Expert(name)),
            None => (None, module),
        };
        let module = ModuleId::ALL.into_iter().find(|m| m.path() == module)?;
        Some(Self {
            layer,
            expert,
            module,
            kind,
        })
    }
}

impl fmt::Display for ParamId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self {
            layer,
            expert,
            module,
            kind,
        } = *self;
        if let Some((.., path)) = BARE.iter().find(|&&(m, k, _)| (m, k) == (module, kind)) {
            return f.write_str(path);
        }
        if let Some(layer) = layer {
            write!(f, "layers.{layer}.")?;
        }
        if let Some(expert) = expert {
            write!(f, "{EXPERTS}{expert}.")?;
        }
        let (Path::Model(name) | Path::Layer(name) | Path::Expert(name)) = module.path();
        write!(f, "{name}.{}", kind.name())
    }
}
