//! Qwen1.5-MoE, Qwen2-57B-A14B and Qwen3-MoE: Qwen with experts in some of its layers, or in all.

use pear_core::QkNorm;
use serde_json::Value;

use super::experts::{ExpertKeys, normed_if_said};
use super::rotary::RotaryKeys;
use super::tensors::{self, LLAMA_ROWS, Row, TensorNames, row};
use super::windows::{DEFAULT_WINDOW, slide, slide_all, window_if_used};
use super::{ConfigReader, DefaultTokens, Family, Flag, llama};
use crate::dense_mlp_config::DenseMlpConfig;
use crate::error::Error;
use crate::experts_config::{ExpertsConfig, SharedExpertConfig};
use crate::layer_config::{LayerConfig, MlpConfig};
use crate::param::ModuleId::*;

pub(super) const QWEN2: Family = Family {
    model_type: "qwen2_moe",
    default_key_value_heads: Some(16),
    configure: |reader, _, layer| {
        layer.attention.qkv_bias = reader.flag("qkv_bias", true)?;
        Ok(())
    },
    attention_bias: Flag::Always(false),
    configure_layers: |reader, layers| {
        let shared = reader.optional_size("shared_expert_intermediate_size")?;
        put_experts(reader, layers, &QWEN2_EXPERTS, Some(shared.unwrap_or(5632)))?;
        slide_every_other(reader, layers)
    },
    ..QWEN3
};

pub(super) const QWEN3: Family = Family {
    model_type: "qwen3_moe",
    default_key_value_heads: Some(4),
    rotary: Some(RotaryKeys {
        default_max_positions: 32_768,
        ..RotaryKeys::WHOLE_HEADS
    }),
    mlp_bias: Flag::Always(false),
    default_tokens: DefaultTokens::NONE,
    configure: |_, _, layer| {
        layer.attention.qk_norm = Some(QkNorm::Head(layer.norm));
        Ok(())
    },
    configure_layers: |reader, layers| {
        put_experts(reader, layers, &QWEN3_EXPERTS, None)?;
        // Published with the model, read by nothing.
        reader.ignore(&["max_window_layers"]);
        slide_all(layers, window_if_used(reader, Some(DEFAULT_WINDOW))?);
        Ok(())
    },
    names: |_| &NAMES,
    ..llama::FAMILY
};

/// The experts of a model, and their width where the config does not say.
struct Experts {
    keys: ExpertKeys,
    default_width: usize,
}

const QWEN2_EXPERTS: Experts = Experts {
    keys: ExpertKeys {
        num_experts: &["num_experts"],
        default_num_experts: 60,
        default_per_token: 4,
    },
    default_width: 1408,
};

const QWEN3_EXPERTS: Experts = Experts {
    keys: ExpertKeys {
        num_experts: &["num_experts", "num_local_experts"],
        default_num_experts: 128,
        default_per_token: 8,
    },
    default_width: 768,
};

const NAMES: TensorNames = TensorNames {
    tables: &[EXPERTS, LLAMA_ROWS],
    ..tensors::LLAMA
};

pub(super) const EXPERTS: &[Row] = &[
    row("mlp.gate", &[Router]),
    row("mlp.experts.*.gate_proj", &[ExpertGateProj]),
    row("mlp.experts.*.up_proj", &[ExpertUpProj]),
    row("mlp.experts.*.down_proj", &[ExpertDownProj]),
    row("mlp.shared_expert_gate", &[SharedExpertGate]),
    row("mlp.shared_expert.gate_proj", &[SharedGateProj]),
    row("mlp.shared_expert.up_proj", &[SharedUpProj]),
    row("mlp.shared_expert.down_proj", &[SharedDownProj]),
];

/// Puts experts into every `decoder_sparse_step`th layer, but for those in `mlp_only_layers`. `shared` is the width of a shared expert.
fn put_experts(
    reader: &ConfigReader,
    layers: &mut [LayerConfig],
    experts: &Experts,
    shared: Option<usize>,
) -> Result<(), Error> {
    let step = reader.optional_size("decoder_sparse_step")?.unwrap_or(1);
    let dense = mlp_only_layers(reader)?;
    let width = reader.optional_size("moe_intermediate_size")?;
    let routing = normed_if_said(reader)?;
    let MlpConfig::Dense(mlp) = layers[0].mlp else {
        return Ok(());
    };
    let of_width = |intermediate_size| DenseMlpConfig {
        intermediate_size,
        ..mlp
    };
    let expert = of_width(width.unwrap_or(experts.default_width));
    let mixture = ExpertsConfig {
        shared: shared.map(|width| SharedExpertConfig {
            mlp: of_width(width),
            gated: true,
        }),
        ..experts.keys.read(reader, expert, routing)?
    };
    for (index, layer) in layers.iter_mut().enumerate() {
        let has_experts = (index + 1).is_multiple_of(step) && !dense.contains(&index);
        if has_experts {
            layer.mlp = MlpConfig::Experts(mixture);
        }
    }
    Ok(())
}

fn mlp_only_layers(reader: &ConfigReader) -> Result<Vec<usize>, Error> {
    const KEY: &str = "mlp_only_layers";
    let layer = |value: &Value| value.as_u64().map(|layer| layer as usize);
    match reader.get(KEY) {
        None => Ok(Vec::new()),
        Some(value) => value
            .as_array()
            .and_then(|layers| layers.iter().map(layer).collect())
            .ok_or_else(|| reader.error(KEY, "expected a list of layers")),
    }
}

/// The first of every two layers has the window, up to `max_window_layers`, if it is used at all.
fn slide_every_other(reader: &ConfigReader, layers: &mut [LayerConfig]) -> Result<(), Error> {
    let window = window_if_used(reader, Some(DEFAULT_WINDOW))?;
    let end = reader.optional_size("max_window_layers")?.unwrap_or(28);
    slide(reader, layers, window, |layer, _| {
        layer.is_multiple_of(2) && layer < end
    })
}
