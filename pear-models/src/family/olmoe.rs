//! OLMoE ([arXiv 2409.02060](https://arxiv.org/abs/2409.02060)): Llama with experts, and norms on whole queries and keys.

use pear_core::{NormConfig, QkNorm};

use super::experts::{ExpertKeys, normed_if_said};
use super::tensors::{self, LLAMA_ROWS, TensorNames};
use super::{ConfigReader, Family, Flag, olmo2, qwen_moe};
use crate::config::DecoderConfig;
use crate::error::Error;
use crate::layer_config::{LayerConfig, MlpConfig, Residual};

pub(super) const FAMILY: Family = Family {
    model_type: "olmoe",
    norm: NormConfig::Rms { eps: 1e-5 },
    residual: Residual::Serial,
    mlp_bias: Flag::Always(false),
    configure,
    names: |_| &NAMES,
    ..olmo2::FAMILY
};

const KEYS: ExpertKeys = ExpertKeys {
    num_experts: &["num_experts", "num_local_experts"],
    default_num_experts: 64,
    default_per_token: 8,
};

const NAMES: TensorNames = TensorNames {
    tables: &[qwen_moe::EXPERTS, LLAMA_ROWS],
    ..tensors::LLAMA
};

fn configure(
    reader: &ConfigReader,
    _: &mut DecoderConfig,
    layer: &mut LayerConfig,
) -> Result<(), Error> {
    layer.attention.qk_norm = Some(QkNorm::Projection(layer.norm));
    layer.attention.clip_qkv = reader.number("clip_qkv")?;
    if let MlpConfig::Dense(expert) = layer.mlp {
        let experts = KEYS.read(reader, expert, normed_if_said(reader)?)?;
        layer.mlp = MlpConfig::Experts(experts);
    }
    Ok(())
}
