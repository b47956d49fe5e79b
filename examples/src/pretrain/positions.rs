//! Models of the same size with each kind of position embedding, each in an architecture of transformers that has it.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::tiny_world::{SPECIAL_TOKENS, VOCABULARY};

const HIDDEN: usize = 96;
const LAYERS: usize = 4;
const HEADS: usize = 8;
/// Number of learned or sinusoidal positions.
const POSITIONS: usize = 256;
/// High, so that heads with few channels can still match tokens that are far apart.
pub(super) const ROPE_THETA: f64 = 1e6;

/// Kind of position embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum PositionKind {
    /// Rotary; Llama's architecture
    Rope,
    /// Linear biases on the scores (ALiBi); MPT's architecture
    Alibi,
    /// A learned table; GPT-2's architecture
    Learned,
    /// A table of sines and cosines; XGLM's architecture
    Sinusoidal,
    /// None but the causal mask; SmolLM3's architecture, without rotary layers
    None,
}

impl PositionKind {
    /// The `config.json` of a model with 4 layers of 8 heads, width 96 and tied embeddings.
    pub fn config_json(self, torch_dtype: &str) -> Value {
        let [pad, bos, eos] = SPECIAL_TOKENS;
        let mut config = match self {
            Self::Rope => json!({
                "architectures": ["LlamaForCausalLM"], "model_type": "llama",
                "hidden_size": HIDDEN, "intermediate_size": 256, "num_hidden_layers": LAYERS,
                "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "head_dim": HIDDEN / HEADS,
                "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": ROPE_THETA, "max_position_embeddings": 2048,
                "attention_bias": false, "mlp_bias": false,
            }),
            Self::Alibi => json!({
                "architectures": ["MptForCausalLM"], "model_type": "mpt",
                "d_model": HIDDEN, "expansion_ratio": 4, "n_layers": LAYERS, "n_heads": HEADS, "max_seq_len": 2048,
                "attn_config": {"alibi": true, "alibi_bias_max": 8}, "no_bias": true, "layer_norm_epsilon": 1e-5,
            }),
            Self::Learned => json!({
                "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2",
                "n_embd": HIDDEN, "n_inner": 4 * HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "n_positions": POSITIONS,
                "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
            }),
            Self::Sinusoidal => json!({
                "architectures": ["XGLMForCausalLM"], "model_type": "xglm",
                "d_model": HIDDEN, "ffn_dim": 4 * HIDDEN, "num_layers": LAYERS, "attention_heads": HEADS,
                "max_position_embeddings": POSITIONS, "activation_function": "gelu", "scale_embedding": true,
            }),
            Self::None => json!({
                "architectures": ["SmolLM3ForCausalLM"], "model_type": "smollm3",
                "hidden_size": HIDDEN, "intermediate_size": 256, "num_hidden_layers": LAYERS,
                "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "no_rope_layers": [0, 0, 0, 0],
                "layer_types": ["full_attention", "full_attention", "full_attention", "full_attention"],
                "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": ROPE_THETA, "max_position_embeddings": 2048,
                "attention_bias": false, "mlp_bias": false, "use_sliding_window": false,
            }),
        };
        let common = json!({
            "vocab_size": VOCABULARY, "tie_word_embeddings": true, "torch_dtype": torch_dtype,
            "pad_token_id": pad, "bos_token_id": bos, "eos_token_id": eos,
        });
        if let (Value::Object(config), Value::Object(common)) = (&mut config, common) {
            config.extend(common);
        }
        config
    }
}

#[cfg(test)]
mod tests {
    use pear_models::DecoderConfig;

    use super::*;

    #[test]
    fn all_kinds_are_models_of_about_the_same_size() {
        for kind in PositionKind::value_variants() {
            let config = DecoderConfig::from_json(&kind.config_json("float32")).unwrap();
            let shape = config.shape();
            assert_eq!(
                (
                    shape.num_layers,
                    shape.num_heads,
                    config.hidden_size,
                    config.vocab_size
                ),
                (4, 8, 96, 488),
                "{kind:?}"
            );
            assert!(
                config.tie_word_embeddings
                    && config.eos_tokens == [2]
                    && config.bos_token == Some(1),
                "{kind:?}"
            );
        }
    }
}
