//! Granite 3 with experts, and PowerMoE ([arXiv 2408.13359](https://arxiv.org/abs/2408.13359)).

use super::tensors::{self, LLAMA_ROWS, Row, TensorNames, row};
use super::{Family, Flag, granite, mixtral};
use crate::param::ModuleId::*;

pub(super) const FAMILY: Family = Family {
    model_type: "granitemoe",
    mlp_bias: Flag::Always(false),
    configure: |reader, config, layer| {
        granite::configure(reader, config, layer)?;
        (mixtral::FAMILY.configure)(reader, config, layer)
    },
    names: |_| &NAMES,
    ..granite::FAMILY
};

const NAMES: TensorNames = TensorNames {
    tables: &[EXPERTS, LLAMA_ROWS],
    ..tensors::LLAMA
};

/// A tensor holds the matrices of all experts.
const EXPERTS: &[Row] = &[
    row("block_sparse_moe.router.layer", &[Router]),
    row(
        "block_sparse_moe.input_linear",
        &[ExpertGateProj, ExpertUpProj],
    ),
    row("block_sparse_moe.output_linear", &[ExpertDownProj]),
];
