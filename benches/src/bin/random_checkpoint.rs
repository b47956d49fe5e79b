//! Writes a checkpoint of a real shape and random weights in bf16, a file for each layer, for measurements that need the files of a large model.
//!
//! ```sh
//! cargo run --release -p pear-benches --bin random_checkpoint -- llama-2-7b DIR             # 13.5 GB
//! cargo run --release -p pear-benches --bin random_checkpoint -- llama-2-7b DIR --layers 4
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use pear_benches::shapes::shape;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde_json::{Value, json};

/// Standard deviation of the weights.
const STANDARD_DEVIATION: f64 = 0.02;

fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, directory, rest @ ..] = &arguments[..] else {
        panic!("expected the name of a shape and a directory");
    };
    let mut config = shape(name);
    match rest {
        [] => {}
        [flag, layers] if flag == "--layers" => {
            config["num_hidden_layers"] = layers.parse::<u64>().expect("a number of layers").into();
        }
        _ => panic!("{rest:?}: expected nothing or --layers N"),
    }
    let directory = PathBuf::from(directory);
    fs::create_dir_all(&directory)?;
    fs::write(directory.join("config.json"), config.to_string())?;
    let files = files(&config);
    let mut weight_map = BTreeMap::new();
    let mut numbers = Numbers::new();
    let (mut written, count) = (0, files.len());
    for (index, tensors) in files.into_iter().enumerate() {
        let file = format!("model-{:05}-of-{count:05}.safetensors", index + 1);
        written += write_file(&directory.join(&file), &tensors, &mut numbers)?;
        weight_map.extend(tensors.into_iter().map(|(name, _)| (name, file.clone())));
    }
    let index = json!({"metadata": {"total_size": written}, "weight_map": weight_map});
    fs::write(
        directory.join("model.safetensors.index.json"),
        index.to_string(),
    )?;
    println!("{}: {written} bytes of weights", directory.display());
    Ok(())
}

/// Names and shapes of the tensors of each file: one for each layer, and one for the rest.
fn files(config: &Value) -> Vec<Vec<(String, Vec<usize>)>> {
    let size = |key: &str| {
        let value = config[key].as_u64();
        value.unwrap_or_else(|| panic!("a shape of the architecture of Llama, with `{key}`"))
            as usize
    };
    let (hidden, inner, head_dim) = (
        size("hidden_size"),
        size("intermediate_size"),
        size("head_dim"),
    );
    let query = size("num_attention_heads") * head_dim;
    let key_value = size("num_key_value_heads") * head_dim;
    let of_layer = |layer: usize| {
        let matrices = [
            ("self_attn.q_proj", vec![query, hidden]),
            ("self_attn.k_proj", vec![key_value, hidden]),
            ("self_attn.v_proj", vec![key_value, hidden]),
            ("self_attn.o_proj", vec![hidden, query]),
            ("mlp.gate_proj", vec![inner, hidden]),
            ("mlp.up_proj", vec![inner, hidden]),
            ("mlp.down_proj", vec![hidden, inner]),
            ("input_layernorm", vec![hidden]),
            ("post_attention_layernorm", vec![hidden]),
        ];
        let name = |module: &str| format!("model.layers.{layer}.{module}.weight");
        matrices
            .map(|(module, shape)| (name(module), shape))
            .to_vec()
    };
    let mut files: Vec<_> = (0..size("num_hidden_layers")).map(of_layer).collect();
    let table = vec![size("vocab_size"), hidden];
    let mut outside = vec![
        ("model.embed_tokens.weight".into(), table.clone()),
        ("model.norm.weight".into(), vec![hidden]),
    ];
    if config["tie_word_embeddings"] != true {
        outside.push(("lm_head.weight".into(), table));
    }
    files.push(outside);
    files
}

/// Writes a safetensors file; the bytes of its tensors.
fn write_file(
    path: &Path,
    tensors: &[(String, Vec<usize>)],
    numbers: &mut Numbers,
) -> std::io::Result<u64> {
    let mut header = serde_json::Map::new();
    let mut end = 0u64;
    for (name, shape) in tensors {
        let start = end;
        end += 2 * shape.iter().product::<usize>() as u64;
        let entry = json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, end]});
        header.insert(name.clone(), entry);
    }
    let mut header = Value::Object(header).to_string();
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    let mut file = BufWriter::new(File::create(path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    for (_, shape) in tensors {
        let count = shape.iter().product();
        match shape[..] {
            // Weights of norms.
            [_] => file.write_all(&Numbers::ONE.repeat(count))?,
            _ => numbers.write(count, &mut file)?,
        }
    }
    file.flush()?;
    Ok(end)
}

/// Normally distributed numbers in bf16.
struct Numbers {
    random: ChaCha8Rng,
    /// The quantiles of 65,536 equal shares of the distribution.
    quantiles: Vec<[u8; 2]>,
}

impl Numbers {
    const ONE: [u8; 2] = 0x3f80u16.to_le_bytes();

    fn new() -> Self {
        // The quantiles of a distribution are its distribution function read the other way round.
        let (step, mut x, mut below) = (1e-4, -6.0f64, 0.0);
        let mut quantiles = Vec::with_capacity(1 << 16);
        let density = |x: f64| (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt();
        for share in 0..1u32 << 16 {
            let target = (f64::from(share) + 0.5) / f64::from(1u32 << 16);
            while below < target {
                below += step * density(x + step / 2.0);
                x += step;
            }
            let number = (STANDARD_DEVIATION * x) as f32;
            quantiles.push(((number.to_bits() >> 16) as u16).to_le_bytes());
        }
        Self {
            random: ChaCha8Rng::seed_from_u64(0),
            quantiles,
        }
    }

    fn write(&mut self, count: usize, into: &mut impl Write) -> std::io::Result<()> {
        let mut bytes = vec![0u8; 1 << 16];
        let mut left = 2 * count;
        while left > 0 {
            let piece = &mut bytes[..left.min(1 << 16)];
            self.random.fill_bytes(piece);
            for number in piece.chunks_exact_mut(2) {
                let share = u16::from_le_bytes([number[0], number[1]]);
                number.copy_from_slice(&self.quantiles[usize::from(share)]);
            }
            into.write_all(piece)?;
            left -= piece.len();
        }
        Ok(())
    }
}
