//! Falcon ([arXiv 2311.16867](https://arxiv.org/abs/2311.16867)): rotary positions or ALiBi, three ways of packing queries, keys and values.

use pear_core::kernels::Activation;
use pear_core::position::PositionEmbeddingConfig;

use super::bloom::BLOOM_ROWS;
use super::rotary::RotaryKeys;
use super::tensors::{GPT, TensorNames, row};
use super::{ConfigReader, DefaultTokens, Family, Flag, IntermediateSize, gpt2};
use crate::error::Error;
use crate::layer_config::{LayerConfig, Residual};
use crate::param::ModuleId::*;

pub(super) const FAMILY: Family = Family {
    model_type: "falcon",
    hidden_size: &["n_embed", "hidden_size"],
    num_hidden_layers: &["num_hidden_layers", "n_layer"],
    num_attention_heads: &["num_attention_heads", "n_head"],
    intermediate_size: IntermediateSize::KeyOrFourfold("ffn_hidden_size"),
    activation_key: Some("activation"),
    activation: Activation::Gelu,
    attention_bias: Flag::Key("bias", false),
    mlp_bias: Flag::Key("bias", false),
    default_tokens: DefaultTokens {
        bos: Some(11),
        eos: Some(11),
        pad: None,
    },
    configure: |reader, _, layer| {
        let keys = Keys {
            num_kv_heads: "num_kv_heads",
            new_architecture: false,
        };
        configure(reader, layer, &keys)
    },
    configure_layers: |_, _| Ok(()),
    names: |config| {
        let two_norms = |layer: &LayerConfig| layer.residual == Residual::Parallel;
        if config.layers.first().is_some_and(two_norms) {
            &NAMES_OF_TWO_NORMS
        } else {
            &NAMES
        }
    },
    ..gpt2::FAMILY
};

/// Falcon-40B as it was first published: no key tells its architecture, and some keys have other names.
pub(super) const REFINED_WEB: Family = Family {
    model_type: "RefinedWeb",
    configure: |reader, config, layer| {
        config.architecture = FAMILY.model_type.into();
        let keys = Keys {
            num_kv_heads: "n_head_kv",
            // Only the code of the large model read this key.
            new_architecture: reader.has("n_head_kv"),
        };
        configure(reader, layer, &keys)
    },
    ..FAMILY
};

/// Falcon-7B and Falcon-RW, likewise.
pub(super) const REFINED_WEB_MODEL: Family = Family {
    model_type: "RefinedWebModel",
    ..REFINED_WEB
};

const NAMES: TensorNames = TensorNames {
    tables: &[BLOOM_ROWS],
    buffers: &["rotary_emb.inv_freq", "maybe_rotary.inv_freq"],
    ..GPT
};

/// Falcon-40B names the norms of its two branches after them.
const NAMES_OF_TWO_NORMS: TensorNames = TensorNames {
    tables: &[
        &[
            row("ln_attn", &[InputNorm]),
            row("ln_mlp", &[PostAttentionNorm]),
        ],
        BLOOM_ROWS,
    ],
    ..NAMES
};

/// What the names of the keys depend on.
struct Keys {
    num_kv_heads: &'static str,
    /// Whether it is Falcon-40B's where the config does not say.
    new_architecture: bool,
}

fn configure(reader: &ConfigReader, layer: &mut LayerConfig, keys: &Keys) -> Result<(), Error> {
    let new_architecture = reader.flag("new_decoder_architecture", keys.new_architecture)?;
    let multi_query = reader.flag("multi_query", true)?;
    let num_kv_heads = reader.optional_size(keys.num_kv_heads)?;
    let attention = &mut layer.attention;
    if new_architecture {
        attention.num_key_value_heads = num_kv_heads.unwrap_or(attention.num_attention_heads);
    } else if multi_query {
        attention.num_key_value_heads = 1;
    }
    // Read even where positions are ALiBi's: the configs of those have its keys, too.
    let rotary = reader.rotary(attention.head_dim, &RotaryKeys::WHOLE_HEADS);
    attention.position_embedding = if reader.flag("alibi", false)? {
        PositionEmbeddingConfig::FalconAlibi {
            num_heads: attention.num_attention_heads,
            head_dim: attention.head_dim,
        }
    } else {
        PositionEmbeddingConfig::Rotary(rotary?)
    };
    let parallel = reader.flag("parallel_attn", true)?;
    let default_norms = if new_architecture { 2 } else { 1 };
    let norms = reader
        .optional_size("num_ln_in_parallel_attn")?
        .unwrap_or(default_norms);
    layer.residual = match (parallel, new_architecture) {
        (true, true) if norms == 2 => Residual::Parallel,
        (true, _) => Residual::ParallelOneNorm,
        (false, false) => Residual::Serial,
        (false, true) => {
            let problem = "is false: the new architecture is always parallel";
            return Err(reader.error("parallel_attn", problem));
        }
    };
    Ok(())
}
