//! What single architectures of GGUF files have of their own, written as `config.json` has it or set in the config.

use pear_core::{NormConfig, QkNorm};
use serde_json::json;

use super::keys::{Json, Keys};
use super::{rotary, windows};
use crate::config::DecoderConfig;
use crate::error::Error;
use crate::layer_config::LayerConfig;

/// The hidden size divided among the heads.
pub(super) fn width_per_head(keys: &Keys) -> Result<usize, Error> {
    let heads = keys.required("attention.head_count")?;
    let width = keys.required("embedding_length")?.checked_div(heads);
    width.ok_or_else(|| keys.error("attention.head_count", "is 0"))
}

/// Channels of a head.
pub(super) fn head_dim(keys: &Keys) -> Result<usize, Error> {
    match keys.size("attention.key_length")? {
        Some(head_dim) => Ok(head_dim),
        None => width_per_head(keys),
    }
}

pub(super) fn set(json: &mut Json, key: &str, number: f64) {
    json.insert(key.into(), json!(number));
}

/// Takes a number over, if it is there.
pub(super) fn set_number(keys: &Keys, json: &mut Json, key: &str, name: &str) -> Result<(), Error> {
    if let Some(number) = keys.number(name)? {
        set(json, key, number);
    }
    Ok(())
}

/// The multipliers of Granite.
pub(super) fn set_multipliers(keys: &Keys, json: &mut Json) -> Result<(), Error> {
    // The unscaled product where the file does not say.
    let scale = keys.number("attention.scale")?.filter(|&x| x != 0.0);
    let default = (head_dim(keys)? as f64).sqrt().recip();
    set(json, "attention_multiplier", scale.unwrap_or(default));
    for (key, name) in [
        ("logits_scaling", "logit_scale"),
        ("residual_multiplier", "residual_scale"),
        ("embedding_multiplier", "embedding_scale"),
    ] {
        set_number(keys, json, key, name)?;
    }
    Ok(())
}

/// The scale of Gemma's scores, which is not in the file: the 27B model alone, known by its layers, has another one than that of its heads.
pub(super) fn set_query_scale(
    keys: &Keys,
    json: &mut Json,
    layers_of_27b: usize,
) -> Result<(), Error> {
    let scalar = if keys.required("block_count")? == layers_of_27b {
        width_per_head(keys)?
    } else {
        head_dim(keys)?
    };
    set(json, "query_pre_attn_scalar", scalar as f64);
    Ok(())
}

/// The windows of models whose layers all rotate by the same base.
pub(super) fn set_windows(keys: &Keys, json: &mut Json) -> Result<(), Error> {
    rotary::refuse_second_base(keys)?;
    windows::describe_with_pattern(keys, json)
}

/// What the logits of Command R are multiplied by, nothing where the file does not say.
pub(super) fn set_logit_scale(keys: &Keys, json: &mut Json) -> Result<(), Error> {
    let scale = keys.number("logit_scale")?.filter(|&scale| scale != 0.0);
    set(json, "logit_scale", scale.unwrap_or(1.0));
    Ok(())
}

/// The converter counts Nemotron's rotated channels as if the heads had the hidden size divided among them.
pub(super) fn refuse_wide_heads(keys: &Keys) -> Result<(), Error> {
    let (head_dim, share) = (head_dim(keys)?, width_per_head(keys)?);
    if head_dim == share {
        return Ok(());
    }
    let problem = format!(
        "is {head_dim}: expected {share}, the hidden size divided among the heads, by which rotated channels are counted"
    );
    Err(keys.error("attention.key_length", problem))
}

pub(super) fn set_parallel_residual(keys: &Keys, json: &mut Json) -> Result<(), Error> {
    let parallel = keys.flag("use_parallel_residual")?.unwrap_or(true);
    json.insert("use_parallel_residual".into(), parallel.into());
    Ok(())
}

pub(super) fn has_two_norms(keys: &Keys) -> bool {
    keys.layer_has(0, "attn_norm_2.weight")
}

/// The converter has added the 1 to the weights of norms that multiply by `1 + weight`.
pub(super) fn add_one_to_norms(config: &mut DecoderConfig) {
    let plain = |norm: &mut NormConfig| {
        *norm = match *norm {
            NormConfig::RmsPlusOne { eps } => NormConfig::RmsRoundedOnce { eps },
            NormConfig::LayerPlusOne { eps } => NormConfig::Layer { eps, bias: true },
            other => other,
        }
    };
    for LayerConfig {
        norm, attention, ..
    } in &mut config.layers
    {
        plain(norm);
        if let Some(QkNorm::Head(norm)) = &mut attention.qk_norm {
            plain(norm);
        }
    }
    config.final_norm.as_mut().map(plain);
}
