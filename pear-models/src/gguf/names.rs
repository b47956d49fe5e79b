//! The names of tensors in GGUF files (`tensor_mapping.py` of gguf-py).

use crate::family::{Row, TensorNames, row};
use crate::param::ModuleId::*;
use crate::tensor_part::MatrixLayout;

/// The names of an architecture.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names {
    /// In files that have a tensor for each of queries, keys and values.
    pub separate: &'static TensorNames,
    /// In files that have one for all three.
    pub packed: &'static TensorNames,
}

/// Most architectures.
pub(super) const PLAIN: Names = Names {
    separate: &names(&[SEPARATE, MLP, NORMS, COMMON]),
    packed: &names(&[PACKED, MLP, NORMS, COMMON]),
};

/// Llama and the architectures that share its conversion, which reorders the rows of queries and keys.
pub(super) const LLAMA: Names = Names {
    separate: &names(&[SEPARATE_PAIRS, MLP, NORMS, COMMON]),
    packed: &names(&[PACKED_PAIRS, MLP, NORMS, COMMON]),
};

/// Norms after attention and MLP: Gemma 2 and 3, OLMo 2 and 3, EXAONE 4.
pub(super) const BRANCH_NORMS: Names = Names {
    separate: &names(&[SEPARATE, MLP, NORMS_OF_BRANCHES, COMMON]),
    packed: &names(&[PACKED, MLP, NORMS_OF_BRANCHES, COMMON]),
};

/// The same with the gate and what it multiplies in one tensor: GLM-4.
pub(super) const BRANCH_NORMS_PACKED_MLP: Names = Names {
    separate: &names(&[SEPARATE, MLP_IN_ONE, NORMS_OF_BRANCHES, COMMON]),
    packed: &names(&[PACKED, MLP_IN_ONE, NORMS_OF_BRANCHES, COMMON]),
};

/// The norm before the MLP under the name of the one after attention: Seed-OSS.
pub(super) const SEED_OSS: Names = Names {
    separate: &names(&[SEPARATE, MLP, NORMS_OF_SEED_OSS, COMMON]),
    packed: &names(&[PACKED, MLP, NORMS_OF_SEED_OSS, COMMON]),
};

/// The gate and what it multiplies in one tensor: Phi-3.
pub(super) const PACKED_MLP: Names = Names {
    separate: &names(&[SEPARATE, MLP_IN_ONE, NORMS, COMMON]),
    packed: &names(&[PACKED, MLP_IN_ONE, NORMS, COMMON]),
};

/// Two norms before a parallel layer, of which the second one has the name of the first: Falcon-40B.
pub(super) const FALCON_40B: Names = Names {
    separate: &names(&[SEPARATE, MLP, NORMS_OF_FALCON_40B, COMMON]),
    packed: &names(&[PACKED, MLP, NORMS_OF_FALCON_40B, COMMON]),
};

/// Models with experts.
pub(super) const EXPERTS: Names = Names {
    separate: &names(&[SEPARATE, STACKED_EXPERTS, NORMS, COMMON]),
    packed: &names(&[PACKED, STACKED_EXPERTS, NORMS, COMMON]),
};

/// The same with the rows of queries and keys in Llama's order.
pub(super) const LLAMA_EXPERTS: Names = Names {
    separate: &names(&[SEPARATE_PAIRS, STACKED_EXPERTS, NORMS, COMMON]),
    packed: &names(&[PACKED_PAIRS, STACKED_EXPERTS, NORMS, COMMON]),
};

/// The same with tensors for each expert: Mixtral in files from before April 2024.
pub(super) const LLAMA_EXPERTS_APART: Names = Names {
    separate: &names(&[SEPARATE_PAIRS, EXPERTS_APART, NORMS, COMMON]),
    packed: &names(&[PACKED_PAIRS, EXPERTS_APART, NORMS, COMMON]),
};

const fn names(tables: &'static [&'static [Row]]) -> TensorNames {
    TensorNames {
        prefixes: &[""],
        layers: "blk.",
        tables,
        projections: MatrixLayout::OutIn,
        // Divisors of frequencies, which the config holds; of old files, frequencies.
        buffers: &[
            "rope_freqs.weight",
            "rope_factors_long.weight",
            "rope_factors_short.weight",
            "attn_rot_embd.weight",
        ],
        other_models: &[],
    }
}

const COMMON: &[Row] = &[
    row("token_embd", &[EmbedTokens]),
    row("token_embd_norm", &[EmbedNorm]),
    row("position_embd", &[Positions]),
    row("output_norm", &[FinalNorm]),
    row("output", &[LmHead]),
    row("attn_output", &[OProj]),
    row("attn_q_norm", &[QNorm]),
    row("attn_k_norm", &[KNorm]),
];

const SEPARATE: &[Row] = &[
    row("attn_q", &[QProj]),
    row("attn_k", &[KProj]),
    row("attn_v", &[VProj]),
];

const PACKED: &[Row] = &[row("attn_qkv", &[QProj, KProj, VProj])];

const SEPARATE_PAIRS: &[Row] = &[
    row("attn_q", &[QProj]).in_pairs(),
    row("attn_k", &[KProj]).in_pairs(),
    row("attn_v", &[VProj]),
];

const PACKED_PAIRS: &[Row] = &[row("attn_qkv", &[QProj, KProj, VProj]).in_pairs()];

const MLP: &[Row] = &[
    row("ffn_gate", &[GateProj]),
    row("ffn_up", &[UpProj]),
    row("ffn_down", &[DownProj]),
];

const MLP_IN_ONE: &[Row] = &[
    row("ffn_up", &[GateProj, UpProj]),
    row("ffn_down", &[DownProj]),
];

/// A tensor for each kind of projection holds the matrices of all experts.
const STACKED_EXPERTS: &[Row] = &[
    row("ffn_gate_inp", &[Router]),
    row("ffn_gate_exps", &[ExpertGateProj]),
    row("ffn_up_exps", &[ExpertUpProj]),
    row("ffn_down_exps", &[ExpertDownProj]),
    row("ffn_gate_inp_shexp", &[SharedExpertGate]),
    row("ffn_gate_shexp", &[SharedGateProj]),
    row("ffn_up_shexp", &[SharedUpProj]),
    row("ffn_down_shexp", &[SharedDownProj]),
];

const EXPERTS_APART: &[Row] = &[
    row("ffn_gate_inp", &[Router]),
    row("ffn_gate.*", &[ExpertGateProj]),
    row("ffn_up.*", &[ExpertUpProj]),
    row("ffn_down.*", &[ExpertDownProj]),
];

const NORMS: &[Row] = &[
    row("attn_norm", &[InputNorm]),
    row("ffn_norm", &[PostAttentionNorm]),
];

const NORMS_OF_BRANCHES: &[Row] = &[
    row("attn_norm", &[InputNorm]),
    row("post_attention_norm", &[PostAttentionNorm]),
    row("ffn_norm", &[PreFeedforwardNorm]),
    row("post_ffw_norm", &[PostFeedforwardNorm]),
];

const NORMS_OF_SEED_OSS: &[Row] = &[
    row("attn_norm", &[InputNorm]),
    row("post_attention_norm", &[PostAttentionNorm]),
];

const NORMS_OF_FALCON_40B: &[Row] = &[
    row("attn_norm_2", &[InputNorm]),
    row("attn_norm", &[PostAttentionNorm]),
];
