//! GPT-J: rotary positions that turn neighbouring channels, attention and MLP side by side behind one norm, a bias on the unembedding.

use pear_core::position::{RotaryConfig, RotaryLayout};

use super::{ConfigReader, Family, Parameter, PositionEmbeddingConfig, attention};
use crate::config::{DecoderConfig, NormKind, Residual};
use crate::error::Error;
use crate::source::Source;

pub(super) const FAMILY: Family = Family {
    model_types: &["gptj"],
    prefixes: &["transformer.", ""],
    lm_head: "lm_head.weight",
    config,
    source,
    buffers: &[".attn.bias", ".attn.masked_bias", ".attn.embed_positions"],
};

fn config(reader: &ConfigReader, model_type: &str) -> Result<DecoderConfig, Error> {
    let mut attention = attention(
        reader,
        &["n_embd", "hidden_size"],
        &["n_head", "num_attention_heads"],
    )?;
    reader.only("rotary", true.into())?;
    reader.only("scale_attn_weights", true.into())?;
    let rotary_dim = reader.optional_size("rotary_dim")?.unwrap_or(64);
    let rotary = RotaryConfig {
        layout: RotaryLayout::Interleaved,
        ..RotaryConfig::new(rotary_dim, 10000.0)
    };
    attention.position_embedding = PositionEmbeddingConfig::Rotary(rotary);
    // The length of a table that is computed here.
    reader.optional_size("n_positions")?;
    let hidden_size = attention.hidden_size;
    Ok(DecoderConfig {
        architecture: model_type.into(),
        gated_mlp: false,
        mlp_bias: true,
        activation: reader.activation(&["activation_function"], "gelu_new")?,
        norm: NormKind::Layer { bias: true },
        norm_eps: reader.positive("layer_norm_epsilon", 1e-5)?,
        residual: Residual::ParallelOneNorm,
        tie_word_embeddings: reader.flag("tie_word_embeddings", false)?,
        lm_head_bias: true,
        attention: attention.clone(),
        ..DecoderConfig::llama(
            reader.size(&["vocab_size"])?,
            hidden_size,
            reader.optional_size("n_inner")?.unwrap_or(4 * hidden_size),
            reader.layers(&["n_layer", "num_hidden_layers"])?,
            attention.num_attention_heads,
        )
    })
}

fn source(_config: &DecoderConfig, parameter: &Parameter) -> Option<Source> {
    let Some(layer) = parameter.layer else {
        return Some(match parameter.name {
            "embed_tokens" => Source::as_is("wte.weight"),
            name => Source::as_is(format!("ln_f{}", name.strip_prefix("norm")?)),
        });
    };
    let (module, kind) = parameter.name.rsplit_once('.')?;
    let module = match module {
        "input_layernorm" => "ln_1",
        "self_attn.q_proj" => "attn.q_proj",
        "self_attn.k_proj" => "attn.k_proj",
        "self_attn.v_proj" => "attn.v_proj",
        "self_attn.o_proj" => "attn.out_proj",
        "mlp.up_proj" => "mlp.fc_in",
        "mlp.down_proj" => "mlp.fc_out",
        _ => return None,
    };
    Some(Source::linear(format!("h.{layer}.{module}.{kind}")))
}
