//! Rotary positions as the metadata of GGUF files have them, written as `config.json` has them.

use serde_json::{Value, json};

use super::keys::{Json, Keys};
use crate::error::Error;
use crate::family::Family;

const BASE: &str = "rope.freq_base";
const DEFAULT_BASE: f64 = 10000.0;
const TYPE: &str = "rope.scaling.type";
const FACTOR: &str = "rope.scaling.factor";
/// The same in old files.
const OLD_FACTOR: &str = "rope.scale_linear";
const ORIGINAL: &str = "rope.scaling.original_context_length";

/// Adds base, rotated channels and scaling.
pub(super) fn describe(
    keys: &Keys,
    family: &Family,
    head_dim: usize,
    json: &mut Json,
) -> Result<(), Error> {
    let theta = keys.number(BASE)?.unwrap_or(DEFAULT_BASE);
    json.insert("rope_theta".into(), json!(theta));
    if let Some(context) = keys.size("context_length")? {
        json.insert("max_position_embeddings".into(), context.into());
    }
    let rotated = keys.size("rope.dimension_count")?.unwrap_or(head_dim);
    // Half a channel more than is rotated, which is what rounding down then leaves.
    let share = if rotated == head_dim {
        1.0
    } else {
        (rotated as f64 + 0.5) / head_dim as f64
    };
    let spellings = family.rotary.as_ref().map(|rotary| rotary.partial);
    let key = spellings.and_then(|spellings| spellings.first());
    let key = key.copied().unwrap_or("partial_rotary_factor");
    json.insert(key.into(), json!(share));
    let Some((scaling, original)) = scaling(keys)? else {
        return Ok(());
    };
    json.insert("rope_scaling".into(), scaling);
    if let Some(original) = original {
        json.insert("original_max_position_embeddings".into(), original.into());
    }
    Ok(())
}

/// Refuses another base in the layers that have a window.
pub(super) fn refuse_second_base(keys: &Keys) -> Result<(), Error> {
    const SLIDING: &str = "rope.freq_base_swa";
    let base = keys.number(BASE)?.unwrap_or(DEFAULT_BASE);
    match keys.number(SLIDING)? {
        Some(sliding) if sliding != base => {
            let problem = format!("is {sliding}: expected {base}, the base of the other layers");
            Err(keys.error(SLIDING, problem))
        }
        _ => Ok(()),
    }
}

/// Refuses positions of more than one kind, as models of images and texts have them.
pub(super) fn refuse_sections(keys: &Keys) -> Result<(), Error> {
    const SECTIONS: &str = "rope.dimension_sections";
    let key = keys.key(SECTIONS);
    let sections = keys.metadata.integers(&key)?.unwrap_or_default();
    if sections.iter().all(|&size| size == 0) {
        return Ok(());
    }
    let problem = "divides channels among positions of several kinds: expected texts alone";
    Err(keys.error(SECTIONS, problem))
}

/// Names the attention factor of LongRoPE as Phi-3.5-MoE does.
pub(super) fn name_mscales(json: &mut Json) {
    if let Some(Value::Object(scaling)) = json.get_mut("rope_scaling") {
        scaling.remove("factor");
        if let Some(factor) = scaling.remove("attention_factor") {
            scaling.insert("short_mscale".into(), factor.clone());
            scaling.insert("long_mscale".into(), factor);
        }
    }
}

/// `rope_scaling`, if positions are scaled, and the context of the pre-training, if the scaling depends on it.
fn scaling(keys: &Keys) -> Result<Option<(Value, Option<usize>)>, Error> {
    let context = keys.size("context_length")?;
    let original = keys.size(ORIGINAL)?.or(context);
    // Divisors of the frequencies: one list (Llama 3.1), or one for short and one for long texts (Phi-3).
    if let Some(factors) = keys.vector("rope_freqs.weight")? {
        return Ok(Some((divisors(factors.clone(), factors, 1.0), original)));
    }
    let short = keys.vector("rope_factors_short.weight")?;
    let long = keys.vector("rope_factors_long.weight")?;
    if let (Some(short), Some(long)) = (short, long) {
        let attention = keys.number("rope.scaling.attn_factor")?.unwrap_or(1.0);
        return Ok(Some((divisors(short, long, attention), original)));
    }
    let factor = keys.number(FACTOR)?.or(keys.number(OLD_FACTOR)?);
    // Old files write 0 or 1 for a context that is not stretched.
    let factor = factor.filter(|&factor| factor != 0.0 && factor != 1.0);
    match (keys.text(TYPE)?.unwrap_or("linear"), factor) {
        ("none", _) => Ok(None),
        ("linear", None) => Ok(None),
        ("linear", Some(factor)) => {
            let scaling = json!({"rope_type": "linear", "factor": factor});
            Ok(Some((scaling, None)))
        }
        ("yarn", Some(factor)) => Ok(Some((yarn(keys, factor)?, original))),
        ("yarn", None) => Err(keys.error(FACTOR, "is missing")),
        ("longrope", _) => {
            let problem = "is longrope, but there are no tensors rope_factors_short.weight and rope_factors_long.weight";
            Err(keys.error(TYPE, problem))
        }
        (other, _) => {
            let problem = format!("is {other:?}: expected none, linear, yarn or longrope");
            Err(keys.error(TYPE, problem))
        }
    }
}

fn divisors(short: Vec<f64>, long: Vec<f64>, attention: f64) -> Value {
    json!({
        "rope_type": "longrope",
        "short_factor": short,
        "long_factor": long,
        "factor": 1.0,
        "attention_factor": attention,
    })
}

fn yarn(keys: &Keys, factor: f64) -> Result<Value, Error> {
    let mut scaling = Json::new();
    scaling.insert("rope_type".into(), "yarn".into());
    scaling.insert("factor".into(), json!(factor));
    for (key, name) in [
        ("attention_factor", "rope.scaling.yarn_attn_factor"),
        ("beta_fast", "rope.scaling.yarn_beta_fast"),
        ("beta_slow", "rope.scaling.yarn_beta_slow"),
    ] {
        if let Some(number) = keys.number(name)? {
            scaling.insert(key.into(), json!(number));
        }
    }
    Ok(scaling.into())
}
