//! Keys of `config.json` that change what a model computes, in a way that the decoder does not have.
//!
//! Only families that do not read a key themselves refuse it. What changes the shape or the name of a tensor needs no entry here: the tensors are
//! checked against the config.

use serde_json::Value;

/// A key, the values with which it changes nothing, and what the reader of the message should know.
pub(super) struct RefusedKey {
    pub key: &'static str,
    /// Beside `null` and what is empty.
    harmless: &'static [Harmless],
    /// A clause that follows the value.
    pub advice: &'static str,
}

/// A value of a key.
enum Harmless {
    Flag(bool),
    Number(f64),
    Text(&'static str),
}

use Harmless::{Flag, Number, Text};

const OFF: &[Harmless] = &[Flag(false), Number(0.0)];
const ONE: &[Harmless] = &[Number(1.0)];
/// Numbers of experts of a model that has none.
const NO_EXPERTS: &[Harmless] = &[Number(0.0), Number(1.0)];
const ORDINARY_POSITIONS: &[Harmless] = &[
    Text("absolute"),
    Text("learned"),
    Text("rope"),
    Text("rotary"),
];

const BIDIRECTIONAL: &str = "each token of this model sees the whole text, as in embedding models; only causal models are supported, so take the \
                             causal model that it was made from";
const ENCODER: &str = "only decoders without an encoder are supported";
const EXPERTS: &str = "this model_type has no experts in transformers; if the model is a mixture of experts of a supported kind, its \
                       model_type must say so";
const CUSTOM: &str = "this is computed by code that came with the model and that is not supported";
const PER_LAYER_ROTARY: &str =
    "positions that differ between kinds of layers are not supported for this model_type";
const FACTOR: &str =
    "transformers does not apply this factor for this model_type, and other code does";

const fn refused(
    key: &'static str,
    harmless: &'static [Harmless],
    advice: &'static str,
) -> RefusedKey {
    RefusedKey {
        key,
        harmless,
        advice,
    }
}

pub(super) const REFUSED: &[RefusedKey] = &[
    // Read by transformers for every model.
    refused("is_causal", &[Flag(true)], BIDIRECTIONAL),
    refused("use_bidirectional_attention", OFF, BIDIRECTIONAL),
    refused("is_encoder_decoder", OFF, ENCODER),
    refused("add_cross_attention", OFF, ENCODER),
    refused("cross_attention_hidden_size", OFF, ENCODER),
    refused("pruned_heads", OFF, "save the model without pruned heads"),
    refused(
        "per_layer_config",
        OFF,
        "settings of single layers are not supported",
    ),
    // Positions.
    refused(
        "rope_condense_ratio",
        ONE,
        "positions are divided by this factor in code that came with the model; the same is said, in a form that is supported, by \
         \"rope_scaling\": {\"rope_type\": \"linear\", \"factor\": …}",
    ),
    refused("rope_ratio", ONE, CUSTOM),
    refused("rope_interleaved", OFF, CUSTOM),
    refused("use_mrope", OFF, CUSTOM),
    refused("no_rope_layers", OFF, CUSTOM),
    refused("position_embedding", ORDINARY_POSITIONS, CUSTOM),
    refused("position_embedding_type", ORDINARY_POSITIONS, CUSTOM),
    refused("alibi", OFF, CUSTOM),
    refused("use_alibi", OFF, CUSTOM),
    refused("use_logn_attn", OFF, CUSTOM),
    refused("use_dynamic_ntk", OFF, CUSTOM),
    refused("rope_scaling.full_attention", &[], PER_LAYER_ROTARY),
    refused("rope_scaling.sliding_attention", &[], PER_LAYER_ROTARY),
    refused("rope_parameters.full_attention", &[], PER_LAYER_ROTARY),
    refused("rope_parameters.sliding_attention", &[], PER_LAYER_ROTARY),
    // Attention.
    refused("attention_mode", &[Text("default")], CUSTOM),
    refused("attention_sink", OFF, CUSTOM),
    refused("prefix_lm", OFF, CUSTOM),
    refused("scale_attn_weights", &[Flag(true)], CUSTOM),
    refused("clip_qkv", OFF, CUSTOM),
    refused("attn_logit_softcapping", OFF, CUSTOM),
    refused("final_logit_softcapping", OFF, CUSTOM),
    refused("qk_ln", OFF, CUSTOM),
    refused("qk_norm", OFF, CUSTOM),
    refused("use_qk_norm", OFF, CUSTOM),
    refused("qk_layernorm", OFF, CUSTOM),
    refused("qk_layer_norms", OFF, CUSTOM),
    // Factors.
    refused("logit_scale", ONE, FACTOR),
    refused("logits_scaling", ONE, FACTOR),
    refused("attention_multiplier", ONE, FACTOR),
    refused("residual_multiplier", ONE, FACTOR),
    refused("embedding_multiplier", ONE, FACTOR),
    refused("scale_emb", ONE, FACTOR),
    refused("scale_depth", ONE, FACTOR),
    // Other parts.
    refused("num_experts", NO_EXPERTS, EXPERTS),
    refused("num_local_experts", NO_EXPERTS, EXPERTS),
    refused("n_routed_experts", NO_EXPERTS, EXPERTS),
    refused("moe_num_experts", NO_EXPERTS, EXPERTS),
    refused(
        "use_lora",
        OFF,
        "merge the adapters into the weights and save the model without them",
    ),
];

impl RefusedKey {
    /// Whether the model is as it would be without the key.
    pub(super) fn allows(&self, value: &Value) -> bool {
        is_empty(value) || self.harmless.iter().any(|harmless| harmless.is(value))
    }
}

impl Harmless {
    fn is(&self, value: &Value) -> bool {
        match self {
            Flag(flag) => value.as_bool() == Some(*flag),
            Number(number) => value.as_f64() == Some(*number),
            Text(text) => value.as_str() == Some(text),
        }
    }
}

/// Whether a value says nothing.
pub(super) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}
