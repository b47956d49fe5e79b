//! The families of models: what their `config.json` and their tensor names mean.
//!
//! A family is data: a function from `config.json` to a [`DecoderConfig`], and one from a parameter of the [`Decoder`](crate::Decoder) to
//! the tensor that holds it. No forward pass is written here.

mod baichuan;
mod bloom;
mod falcon;
mod gemma;
mod gpt2;
mod gpt_neox;
mod gptj;
mod llama;
mod mpt;
mod olmo2;
mod opt;
mod phi;
mod phi3;
mod qwen;
mod reader;
mod stablelm;
mod starcoder2;
mod xglm;

use std::path::Path;

use pear_core::position::PositionEmbeddingConfig;
use pear_core::{AttentionConfig, AttentionScoreConfig};

use crate::config::DecoderConfig;
use crate::error::Error;
use crate::regular_file;
use crate::source::Source;
pub(crate) use reader::ConfigReader;

/// A parameter of the decoder.
pub(crate) struct Parameter<'a> {
    /// Its layer, if it stands in one.
    pub layer: Option<usize>,
    /// Its path within the layer or the decoder: `self_attn.q_proj.weight`, `embed_tokens`.
    pub name: &'a str,
}

/// One family.
#[derive(Debug)]
pub(crate) struct Family {
    /// `model_type` in `config.json`.
    pub model_types: &'static [&'static str],
    /// What may stand before the names of all tensors but the unembedding, in the order of trying.
    pub prefixes: &'static [&'static str],
    /// The unembedding where it is not tied.
    pub lm_head: &'static str,
    /// Reads the config.
    pub config: fn(&ConfigReader, &str) -> Result<DecoderConfig, Error>,
    /// The tensor of a parameter, without its prefix; `None` for parameters that the family does not have.
    pub source: fn(&DecoderConfig, &Parameter) -> Option<Source>,
    /// Ends of the names of tensors that hold no weights: masks and tables from older releases.
    pub buffers: &'static [&'static str],
}

const FAMILIES: &[&Family] = &[
    &llama::FAMILY,
    &qwen::FAMILY,
    &opt::FAMILY,
    &gpt2::FAMILY,
    &bloom::FAMILY,
    &mpt::FAMILY,
    &baichuan::FAMILY,
    &gpt_neox::FAMILY,
    &xglm::FAMILY,
    &phi3::FAMILY,
    &gemma::FAMILY,
    &olmo2::FAMILY,
    &falcon::FAMILY,
    &gptj::FAMILY,
    &phi::FAMILY,
    &stablelm::FAMILY,
    &starcoder2::FAMILY,
];

/// The `model_type`s that can be loaded.
pub fn supported_model_types() -> impl Iterator<Item = &'static str> {
    FAMILIES
        .iter()
        .flat_map(|family| family.model_types.iter().copied())
}

/// Reads `config.json`.
pub(crate) fn read_config(path: &Path) -> Result<(&'static Family, DecoderConfig), Error> {
    let text = regular_file::read(path)?;
    config_of(
        path,
        serde_json::from_slice(&text)
            .map_err(|e| Error::malformed(path, format!("not valid JSON: {e}")))?,
    )
}

/// What the contents of a `config.json` say; `path` is named in errors.
pub(crate) fn config_of(
    path: &Path,
    contents: serde_json::Value,
) -> Result<(&'static Family, DecoderConfig), Error> {
    let reader = ConfigReader::new(path, contents)?;
    let Some(model_type) = reader.text("model_type")? else {
        return Err(reader.error("model_type", "is missing"));
    };
    let Some(family) = FAMILIES
        .iter()
        .find(|family| family.model_types.contains(&model_type.as_str()))
    else {
        let known = supported_model_types().collect::<Vec<_>>().join(", ");
        return Err(reader.error(
            "model_type",
            format!("is `{model_type}`: supported are {known}"),
        ));
    };
    reader.only("quantization_config", serde_json::Value::Null)?;
    let mut config = (family.config)(&reader, &model_type)?;
    config.bos_token = reader.token_ids("bos_token_id")?.first().copied();
    config.eos_tokens = reader.token_ids("eos_token_id")?;
    let pad = reader.token_ids("pad_token_id")?;
    config.special_tokens = config
        .bos_token
        .iter()
        .chain(&config.eos_tokens)
        .chain(&pad)
        .copied()
        .collect();
    reader.finish()?;
    match config.attention.validate() {
        Ok(()) => Ok((family, config)),
        Err(pear_core::Error::Config {
            field,
            value,
            expected,
        }) => Err(reader.error(field, format!("is {value}: {expected}"))),
        Err(other) => Err(other.into()),
    }
}

/// `hidden_size` and the number of heads, which must divide it where no `head_dim` is given.
fn attention(
    reader: &ConfigReader,
    hidden: &[&str],
    heads: &[&str],
) -> Result<AttentionConfig, Error> {
    let (hidden_size, num_heads) = (reader.size(hidden)?, reader.size(heads)?);
    let head_dim = match reader.optional_size("head_dim")? {
        Some(head_dim) => head_dim,
        None if hidden_size.is_multiple_of(num_heads) => hidden_size / num_heads,
        None => {
            return Err(reader.error(
                heads[0],
                format!("is {num_heads}: expected a divisor of the width {hidden_size}"),
            ));
        }
    };
    Ok(AttentionConfig {
        head_dim,
        ..AttentionConfig::new(hidden_size, num_heads)
    })
}

/// Sliding windows of the layers, by `layer_types` or else by `default`.
fn windows(
    reader: &ConfigReader,
    num_layers: usize,
    window: Option<usize>,
    default: impl Fn(usize) -> bool,
) -> Result<Vec<Option<usize>>, Error> {
    let types = reader.layer_types(num_layers)?;
    let sliding = |layer: usize| {
        types
            .as_ref()
            .map_or_else(|| default(layer), |types| types[layer])
    };
    let windows: Vec<_> = (0..num_layers)
        .map(|layer| window.filter(|_| sliding(layer)))
        .collect();
    Ok(if windows.iter().all(Option::is_none) {
        Vec::new()
    } else {
        windows
    })
}

/// The names of a Llama checkpoint, which are those of the decoder itself.
fn llama_source(parameter: &Parameter) -> Option<Source> {
    Some(match (parameter.layer, parameter.name) {
        (None, "embed_tokens") => Source::as_is("embed_tokens.weight"),
        (None, name) => Source::as_is(name),
        (Some(layer), name) => Source::linear(format!("layers.{layer}.{name}")),
    })
}
