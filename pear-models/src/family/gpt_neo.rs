//! GPT-Neo: GPT-2 with unscaled scores, a window in every second layer and separate projections without biases.

use pear_core::position::PositionEmbeddingConfig;
use serde_json::Value;

use super::tensors::{GPT, GPT_ROWS, TensorNames, row};
use super::{ConfigReader, Family, Flag, IntermediateSize, gpt2};
use crate::config::DecoderConfig;
use crate::error::Error;
use crate::layer_config::LayerConfig;
use crate::param::ModuleId::*;

pub(super) const FAMILY: Family = Family {
    model_type: "gpt_neo",
    hidden_size: &["hidden_size"],
    num_hidden_layers: &["num_hidden_layers", "num_layers"],
    num_attention_heads: &["num_attention_heads", "num_heads"],
    intermediate_size: IntermediateSize::KeyOrFourfold("intermediate_size"),
    attention_bias: Flag::Always(false),
    configure,
    configure_layers,
    names: |_| &NAMES,
    ..gpt2::FAMILY
};

const DEFAULT_POSITIONS: usize = 2048;
const DEFAULT_WINDOW: usize = 256;
/// Pairs of a global and a local layer.
const DEFAULT_PAIRS: usize = 12;

const NAMES: TensorNames = TensorNames {
    tables: &[
        &[
            row("attn.attention.q_proj", &[QProj]),
            row("attn.attention.k_proj", &[KProj]),
            row("attn.attention.v_proj", &[VProj]),
            row("attn.attention.out_proj", &[OProj]),
            row("mlp.c_fc", &[UpProj]),
            row("mlp.c_proj", &[DownProj]),
        ],
        GPT_ROWS,
    ],
    buffers: &[".attn.attention.bias", ".attn.attention.masked_bias"],
    ..GPT
};

fn configure(
    reader: &ConfigReader,
    config: &mut DecoderConfig,
    layer: &mut LayerConfig,
) -> Result<(), Error> {
    let num_positions = reader.optional_size("max_position_embeddings")?;
    config.position_embedding = PositionEmbeddingConfig::Learned {
        num_positions: num_positions.unwrap_or(DEFAULT_POSITIONS),
        width: config.hidden_size,
    };
    layer.attention.scores.scale = Some(1.0);
    layer.attention.output_bias = true;
    // What `attention_types` says, layer by layer.
    reader.ignore(&["attention_layers"]);
    Ok(())
}

fn configure_layers(reader: &ConfigReader, layers: &mut [LayerConfig]) -> Result<(), Error> {
    let window = reader.optional_size("window_size")?;
    let window = window.unwrap_or(DEFAULT_WINDOW);
    let is_local = local_layers(reader, layers.len())?;
    for (layer, is_local) in layers.iter_mut().zip(is_local) {
        layer.attention.scores.window = is_local.then_some(window);
    }
    Ok(())
}

/// Which layers have a window: `[[["global", "local"], 12]]` says that every second one of 24 layers does.
fn local_layers(reader: &ConfigReader, num_layers: usize) -> Result<Vec<bool>, Error> {
    const KEY: &str = "attention_types";
    let types = match reader.get(KEY) {
        Some(types) => repeated(types, num_layers),
        None => Some([false, true].repeat(DEFAULT_PAIRS)),
    };
    types
        .filter(|types| types.len() == num_layers)
        .ok_or_else(|| {
            let problem = format!(
                "expected lists of global and local with numbers of repetitions, {num_layers} layers in all"
            );
            reader.error(KEY, problem)
        })
}

/// The lists one after the other, each as many times as the number after it says; no longer than `limit`.
fn repeated(types: &Value, limit: usize) -> Option<Vec<bool>> {
    let mut all = Vec::new();
    for item in types.as_array()? {
        let [names, times] = item.as_array()?.as_slice() else {
            return None;
        };
        let names = names.as_array()?.iter().map(|name| match name.as_str() {
            Some("local") => Some(true),
            Some("global") => Some(false),
            _ => None,
        });
        let names: Vec<bool> = names.collect::<Option<_>>()?;
        let times = usize::try_from(times.as_u64()?).ok()?;
        let total = names.len().checked_mul(times)?.checked_add(all.len())?;
        if total > limit {
            return None;
        }
        all.extend(names.repeat(times));
    }
    Some(all)
}
