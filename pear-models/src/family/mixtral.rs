//! Mixtral ([arXiv 2401.04088](https://arxiv.org/abs/2401.04088)): Mistral with experts.

use super::experts::ExpertKeys;
use super::rotary::RotaryKeys;
use super::tensors::{self, LLAMA_ROWS, Row, TensorNames, row};
use super::windows::slide_everywhere;
use super::{ConfigReader, Family, mistral};
use crate::config::DecoderConfig;
use crate::error::Error;
use crate::experts_config::ExpertRouting;
use crate::layer_config::{LayerConfig, MlpConfig};
use crate::param::ModuleId::*;

pub(super) const FAMILY: Family = Family {
    model_type: "mixtral",
    norm: pear_core::NormConfig::Rms { eps: 1e-5 },
    rotary: Some(ROTARY),
    configure,
    configure_layers: slide_everywhere,
    names: |_| &NAMES,
    ..mistral::FAMILY
};

pub(super) const ROTARY: RotaryKeys = RotaryKeys {
    default_theta: 1e6,
    default_max_positions: 131_072,
    ..RotaryKeys::WHOLE_HEADS
};

pub(super) const KEYS: ExpertKeys = ExpertKeys {
    num_experts: &["num_local_experts", "num_experts"],
    default_num_experts: 8,
    default_per_token: 2,
};

pub(super) const NAMES: TensorNames = TensorNames {
    tables: &[EXPERTS, LLAMA_ROWS],
    ..tensors::LLAMA
};

const EXPERTS: &[Row] = &[
    row("block_sparse_moe.gate", &[Router]),
    row("block_sparse_moe.experts.*.w1", &[ExpertGateProj]),
    row("block_sparse_moe.experts.*.w3", &[ExpertUpProj]),
    row("block_sparse_moe.experts.*.w2", &[ExpertDownProj]),
];

fn configure(
    reader: &ConfigReader,
    _: &mut DecoderConfig,
    layer: &mut LayerConfig,
) -> Result<(), Error> {
    if let MlpConfig::Dense(expert) = layer.mlp {
        let experts = KEYS.read(reader, expert, ExpertRouting::SoftmaxOfChosen)?;
        layer.mlp = MlpConfig::Experts(experts);
    }
    Ok(())
}
