//! MPT: ALiBi, no biases at all, queries, keys and values packed in blocks.

use pear_core::NormConfig;
use pear_core::kernels::Activation;
use serde_json::Value;

use super::tensors::{GPT, GPT_ROWS, TensorNames, row};
use super::{
    ConfigReader, DefaultTokens, Family, Flag, IntermediateSize, MAX_ALIBI_BIAS, alibi, gpt2,
};
use crate::config::DecoderConfig;
use crate::error::Error;
use crate::layer_config::LayerConfig;
use crate::param::ModuleId::*;

pub(super) const FAMILY: Family = Family {
    model_type: "mpt",
    hidden_size: &["hidden_size", "d_model"],
    num_hidden_layers: &["num_hidden_layers", "n_layers"],
    num_attention_heads: &["num_attention_heads", "n_heads"],
    intermediate_size: IntermediateSize::Multiple("expansion_ratio"),
    activation_key: None,
    activation: Activation::Gelu,
    attention_bias: Flag::Always(false),
    mlp_bias: Flag::Always(false),
    norm: NormConfig::Layer {
        eps: 1e-5,
        bias: false,
    },
    default_tokens: DefaultTokens::NONE,
    configure,
    configure_layers: |_, _| Ok(()),
    names: |_| &NAMES,
    ..gpt2::FAMILY
};

const NAMES: TensorNames = TensorNames {
    layers: "blocks.",
    tables: &[
        &[
            row("norm_f", &[FinalNorm]),
            row("norm_1", &[InputNorm]),
            row("attn.Wqkv", &[QProj, KProj, VProj]),
            row("attn.out_proj", &[OProj]),
            row("norm_2", &[PostAttentionNorm]),
            row("ffn.up_proj", &[UpProj]),
            row("ffn.down_proj", &[DownProj]),
        ],
        GPT_ROWS,
    ],
    buffers: &[],
    ..GPT
};

fn configure(
    reader: &ConfigReader,
    _config: &mut DecoderConfig,
    layer: &mut LayerConfig,
) -> Result<(), Error> {
    let attention = &mut layer.attention;
    if let Some(nested) = reader.object("attn_config")? {
        nested.only("alibi", true.into())?;
        nested.only("attn_type", "multihead_attention".into())?;
        nested.only("prefix_lm", false.into())?;
        nested.only("qk_ln", false.into())?;
        nested.only("attn_uses_sequence_id", false.into())?;
        // transformers ignores every other value, so that no two implementations agree on what it would mean.
        if nested.positive("alibi_bias_max", MAX_ALIBI_BIAS)? != MAX_ALIBI_BIAS {
            let problem = format!("only {MAX_ALIBI_BIAS} is supported");
            return Err(nested.error("alibi_bias_max", problem));
        }
        attention.clip_qkv = nested.number("clip_qkv")?;
        attention.scores.scale = nested.number("softmax_scale")?;
        nested.only("sliding_window_size", (-1).into())?;
        nested.only("attn_logit_softcapping", Value::Null)?;
        nested.only("qk_gn", false.into())?;
        nested.only("rope", false.into())?;
        nested.ignore(&["attn_impl", "attn_pdrop", "fused_qkv", "model_type"]);
        nested.finish()?;
    }
    if let Some(nested) = reader.object("ffn_config")? {
        nested.only("ffn_type", "mptmlp".into())?;
        nested.only("ffn_act_fn", Value::Null)?;
        nested.ignore(&["fc_type"]);
        nested.finish()?;
    }
    reader.only("block_overrides", Value::Null)?;
    attention.position_embedding = alibi(attention);
    reader.only("no_bias", true.into())?;
    reader.only("norm_type", "low_precision_layernorm".into())?;
    reader.only("logit_scale", Value::Null)?;
    // The trained table that this flag speaks of is not part of the ALiBi model, nor is its length a limit.
    reader.flag("learned_pos_emb", true)?;
    reader.ignore(&["max_seq_len", "fc_type"]);
    Ok(())
}
