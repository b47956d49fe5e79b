//! Phi-3.5-MoE ([arXiv 2404.14219](https://arxiv.org/abs/2404.14219)): Mixtral with LayerNorm, LongRoPE and SparseMixer.
//!
//! Beyond the original context positions are turned by `long_factor`, as in the code that came with the model. (transformers takes
//! `short_factor` there, too.)

use super::rotary::RotaryKeys;
use super::{ConfigReader, Family, Flag, LAYER_NORM, mixtral};
use crate::config::DecoderConfig;
use crate::error::Error;
use crate::experts_config::{ExpertRouting, ExpertsConfig};
use crate::layer_config::{LayerConfig, MlpConfig};

pub(super) const FAMILY: Family = Family {
    model_type: "phimoe",
    norm: LAYER_NORM,
    attention_bias: Flag::Key("attention_bias", false),
    rotary: Some(RotaryKeys {
        has_mscales: true,
        ..mixtral::ROTARY
    }),
    configure,
    ..mixtral::FAMILY
};

/// Experts where the config does not say.
const DEFAULT_NUM_EXPERTS: usize = 16;

fn configure(
    reader: &ConfigReader,
    config: &mut DecoderConfig,
    layer: &mut LayerConfig,
) -> Result<(), Error> {
    config.lm_head_bias = reader.flag("lm_head_bias", false)?;
    let jitter = reader.number("router_jitter_noise")?.unwrap_or(0.01);
    if let MlpConfig::Dense(expert) = layer.mlp {
        let keys = super::experts::ExpertKeys {
            default_num_experts: DEFAULT_NUM_EXPERTS,
            ..mixtral::KEYS
        };
        let routing = ExpertRouting::SparseMixer { jitter };
        layer.mlp = MlpConfig::Experts(ExpertsConfig {
            // SparseMixer chooses two, whatever the config says.
            num_experts_per_token: 2,
            ..keys.read(reader, expert, routing)?
        });
    }
    Ok(())
}
