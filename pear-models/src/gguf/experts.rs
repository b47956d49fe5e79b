//! Mixtures of experts in GGUF files.

use super::keys::{Json, Keys};
use crate::error::Error;

const COUNT: &str = "expert_count";

/// Whether the metadata say that the model has experts, or hold something impossible there.
pub(super) fn are_there(keys: &Keys) -> bool {
    !matches!(keys.size(COUNT), Ok(None | Some(0)))
}

/// Adds how many experts there are, and how many of them a token goes through. Their widths are those of their tensors.
pub(super) fn describe(keys: &Keys, json: &mut Json) -> Result<(), Error> {
    const PER_TOKEN: &str = "expert_used_count";
    const SCALE: &str = "expert_weights_scale";
    json.insert("num_experts".into(), keys.required(COUNT)?.into());
    let per_token = keys.required(PER_TOKEN)?;
    json.insert("num_experts_per_tok".into(), per_token.into());
    match keys.number(SCALE)? {
        None | Some(0.0 | 1.0) => Ok(()),
        Some(scale) => {
            let problem = format!("is {scale}: these models do not scale the weights of experts");
            Err(keys.error(SCALE, problem))
        }
    }
}

/// The same in a model that says whether the weights of the chosen experts add up to 1, which the metadata do not.
pub(super) fn describe_with_sum(
    keys: &Keys,
    json: &mut Json,
    sum_is_one: bool,
) -> Result<(), Error> {
    json.insert("norm_topk_prob".into(), sum_is_one.into());
    describe(keys, json)
}

/// The width within the shared expert of each layer, where there is one.
pub(super) fn widths_of_shared(keys: &Keys, num_layers: usize) -> Option<Vec<usize>> {
    widths(keys, num_layers, &["ffn_down_shexp"])
}

/// The number of inputs of a projection in each layer: of the first one of these names that there is.
pub(super) fn widths(keys: &Keys, num_layers: usize, names: &[&str]) -> Option<Vec<usize>> {
    let width = |layer, name| {
        let shape = keys.tensors.shape(&format!("blk.{layer}.{name}.weight"));
        shape.and_then(|shape| shape.last().copied())
    };
    (0..num_layers)
        .map(|layer| names.iter().find_map(|name| width(layer, name)))
        .collect()
}
