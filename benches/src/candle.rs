//! The same models in candle-transformers.

use std::path::Path;
use std::time::Instant;

use candle_core::{D, DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{llama, qwen2};

use crate::median;

#[allow(clippy::large_enum_variant, reason = "there is one")]
enum Model {
    Llama(llama::Llama, llama::Config, llama::Cache),
    Qwen(qwen2::ModelForCausalLM),
}

impl Model {
    fn load(directory: &Path, dtype: DType) -> Self {
        let text = std::fs::read(directory.join("config.json")).expect("a config");
        let config: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
        let files = [directory.join("model.safetensors")];
        // SAFETY: nobody writes to the file that this bench has written.
        let weights = unsafe { VarBuilder::from_mmaped_safetensors(&files, dtype, &Device::Cpu) }
            .expect("weights");
        if config["model_type"] == "qwen2" {
            let config: qwen2::Config = serde_json::from_value(config).expect("candle's config");
            return Self::Qwen(qwen2::ModelForCausalLM::new(&config, weights).expect("a model"));
        }
        let config: llama::LlamaConfig = serde_json::from_value(config).expect("candle's config");
        let config = config.into_config(false);
        let cache = llama::Cache::new(true, dtype, &config, &Device::Cpu).expect("a cache");
        Self::Llama(
            llama::Llama::load(weights, &config).expect("a model"),
            config,
            cache,
        )
    }

    fn forget(&mut self, dtype: DType) {
        match self {
            Self::Llama(_, config, cache) => {
                *cache = llama::Cache::new(true, dtype, config, &Device::Cpu).expect("a cache")
            }
            Self::Qwen(model) => model.clear_kv_cache(),
        }
    }

    /// The likeliest token after these.
    fn next(&mut self, tokens: &[u32], position: usize) -> u32 {
        let input = Tensor::new(tokens, &Device::Cpu)
            .and_then(|t| t.unsqueeze(0))
            .expect("tokens");
        let logits = match self {
            Self::Llama(model, _, cache) => model.forward(&input, position, cache),
            Self::Qwen(model) => model.forward(&input, position),
        };
        let best = logits.and_then(|logits| logits.flatten_all()?.argmax(D::Minus1)?.to_scalar());
        best.expect("logits")
    }
}

/// Seconds of reading a prompt, and seconds a token of what follows.
///
/// # Panics
/// If candle cannot run the model.
pub fn generate(directory: &Path, half: bool, prompt: &[u32], new: usize) -> (f64, f64) {
    let dtype = if half { DType::BF16 } else { DType::F32 };
    let mut model = Model::load(directory, dtype);
    let (mut prefill, mut decode) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        model.forget(dtype);
        let start = Instant::now();
        let mut token = model.next(prompt, 0);
        prefill.push(start.elapsed().as_secs_f64());
        let start = Instant::now();
        for position in 0..new - 1 {
            token = model.next(&[token], prompt.len() + position);
        }
        decode.push(start.elapsed().as_secs_f64() / (new - 1) as f64);
    }
    (median(prefill.split_off(1)), median(decode.split_off(1)))
}
