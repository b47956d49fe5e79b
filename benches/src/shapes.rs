//! Configs of real models, as far as they say what shape a model has.

use serde_json::{Value, json};

/// The `config.json` of a model by name.
///
/// # Panics
/// If there is none of this name.
pub fn shape(name: &str) -> Value {
    let llama = |vocabulary: u64,
                 hidden: u64,
                 inner: u64,
                 layers: u64,
                 heads: u64,
                 shared: u64,
                 head_dim: u64| {
        json!({
            "model_type": "llama", "vocab_size": vocabulary, "hidden_size": hidden, "intermediate_size": inner,
            "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": shared, "head_dim": head_dim,
        })
    };
    match name {
        "gpt2-small" => json!({
            "model_type": "gpt2", "vocab_size": 50257, "n_embd": 768, "n_head": 12, "num_hidden_layers": 12, "n_positions": 1024,
        }),
        "qwen2.5-0.5b" => json!({
            "model_type": "qwen2", "vocab_size": 151_936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
            "num_attention_heads": 14, "num_key_value_heads": 2, "tie_word_embeddings": true, "rope_theta": 1e6,
        }),
        "llama-3.2-1b" => {
            let mut config = llama(128_256, 2048, 8192, 16, 32, 8, 64);
            config["tie_word_embeddings"] = true.into();
            config
        }
        "llama-2-7b" => llama(32_000, 4096, 11_008, 32, 32, 32, 128),
        "llama-3.1-8b" => llama(128_256, 4096, 14_336, 32, 32, 8, 128),
        "llama-3.1-70b" => llama(128_256, 8192, 28_672, 80, 64, 8, 128),
        "llama-3.1-405b" => llama(128_256, 16_384, 53_248, 126, 128, 8, 128),
        _ => panic!(
            "`{name}`: expected gpt2-small, qwen2.5-0.5b, llama-3.2-1b, llama-2-7b, llama-3.1-8b, llama-3.1-70b or llama-3.1-405b"
        ),
    }
}
