//! From the metadata of a GGUF file to a [`DecoderConfig`].
//!
//! The metadata become the `config.json` that the model was converted from, as far as they say, and the family's own reader reads it: what
//! keys mean, their defaults and their checks are the same for both forms. What is set afterwards is what only the tensors tell.

use serde_json::{Value, json};

use super::architecture::{Architecture, Positions};
use super::architectures;
use super::experts;
use super::keys::{Json, Keys, TensorLookup};
use super::metadata::GgufMetadata;
use super::rotary;
use super::special_tokens;
use crate::config::DecoderConfig;
use crate::error::Error;
use crate::family::{Family, IgnoredKeys, IntermediateSize, ModelConfig, TensorNames, config_of};
use crate::layer_config::{LayerConfig, MlpConfig};

const EMBEDDING: &str = "token_embd.weight";

/// The config of a model, the names of its tensors, and the keys of `config.json` that nothing read: none.
///
/// # Errors
/// [`Error::Config`] for an architecture that is not supported, and for keys that are missing or hold something impossible;
/// [`Error::Tensor`] for rotary factors that cannot be read.
pub(crate) fn read_config(
    metadata: &GgufMetadata,
    tensors: &dyn TensorLookup,
) -> Result<(&'static TensorNames, DecoderConfig, IgnoredKeys), Error> {
    let name = "general.architecture";
    let Some(architecture) = metadata.text(name)? else {
        return Err(metadata.error(name, "is missing"));
    };
    let keys = Keys {
        metadata,
        architecture,
        tensors,
    };
    let Some(known) = architectures::find(&keys) else {
        let names = architectures::names().join(", ");
        let problem = format!("is {architecture:?}: supported are {names}");
        return Err(metadata.error(name, problem));
    };
    if keys.flag("attention.causal")? == Some(false) {
        let problem = "is false: expected a model that reads from left to right";
        return Err(keys.error("attention.causal", problem));
    }
    let num_layers = num_layers(&keys)?;
    let per_layer = PerLayer::read(&keys, num_layers)?;
    let json = json_of(&keys, known, num_layers, &per_layer)?;
    let ModelConfig {
        mut config,
        ignored,
        ..
    } = config_of(metadata.path(), Value::Object(json))?;
    // What is written for a family must be read by it.
    ignored.refuse()?;
    for (index, layer) in config.layers.iter_mut().enumerate() {
        per_layer.set(index, layer);
        set_biases(&keys, index, layer);
        check_heads(&keys, index, layer)?;
    }
    if keys.has("output.bias") {
        config.lm_head_bias = true;
    }
    config.special_tokens = special_tokens::special_tokens(metadata, config.vocab_size)?;
    config.eos_tokens = special_tokens::eos_tokens(metadata, config.vocab_size)?;
    (known.finish)(&keys, &mut config)?;
    config.validate().map_err(|error| match error {
        pear_core::Error::Config {
            field,
            value,
            expected,
        } => metadata.error(field, format!("is {value}: {expected}")),
        other => other.into(),
    })?;
    let names = (known.names)(&keys);
    let packed = keys.layer_has(0, "attn_qkv.weight");
    let names = if packed { names.packed } else { names.separate };
    Ok((names, config, ignored))
}

/// Every layer has tensors of its own: a larger number is refused before anything is made for each of them.
fn num_layers(keys: &Keys) -> Result<usize, Error> {
    const NAME: &str = "block_count";
    let (num_layers, num_tensors) = (keys.required(NAME)?, keys.tensors.count());
    if num_layers > num_tensors {
        let problem = format!("is {num_layers}, but there are only {num_tensors} tensors");
        return Err(keys.error(NAME, problem));
    }
    Ok(num_layers)
}

/// Sizes that may differ between layers.
struct PerLayer {
    key_value_heads: Option<Vec<usize>>,
    intermediate: Option<Vec<usize>>,
    shared_expert: Option<Vec<usize>>,
}

impl PerLayer {
    fn read(keys: &Keys, num_layers: usize) -> Result<Self, Error> {
        Ok(Self {
            key_value_heads: keys.sizes("attention.head_count_kv", num_layers)?,
            intermediate: match widths_of_mlp(keys, num_layers) {
                Some(widths) => Some(widths),
                None => keys.sizes("feed_forward_length", num_layers)?,
            },
            shared_expert: experts::widths_of_shared(keys, num_layers),
        })
    }

    fn set(&self, index: usize, layer: &mut LayerConfig) {
        let set = |size: &mut usize, sizes: &Option<Vec<usize>>| {
            if let Some(own) = sizes.as_ref().and_then(|sizes| sizes.get(index)) {
                *size = *own;
            }
        };
        let attention = &mut layer.attention;
        set(&mut attention.num_key_value_heads, &self.key_value_heads);
        match &mut layer.mlp {
            MlpConfig::Dense(mlp) => set(&mut mlp.intermediate_size, &self.intermediate),
            MlpConfig::Experts(experts) => {
                set(&mut experts.expert.intermediate_size, &self.intermediate);
                if let Some(shared) = &mut experts.shared {
                    set(&mut shared.mlp.intermediate_size, &self.shared_expert);
                }
            }
        }
    }
}

/// The width of each layer's MLP, or of each of its experts, by its tensors: of some architectures the converter always writes four times
/// the hidden size.
fn widths_of_mlp(keys: &Keys, num_layers: usize) -> Option<Vec<usize>> {
    experts::widths(
        keys,
        num_layers,
        &["ffn_down", "ffn_down_exps", "ffn_down.0"],
    )
}

/// Whether projections and norms have biases is said by the tensors alone.
fn set_biases(keys: &Keys, index: usize, layer: &mut LayerConfig) {
    let has = |tensor| keys.layer_has(index, tensor);
    layer.attention.qkv_bias = has("attn_q.bias") || has("attn_qkv.bias");
    layer.attention.output_bias = has("attn_output.bias");
    if let MlpConfig::Dense(mlp) = &mut layer.mlp {
        mlp.bias = has("ffn_up.bias") || has("ffn_down.bias");
    }
}

/// Checks the numbers of heads and channels against the tensors: whatever is made for each channel is then no larger than these.
fn check_heads(keys: &Keys, index: usize, layer: &LayerConfig) -> Result<(), Error> {
    let attention = &layer.attention;
    let channels = |heads: usize| heads.checked_mul(attention.head_dim);
    let queries = channels(attention.num_attention_heads);
    let keys_or_values = channels(attention.num_key_value_heads);
    let all = keys_or_values
        .and_then(|channels| channels.checked_mul(2))
        .and_then(|channels| channels.checked_add(queries?));
    let expected: &[_] = if keys.layer_has(index, "attn_qkv.weight") {
        &[("attn_qkv.weight", all)]
    } else {
        &[
            ("attn_q.weight", queries),
            ("attn_k.weight", keys_or_values),
            ("attn_v.weight", keys_or_values),
        ]
    };
    for &(tensor, expected) in expected {
        let name = format!("blk.{index}.{tensor}");
        let Some(&[rows, _]) = keys.tensors.shape(&name) else {
            let problem = format!("holds no matrix `{name}`");
            return Err(Error::malformed(keys.metadata.path(), problem));
        };
        if expected != Some(rows) {
            let problem = format!(
                "holds {} heads of {} channels for queries and {} for keys and values, but `{name}` has {rows} rows",
                attention.num_attention_heads, attention.head_dim, attention.num_key_value_heads
            );
            return Err(Error::malformed(keys.metadata.path(), problem));
        }
    }
    Ok(())
}

/// The `config.json` of the model.
fn json_of(
    keys: &Keys,
    known: &Architecture,
    num_layers: usize,
    per_layer: &PerLayer,
) -> Result<Json, Error> {
    let family = architectures::family(known);
    let hidden_size = keys.required("embedding_length")?;
    let num_heads = num_heads(keys, num_layers)?;
    let mut json = Json::new();
    let mut set = |key: &str, value: Value| {
        json.insert(key.into(), value);
    };
    set("model_type", known.model_type.into());
    let vocab_size = vocab_size(keys)?;
    set("vocab_size", vocab_size.into());
    set(family.hidden_size[0], hidden_size.into());
    set(family.num_hidden_layers[0], num_layers.into());
    set(family.num_attention_heads[0], num_heads.into());
    if let Some(key) = family.num_key_value_heads {
        let heads = per_layer.key_value_heads.as_ref();
        let heads = heads.and_then(|heads| heads.first().copied());
        set(key, heads.unwrap_or(num_heads).into());
    }
    let head_dim = head_dim(keys, hidden_size, num_heads)?;
    if family.reads_head_dim {
        set("head_dim", head_dim.into());
    } else if Some(head_dim) != hidden_size.checked_div(num_heads) {
        let problem = format!("is {head_dim}: expected {hidden_size} / {num_heads}");
        return Err(keys.error("attention.key_length", problem));
    }
    if let Some(size) = per_layer.intermediate.as_ref().and_then(|all| all.first()) {
        match family.intermediate_size {
            IntermediateSize::Key(key) | IntermediateSize::KeyOrFourfold(key) => {
                set(key, (*size).into());
            }
            // Set from the metadata in every layer.
            IntermediateSize::Multiple(_) => {}
        }
    }
    set_eps(keys, family, &mut set)?;
    set("tie_word_embeddings", (!keys.has("output.weight")).into());
    for (key, name) in [
        ("bos_token_id", "tokenizer.ggml.bos_token_id"),
        ("eos_token_id", "tokenizer.ggml.eos_token_id"),
        ("pad_token_id", "tokenizer.ggml.padding_token_id"),
    ] {
        // A token that the model does not have is none, and so is one that is not named, whatever the family's default.
        let id = keys.metadata.integer(name)?;
        let id = id.filter(|&id| (0..vocab_size as i64).contains(&id));
        set(key, json!(id));
    }
    match known.positions {
        Positions::Rotary => rotary::describe(keys, family, head_dim, &mut json)?,
        Positions::Learned => {
            let rows = keys.tensors.shape("position_embd.weight");
            let rows = rows.and_then(|shape| shape.first().copied());
            let rows = match rows {
                Some(rows) => rows,
                None => keys.required("context_length")?,
            };
            json.insert("n_positions".into(), rows.into());
        }
        Positions::Alibi => {}
    }
    (known.describe)(keys, &mut json)?;
    Ok(json)
}

/// The epsilon of the norms, under whichever of its two keys it is.
fn set_eps(keys: &Keys, family: &Family, set: &mut impl FnMut(&str, Value)) -> Result<(), Error> {
    const RMS: &str = "attention.layer_norm_rms_epsilon";
    const LAYER: &str = "attention.layer_norm_epsilon";
    let eps = keys.number(RMS)?.or(keys.number(LAYER)?);
    match (family.norm_eps, eps) {
        (Some(key), Some(eps)) => set(key, json!(eps)),
        (Some(_), None) => return Err(keys.error(RMS, "is missing")),
        (None, _) => {}
    }
    Ok(())
}

/// The rows of the embedding, which every file has.
fn vocab_size(keys: &Keys) -> Result<usize, Error> {
    match keys.tensors.shape(EMBEDDING) {
        Some(&[rows, _]) => Ok(rows),
        _ => {
            let problem = format!("holds no matrix `{EMBEDDING}`");
            Err(Error::malformed(keys.metadata.path(), problem))
        }
    }
}

/// Query heads, the same in every layer.
fn num_heads(keys: &Keys, num_layers: usize) -> Result<usize, Error> {
    const NAME: &str = "attention.head_count";
    let heads = keys.sizes(NAME, num_layers)?;
    let heads = heads.ok_or_else(|| keys.error(NAME, "is missing"))?;
    match heads.first() {
        Some(first) if heads.iter().all(|heads| heads == first) => Ok(*first),
        _ => {
            let problem = "differs between layers: expected the same number of heads in all";
            Err(keys.error(NAME, problem))
        }
    }
}

/// Channels of a head: the same for keys and values.
fn head_dim(keys: &Keys, hidden_size: usize, num_heads: usize) -> Result<usize, Error> {
    const VALUE: &str = "attention.value_length";
    // Without heads there is an error later.
    let default = hidden_size.checked_div(num_heads).unwrap_or_default();
    let key = keys.size("attention.key_length")?.unwrap_or(default);
    let value = keys.size(VALUE)?.unwrap_or(default);
    if key != value {
        let problem = format!("is {value}: expected {key}, as keys have");
        return Err(keys.error(VALUE, problem));
    }
    Ok(key)
}
