//! Broken and hostile model directories: a clear error that names the file, never a panic or a large allocation.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::fixtures;
use pear_models::{ModelDirectory, Tokenizer};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A copy of a fixture to be broken.
struct Copy(TempDir);

impl Copy {
    fn of(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for file in fs::read_dir(fixtures().join(name))
            .unwrap()
            .map(|file| file.unwrap())
        {
            fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
        }
        Self(folder)
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    fn config(self, change: impl FnOnce(&mut Value)) -> Self {
        self.json("config.json", change)
    }

    fn json(self, file: &str, change: impl FnOnce(&mut Value)) -> Self {
        let mut value = serde_json::from_slice(&fs::read(self.path(file)).unwrap()).unwrap();
        change(&mut value);
        fs::write(self.path(file), value.to_string()).unwrap();
        self
    }

    /// Changes the header of `model.safetensors`, keeping the data.
    fn header(self, change: impl FnOnce(&mut Value)) -> Self {
        let path = self.path("model.safetensors");
        let bytes = fs::read(&path).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let mut header = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        change(&mut header);
        let header = header.to_string();
        let file = [
            &(header.len() as u64).to_le_bytes()[..],
            header.as_bytes(),
            &bytes[8 + length..],
        ]
        .concat();
        fs::write(&path, file).unwrap();
        self
    }

    fn write(self, file: &str, bytes: impl AsRef<[u8]>) -> Self {
        fs::write(self.path(file), bytes).unwrap();
        self
    }

    fn refused(&self, expected: &[&str]) {
        let error = ModelDirectory::open(self.0.path())
            .expect_err("opened")
            .to_string();
        assert!(!error.contains('\n'), "{error}");
        assert!(error.len() < 1000, "{} bytes of message", error.len());
        for part in expected {
            assert!(error.contains(part), "`{part}` is not in: {error}");
        }
    }
}

fn llama() -> Copy {
    Copy::of("llama-2")
}

#[test]
fn a_config_that_is_no_config() {
    let gone = llama();
    fs::remove_file(gone.path("config.json")).unwrap();
    gone.refused(&["config.json", "cannot read"]);
    for text in ["", "{", "[]", "null", "\u{0}\u{1}", "{\"model_type\": 3}"] {
        llama().write("config.json", text).refused(&["config.json"]);
    }
    let deep = "[".repeat(200_000);
    llama()
        .write("config.json", deep)
        .refused(&["config.json", "recursion limit"]);
    assert!(
        ModelDirectory::open(Path::new("/nonexistent/model"))
            .unwrap_err()
            .to_string()
            .contains("/nonexistent/model")
    );
}

#[test]
fn an_architecture_that_is_not_known_lists_those_that_are() {
    llama()
        .config(|c| c["model_type"] = "mamba".into())
        .refused(&["`model_type`", "mamba", "llama", "bloom"]);
    llama()
        .config(|c| c["model_type"] = Value::Null)
        .refused(&["`model_type`: is missing"]);
}

#[test]
fn sizes_that_cannot_be_name_their_key() {
    let cases = [
        ("num_hidden_layers", json!(1_000_000_000_000u64)),
        ("num_hidden_layers", json!(0)),
        ("num_hidden_layers", json!(-1)),
        ("num_hidden_layers", json!(2.5)),
        ("num_hidden_layers", json!("two")),
        ("num_hidden_layers", Value::Null),
        ("hidden_size", json!(1_000_000_000_000_000u64)),
        ("hidden_size", json!(1e300)),
        ("vocab_size", json!(18_446_744_073_709_551_615u64)),
        ("vocab_size", json!(0)),
        ("num_attention_heads", json!(0)),
        ("num_attention_heads", json!(7)),
        ("num_key_value_heads", json!(4)),
        ("num_key_value_heads", json!(12)),
        ("intermediate_size", json!([1])),
        ("head_dim", json!(7)),
        ("rms_norm_eps", json!(-1e-5)),
        ("rms_norm_eps", json!("small")),
        ("rope_theta", json!(-10000.0)),
        ("rope_theta", json!(0)),
        ("hidden_act", json!("softplus")),
        ("tie_word_embeddings", json!("yes")),
        ("quantization_config", json!({"bits": 4})),
        ("attention_sink", json!(true)),
        ("is_encoder_decoder", json!(true)),
    ];
    for (key, value) in cases {
        llama()
            .config(|c| c[key] = value.clone())
            .refused(&["config.json", &format!("`{key}`")]);
    }
    llama()
        .config(|c| c["num_hidden_layers"] = 4000.into())
        .refused(&["4000 layers, but only"]);
    llama()
        .config(|c| c["rope_scaling"] = json!({"type": "warp", "factor": 2.0}))
        .refused(&["rope_scaling.type", "warp"]);
    llama()
        .config(|c| c["rope_scaling"] = json!({"type": "linear", "factor": 0.0}))
        .refused(&["rope_scaling.factor"]);
    llama()
        .config(|c| c["rope_scaling"] = json!({"type": "linear"}))
        .refused(&["rope_scaling.factor", "missing"]);
    llama()
        .config(|c| c["rope_scaling"] = json!({"type": "yarn", "factor": 2.0, "mscale": "1"}))
        .refused(&["rope_scaling.mscale", "expected a number"]);
    for key in ["full_attention", "sliding_attention"] {
        llama()
            .config(|c| c["rope_parameters"] = json!({key: {"rope_theta": 5e5}}))
            .refused(&[&format!("rope_parameters.{key}"), "kinds of layers"]);
    }
    llama()
        .config(|c| c["architectures"] = json!(["Llama\nForCausalLM", "New\nForCausalLM"]))
        .refused(&["`architectures`", "New\\nForCausalLM"]);
    Copy::of("gpt-neox")
        .config(|c| c["rotary_pct"] = json!(0.2))
        .refused(&["rotary_pct", "even"]);
}

#[test]
fn sizes_that_do_not_fit_the_weights_list_the_tensors() {
    llama().config(|c| c["vocab_size"] = 98.into()).refused(&[
        "`model.embed_tokens.weight` is [97, 48], expected [98, 48]",
        "lm_head",
    ]);
    llama()
        .config(|c| c["num_hidden_layers"] = 9.into())
        .refused(&["`model.layers.", "is missing"]);
    llama()
        .config(|c| c["num_hidden_layers"] = 1.into())
        .refused(&["`model.layers.1.", "has no place"]);
    llama()
        .config(|c| c["attention_bias"] = true.into())
        .refused(&["q_proj.bias` is missing"]);
    llama().config(|c| c["hidden_size"] = 96.into()).refused(&[
        "expected [97, 96]",
        "and ",
        " more",
    ]);
    // However many experts a config claims, none is listed before the router has them.
    for number in [4, 16_000_000] {
        Copy::of("mixtral")
            .config(|c| c["num_local_experts"] = number.into())
            .refused(&[
                "`model.layers.0.block_sparse_moe.gate.weight` is [5, 48]",
                &format!("expected [{number}, 48]"),
            ]);
    }
    for (name, tensor) in [
        (
            "mixtral",
            "experts.0.w1.weight` is [20, 48], expected [21, 48]",
        ),
        (
            "granite-moe",
            "input_linear.weight` is [5, 32, 48], expected [5, 42, 48]",
        ),
    ] {
        Copy::of(name)
            .config(|c| c["intermediate_size"] = 21.into())
            .refused(&[tensor]);
    }
}

#[test]
fn weights_that_are_missing_cut_short_or_lie_about_their_length() {
    let gone = llama();
    fs::remove_file(gone.path("model.safetensors")).unwrap();
    gone.refused(&["neither model.safetensors nor model.safetensors.index.json"]);
    let folder = llama();
    fs::remove_file(folder.path("model.safetensors")).unwrap();
    fs::create_dir(folder.path("model.safetensors")).unwrap();
    folder.refused(&["model.safetensors", "not a file"]);

    let whole = fs::read(fixtures().join("llama-2/model.safetensors")).unwrap();
    for length in [0, 1, 7, 8, 9, 100, whole.len() / 2, whole.len() - 1] {
        llama()
            .write("model.safetensors", &whole[..length])
            .refused(&["model.safetensors"]);
    }
    llama()
        .write("model.safetensors", [&whole[..], b"tail"].concat())
        .refused(&["model.safetensors"]);
    for claimed in [u64::MAX, 1 << 40, whole.len() as u64, 3] {
        let lying = [&claimed.to_le_bytes()[..], &whole[8..]].concat();
        llama()
            .write("model.safetensors", lying)
            .refused(&["model.safetensors"]);
    }
}

#[test]
fn headers_with_wrong_offsets_shapes_or_dtypes() {
    const TENSOR: &str = "model.norm.weight";
    llama()
        .header(|h| h[TENSOR]["data_offsets"] = json!([0, 1u64 << 60]))
        .refused(&["model.safetensors"]);
    llama()
        .header(|h| h[TENSOR]["data_offsets"] = json!([8, 4]))
        .refused(&["model.safetensors"]);
    llama()
        .header(|h| h[TENSOR]["data_offsets"] = json!([-4, 4]))
        .refused(&["model.safetensors"]);
    llama()
        .header(|h| h[TENSOR]["shape"] = json!([24]))
        .refused(&["model.safetensors"]);
    llama()
        .header(|h| h[TENSOR]["shape"] = json!([1u64 << 40, 1u64 << 40]))
        .refused(&["model.safetensors"]);
    llama()
        .header(|h| h[TENSOR]["shape"] = json!([6, 8]))
        .refused(&["`model.norm.weight` is [6, 8], expected [48]"]);
    llama()
        .header(|h| h[TENSOR]["dtype"] = json!("I32"))
        .refused(&["`model.norm.weight` is I32, expected F32, F16 or BF16"]);
    llama()
        .header(|h| h[TENSOR]["dtype"] = json!("Q4"))
        .refused(&["model.safetensors"]);
    let renamed = llama().header(|h| {
        let info = h.as_object_mut().unwrap().remove(TENSOR).unwrap();
        h["model.norm.wait"] = info;
    });
    renamed.refused(&[
        "`model.norm.weight` is missing",
        "`model.norm.wait` has no place",
    ]);
}

#[test]
fn shards_that_are_missing_or_stand_outside_the_directory() {
    const INDEX: &str = "model.safetensors.index.json";
    let sharded = || Copy::of("llama-rope-parameters");
    let first = "model.embed_tokens.weight";
    for outside in [
        "../model.safetensors",
        "/etc/passwd",
        "sub/model.safetensors",
        "..",
        ".",
        "",
    ] {
        sharded()
            .json(INDEX, |i| i["weight_map"][first] = outside.into())
            .refused(&[INDEX, "not a file in the same directory"]);
    }
    sharded()
        .json(INDEX, |i| {
            i["weight_map"][first] = "absent.safetensors".into()
        })
        .refused(&["absent.safetensors", "cannot open"]);
    sharded()
        .json(INDEX, |i| {
            i["weight_map"]["model.extra.weight"] = i["weight_map"][first].clone()
        })
        .refused(&["lacks tensor `model.extra.weight`"]);
    sharded()
        .json(INDEX, |i| *i = json!({}))
        .refused(&[INDEX, "weight_map"]);
    sharded()
        .json(INDEX, |i| i["weight_map"] = json!({}))
        .refused(&[INDEX, "names no shard"]);
    sharded().write(INDEX, "{").refused(&[INDEX]);
}

/// Opening a pipe waits for a writer, who never comes.
#[cfg(unix)]
#[test]
fn a_pipe_in_place_of_a_file_is_refused_without_waiting() {
    const INDEX: &str = "model.safetensors.index.json";
    let with_pipe = |name: &str, file: &str| {
        let copy = Copy::of(name);
        fs::remove_file(copy.path(file)).unwrap();
        let made = std::process::Command::new("mkfifo")
            .arg(copy.path(file))
            .status();
        assert!(made.unwrap().success());
        copy
    };
    for (name, file) in [
        ("llama-2", "config.json"),
        ("llama-2", "model.safetensors"),
        ("llama-rope-parameters", INDEX),
        ("llama-rope-parameters", "model-00002-of-00003.safetensors"),
    ] {
        with_pipe(name, file).refused(&[file, "is not a file"]);
    }
    let copy = with_pipe("llama-2", "tokenizer.json");
    let directory = ModelDirectory::open(copy.0.path()).unwrap();
    for error in [
        directory.special_tokens().unwrap_err(),
        directory.tokenizer_fingerprint().unwrap_err(),
    ] {
        assert!(error.to_string().contains("is not a file"), "{error}");
    }
}

#[test]
fn files_too_large_to_be_what_they_are_called_are_refused_before_they_are_read() {
    let grown = |name: &str, size: u64| {
        let copy = Copy::of("llama-rope-parameters");
        let mut options = fs::File::options();
        let file = options.write(true).create(true).truncate(false);
        // A sparse file: nothing is written.
        file.open(copy.path(name)).unwrap().set_len(size).unwrap();
        copy
    };
    const INDEX: &str = "model.safetensors.index.json";
    grown(INDEX, 1 << 40).refused(&[INDEX, "is 1099511627776 bytes long"]);
    grown("config.json", 17 << 20).refused(&["config.json: is 17825792 bytes long"]);
    let copy = grown("generation_config.json", 17 << 20);
    let directory = ModelDirectory::open(copy.0.path()).unwrap();
    let error = directory.eos_tokens().unwrap_err().to_string();
    assert!(
        error.contains("generation_config.json: is 17825792 bytes long"),
        "{error}"
    );
    let copy = grown("tokenizer.json", 1 << 40);
    let error = Tokenizer::open(copy.0.path()).unwrap_err().to_string();
    assert!(
        error.contains("tokenizer.json: is 1099511627776 bytes long"),
        "{error}"
    );
}
