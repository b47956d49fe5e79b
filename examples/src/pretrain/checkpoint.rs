//! A decoder of Llama's architecture as a Hugging Face model directory.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use burn::module::{Module, ModuleVisitor, Param};
use burn::prelude::*;
use pear_core::files::{write_atomic, write_json};
use pear_core::position::PositionEmbeddingConfig;
use pear_models::{Decoder, DecoderConfig};
use safetensors::Dtype;
use safetensors::tensor::{TensorView, serialize};

use crate::tiny_world::{SPECIAL_TOKENS, World};

/// Writes `config.json` and `model.safetensors` (f32) under `directory`, for transformers and for
/// [`ModelDirectory`](pear_models::ModelDirectory) alike.
///
/// # Errors
/// Whatever the file system says.
pub fn save(model: &Decoder, directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("{}: cannot write", directory.display()))?;
    write_json(&directory.join("config.json"), &config_json(model.config()))?;

    let mut tensors = Tensors::default();
    model.visit(&mut tensors);
    let views: Vec<(&String, TensorView)> = tensors
        .found
        .iter()
        .map(|(name, shape, bytes)| Ok((name, TensorView::new(Dtype::F32, shape.clone(), bytes)?)))
        .collect::<Result<_>>()?;
    let bytes = serialize(views, Some(HashMap::from([("format".into(), "pt".into())])))?;
    let path = directory.join("model.safetensors");
    write_atomic(&path, |file| std::io::Write::write_all(file, &bytes))
        .with_context(|| format!("{}: cannot write", path.display()))
}

fn config_json(config: &DecoderConfig) -> serde_json::Value {
    let rope_theta = match &config.attention.position_embedding {
        PositionEmbeddingConfig::Rotary(rotary) => rotary.rope_theta,
        _ => 10000.0,
    };
    serde_json::json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size(),
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.attention.num_attention_heads,
        "num_key_value_heads": config.attention.num_key_value_heads,
        "head_dim": config.attention.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "rope_theta": rope_theta,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": config.tie_word_embeddings,
        "attention_bias": false,
        "mlp_bias": false,
        "pad_token_id": config.special_tokens.first(),
        "bos_token_id": config.bos_token,
        "eos_token_id": config.eos_tokens.first(),
        "torch_dtype": "float32",
    })
}

/// Name, shape and bytes of every tensor, as they stand in a checkpoint: linear layers `[out, in]`.
#[derive(Default)]
struct Tensors {
    found: Vec<(String, Vec<usize>, Vec<u8>)>,
    path: Vec<String>,
}

impl ModuleVisitor for Tensors {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let path = self.path.join(".");
        let (name, tensor) = match path.as_str() {
            "embed_tokens" => ("model.embed_tokens.weight".into(), param.val()),
            "lm_head" => ("lm_head.weight".into(), param.val()),
            _ if D == 2 => (format!("model.{path}"), param.val().swap_dims(0, 1)),
            _ => (format!("model.{path}"), param.val()),
        };
        let shape = tensor.dims().to_vec();
        let bytes = tensor.into_data().iter::<f32>().flat_map(f32::to_le_bytes).collect();
        self.found.push((name, shape, bytes));
    }
}

/// Writes the tokenizer of the tiny world beside a model: `tokenizer.json`, `tokenizer_config.json`, `generation_config.json`.
///
/// # Errors
/// Whatever the file system says.
pub fn save_tokenizer(world: &World, directory: &Path) -> Result<()> {
    let word = |id: usize| world.words()[id];
    let names = serde_json::json!({
        "tokenizer_class": "PreTrainedTokenizerFast", "pad_token": word(0), "bos_token": word(1), "eos_token": word(2),
        "clean_up_tokenization_spaces": false,
    });
    let [pad, bos, eos] = SPECIAL_TOKENS;
    let generation = serde_json::json!({"pad_token_id": pad, "bos_token_id": bos, "eos_token_id": eos});
    write_json(&directory.join("tokenizer.json"), &world.tokenizer_json())?;
    write_json(&directory.join("tokenizer_config.json"), &names)?;
    Ok(write_json(&directory.join("generation_config.json"), &generation)?)
}
