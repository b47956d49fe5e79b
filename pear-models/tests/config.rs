//! Configs of decoders: read, written and checked.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{names, open};
use pear_core::NormConfig;
use pear_core::position::{PositionEmbeddingConfig, RotaryConfig, RotaryScaling};
use pear_models::{DecoderConfig, DecoderSizes, ExpertRouting, ExpertsConfig, MlpConfig, Residual};
use serde_json::{Value, json};

fn llama() -> DecoderConfig {
    DecoderConfig::llama(DecoderSizes {
        vocab_size: 11,
        hidden_size: 12,
        intermediate_size: 20,
        num_hidden_layers: 2,
        num_attention_heads: 3,
    })
}

#[test]
fn the_config_of_every_family_survives_serde() {
    for name in names() {
        let config = open(&name).config().clone();
        let text = serde_json::to_string(&config).unwrap();
        let read: DecoderConfig = serde_json::from_str(&text).unwrap();
        assert_eq!(read, config, "{name}");
    }
}

#[test]
fn a_config_that_cannot_be_is_refused_by_its_field() {
    type Change = fn(&mut DecoderConfig);
    let cases: [(&str, Change); 15] = [
        ("num_hidden_layers", |c| c.layers.clear()),
        ("vocab_size", |c| c.vocab_size = 0),
        ("embedding_size", |c| c.embedding_size = 0),
        ("hidden_size", |c| c.hidden_size = 13),
        ("hidden_size", |c| c.layers[1].attention.hidden_size = 24),
        ("num_attention_heads", |c| {
            c.layers[1].attention.num_attention_heads = 6
        }),
        ("num_key_value_heads", |c| {
            c.layers[1].attention.num_key_value_heads = 2
        }),
        ("head_dim", |c| c.layers[0].attention.head_dim = 0),
        ("sliding_window", |c| {
            c.layers[1].attention.scores.window = Some(0)
        }),
        ("rope_theta", |c| {
            let rotary = RotaryConfig::new(4, -1.0);
            c.layers[1].attention.position_embedding = PositionEmbeddingConfig::Rotary(rotary);
        }),
        ("position_embedding", |c| {
            c.layers[1].attention.position_embedding = PositionEmbeddingConfig::Learned {
                num_positions: 8,
                width: 12,
            };
        }),
        ("position_embedding", |c| {
            let rotary = RotaryConfig::new(4, 10000.0);
            c.position_embedding = PositionEmbeddingConfig::Rotary(rotary);
        }),
        ("width", |c| {
            c.position_embedding = PositionEmbeddingConfig::Learned {
                num_positions: 8,
                width: 10,
            };
        }),
        ("norm_eps", |c| {
            c.layers[1].norm = NormConfig::Rms { eps: -1.0 }
        }),
        ("intermediate_size", |c| match &mut c.layers[1].mlp {
            MlpConfig::Dense(mlp) => mlp.intermediate_size = 0,
            other => panic!("{other:?}"),
        }),
    ];
    assert!(llama().validate().is_ok());
    for (field, change) in cases {
        let mut config = llama();
        change(&mut config);
        let expected = format!("`{field}`");
        let error = config.validate().unwrap_err().to_string();
        assert!(error.contains(&expected), "`{error}` names not {expected}");
        assert!(config.init(&burn::prelude::Device::flex()).is_err());
        let json = serde_json::to_value(&config).unwrap();
        let error = serde_json::from_value::<DecoderConfig>(json).unwrap_err();
        assert!(error.to_string().contains(&expected), "{error}");
    }
}

#[test]
fn what_differs_between_layers_is_in_their_configs() {
    let of = |name: &str| open(name).config().clone();
    let positions = |config: &DecoderConfig| -> Vec<bool> {
        let layers = config.layers.iter();
        layers
            .map(|layer| layer.attention.position_embedding != PositionEmbeddingConfig::None)
            .collect()
    };
    let windows = |config: &DecoderConfig| -> Vec<bool> {
        let layers = config.layers.iter();
        layers
            .map(|layer| layer.attention.scores.window.is_some())
            .collect()
    };
    let smollm3 = positions(&of("smollm3"));
    assert!(smollm3.contains(&true) && smollm3.contains(&false));
    assert_eq!(windows(&of("gemma-2"))[..2], [true, false]);
    assert_eq!(
        windows(&of("mistral")),
        vec![true; of("mistral").layers.len()]
    );

    let gpt2 = DecoderConfig::from_json(&json!({
        "model_type": "gpt2", "vocab_size": 9, "n_embd": 16, "n_head": 4, "n_layer": 2, "n_positions": 8,
        "scale_attn_by_inverse_layer_idx": true,
    }))
    .unwrap();
    let scales = gpt2.layers.iter().map(|layer| layer.attention.scores.scale);
    assert_eq!(scales.collect::<Vec<_>>(), [Some(0.5), Some(0.25)]);
    assert_eq!(gpt2.max_positions(), Some(8));
    assert_eq!(gpt2.layers[0].residual, Residual::Serial);
}

/// A config of the family with every size that it must have, whatever the family calls them, and with `changes`.
fn minimal(model_type: &str, changes: Value) -> Value {
    let mut config = json!({
        "model_type": model_type, "vocab_size": 130_000, "hidden_size": 256, "num_hidden_layers": 3, "num_attention_heads": 32,
    });
    match model_type {
        "opt" | "xglm" => config["ffn_dim"] = 64.into(),
        "gpt2" | "gptj" | "bloom" | "mpt" | "falcon" | "RefinedWeb" | "RefinedWebModel" => (),
        _ => config["intermediate_size"] = 64.into(),
    }
    let (Value::Object(config), Value::Object(changes)) = (&mut config, changes) else {
        panic!("changes are an object");
    };
    for (key, value) in changes {
        config.insert(key, value);
    }
    Value::Object(std::mem::take(config))
}

#[test]
fn what_transformers_does_not_read_is_reported_and_changes_nothing() {
    let plain = DecoderConfig::from_json(&minimal("llama", json!({}))).unwrap();
    let odd = json!({
        "max_sequence_length": 2048, "use_flash_attention": false, "sliding_window": 7, "rope_scaling": {"type": "default", "factor": 4},
        "layer_types": ["a"], "author\n": "x".repeat(200), "nothing": null, "empty": {}, "torch_dtype": "float16", "use_cache": false,
        "auto_map": {"AutoModelForCausalLM": "modeling_flash_llama.LlamaForCausalLM"}, "architectures": ["LLaMAForCausalLM"],
        "quantization_config": {}, "rope_condense_ratio": 1, "is_causal": true, "num_experts": 0, "pruned_heads": {}, "partial_rotary_factor": 1.0,
    });
    let (read, ignored) = DecoderConfig::from_json_reporting(&minimal("llama", odd)).unwrap();
    assert_eq!(read, plain);
    let keys: Vec<&str> = ignored.iter().map(|(key, _)| key).collect();
    let expected = [
        "author\\n",
        "layer_types",
        "max_sequence_length",
        "rope_scaling.factor",
        "sliding_window",
        "use_flash_attention",
    ];
    for key in expected {
        assert!(keys.contains(&key), "{key} is not in {ignored}");
    }
    assert_eq!(keys.len(), expected.len(), "{ignored}");
    assert!(ignored.iter().all(|(_, value)| value.len() < 70));
    let error = ignored.refuse().unwrap_err().to_string();
    assert!(!error.contains('\n') && expected.iter().all(|key| error.contains(key)));
    // Without a scaling the longest context matters to nothing.
    let endless = json!({"max_position_embeddings": 1_000_000_000_000u64});
    let (read, none) = DecoderConfig::from_json_reporting(&minimal("llama", endless)).unwrap();
    assert_eq!(read, plain);
    assert!(none.is_empty() && none.refuse().is_ok());
}

#[test]
fn what_changes_the_computation_is_refused_with_advice() {
    let quantized = json!({"quant_method": "gptq", "bits": 4});
    let cases = [
        ("llama", "quantization_config", quantized, "gptq"),
        ("llama", "quantization", json!({"bits": 4}), "quantised"),
        ("llama", "rope_condense_ratio", json!(8), "linear"),
        ("llama", "partial_rotary_factor", json!(0.5), "whole heads"),
        ("llama", "num_local_experts", json!(8), "model_type"),
        ("llama", "clip_qkv", json!(8.0), "not supported"),
        ("llama", "logit_scale", json!(0.25), "factor"),
        (
            "llama",
            "per_layer_config",
            json!({"0": {"head_dim": 4}}),
            "single layers",
        ),
        ("qwen2", "is_causal", json!(false), "causal model"),
        (
            "gemma",
            "use_bidirectional_attention",
            json!(true),
            "causal model",
        ),
        (
            "gpt2",
            "position_embedding",
            json!("grouped_alibi"),
            "not supported",
        ),
        (
            "gpt2",
            "attention_mode",
            json!("tranception"),
            "not supported",
        ),
        ("gpt2", "add_cross_attention", json!(true), "encoder"),
        ("gpt2", "pruned_heads", json!({"0": [1]}), "pruned"),
        ("gpt2", "activation_function", json!("squared_relu"), "gelu"),
        (
            "gpt2",
            "architectures",
            json!(["BackpackGPT2LMHeadModel"]),
            "code of its own",
        ),
        (
            "mistral",
            "architectures",
            json!(["MistralEncoderModel"]),
            "causal",
        ),
        (
            "mpt",
            "attn_config",
            json!({"attn_type": "grouped_query_attention"}),
            "attn_config.attn_type",
        ),
        (
            "mpt",
            "ffn_config",
            json!({"ffn_type": "mptglu"}),
            "ffn_config.ffn_type",
        ),
        ("stablelm", "qk_layernorm", json!(true), "only false"),
        ("mixtral", "num_local_experts", json!(0), "from 1 to"),
        ("mixtral", "num_experts_per_tok", json!(9), "experts, 8"),
        ("qwen3_moe", "mlp_only_layers", json!(1), "list of layers"),
        (
            "phimoe",
            "rope_scaling",
            json!({"type": "linear", "factor": 2.0}),
            "default or longrope",
        ),
        (
            "phimoe",
            "rope_scaling",
            json!({"type": "longrope", "short_mscale": 1.2, "long_mscale": 1.3}),
            "short_mscale, 1.2",
        ),
    ];
    for (model_type, key, value, advice) in cases {
        let config = minimal(model_type, json!({key: value}));
        let error = DecoderConfig::from_json(&config).unwrap_err().to_string();
        assert!(error.contains(key) && error.contains(advice), "{error}");
    }
}

/// The numbers are those of the configuration classes of transformers 5.23, given the same keys.
#[test]
fn missing_keys_have_the_values_of_transformers() {
    /// Key/value heads, channels of a head, whether embeddings are tied, epsilon, BOS, EOS.
    type Defaults = (usize, usize, bool, f64, Option<u32>, Option<u32>);
    let rows: [(&str, Defaults); 26] = [
        ("llama", (32, 8, false, 1e-6, Some(1), Some(2))),
        ("mistral", (8, 8, false, 1e-6, Some(1), Some(2))),
        ("smollm3", (4, 8, true, 1e-6, Some(128_000), Some(128_001))),
        ("granite", (32, 8, false, 1e-6, Some(1), Some(2))),
        ("qwen2", (32, 8, false, 1e-6, None, None)),
        ("qwen3", (32, 128, false, 1e-6, None, None)),
        ("phi3", (32, 8, false, 1e-5, Some(1), Some(32_000))),
        ("gemma", (16, 256, true, 1e-6, Some(2), Some(1))),
        ("gemma2", (4, 256, true, 1e-6, Some(2), Some(1))),
        ("olmo2", (32, 8, false, 1e-5, None, Some(50_279))),
        ("phi", (32, 8, false, 1e-5, Some(1), Some(2))),
        ("stablelm", (32, 8, false, 1e-5, Some(0), Some(0))),
        ("starcoder2", (2, 8, true, 1e-5, Some(50_256), Some(50_256))),
        ("gpt_neox", (32, 8, false, 1e-5, Some(0), Some(2))),
        ("gpt2", (32, 8, true, 1e-5, Some(50_256), Some(50_256))),
        ("bloom", (32, 8, true, 1e-5, Some(1), Some(2))),
        ("mpt", (32, 8, true, 1e-5, None, None)),
        ("xglm", (32, 8, true, 1e-5, Some(0), Some(2))),
        ("opt", (32, 8, true, 1e-5, Some(2), Some(2))),
        ("falcon", (1, 8, true, 1e-5, Some(11), Some(11))),
        ("mixtral", (8, 8, false, 1e-5, Some(1), Some(2))),
        ("qwen2_moe", (16, 8, false, 1e-6, None, None)),
        ("qwen3_moe", (4, 8, false, 1e-6, None, None)),
        ("olmoe", (32, 8, false, 1e-5, None, Some(50_279))),
        ("granitemoe", (32, 8, false, 1e-6, Some(1), Some(2))),
        ("phimoe", (8, 8, false, 1e-5, Some(1), Some(2))),
    ];
    for (model_type, expected) in rows {
        let config = DecoderConfig::from_json(&minimal(model_type, json!({}))).unwrap();
        let attention = &config.layers[0].attention;
        let found = (
            attention.num_key_value_heads,
            attention.head_dim,
            config.tie_word_embeddings,
            config.layers[0].norm.eps(),
            config.bos_token,
            config.eos_tokens.first().copied(),
        );
        assert_eq!(found, expected, "{model_type}");
    }
    // An id that the vocabulary does not have is no token.
    let small = minimal("gpt2", json!({"vocab_size": 100}));
    assert_eq!(DecoderConfig::from_json(&small).unwrap().bos_token, None);
}

fn rotary(model_type: &str, changes: Value) -> RotaryConfig {
    let config = DecoderConfig::from_json(&minimal(model_type, changes)).unwrap();
    match &config.layers[0].attention.position_embedding {
        PositionEmbeddingConfig::Rotary(rotary) => rotary.clone(),
        other => panic!("{model_type}: {other:?}"),
    }
}

#[test]
fn rotary_positions_are_read_as_transformers_reads_them() {
    assert_eq!(rotary("smollm3", json!({})).rope_theta, 2e6);
    assert_eq!(rotary("stablelm", json!({})).rotary_dim, 2);
    assert_eq!(rotary("phi", json!({})).rotary_dim, 4);
    // GPT-NeoX has names of its own, and only these count.
    let neox = rotary(
        "gpt_neox",
        json!({"rope_theta": 5.0, "rotary_emb_base": 7.0, "rotary_pct": 0.5, "partial_rotary_factor": 1.0}),
    );
    assert_eq!((neox.rope_theta, neox.rotary_dim), (7.0, 4));
    // An empty object gives way to the new one.
    let both =
        json!({"rope_scaling": {}, "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}});
    assert_eq!(rotary("llama", both).rope_theta, 5e5);
    let original = |model_type, changes| match rotary(model_type, changes).scaling {
        RotaryScaling::LongRope {
            original_max_position_embeddings,
            ..
        }
        | RotaryScaling::Yarn {
            original_max_position_embeddings,
            ..
        }
        | RotaryScaling::DynamicNtk {
            original_max_position_embeddings,
            ..
        } => original_max_position_embeddings,
        other => panic!("{other:?}"),
    };
    let factors = [1.0; 4];
    // Phi-3's default wins over what the object says, and its `yarn` is LongRoPE.
    let longrope = json!({"type": "yarn", "short_factor": factors, "long_factor": factors, "original_max_position_embeddings": 9});
    let phi3 = json!({"max_position_embeddings": 8192, "rope_scaling": longrope});
    assert_eq!(original("phi3", phi3), 4096);
    let yarn = json!({"rope_scaling": {"type": "yarn", "factor": 2.0, "beta_fast": 0}});
    assert_eq!(original("mistral", yarn), 131_072);
    let dynamic = json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}});
    assert_eq!(original("starcoder2", dynamic), 4096);
}

/// The experts of each layer, the numbers being those of the configuration classes of transformers 5.23.
#[test]
fn experts_are_where_transformers_has_them() {
    let experts = |model_type, changes| -> Vec<Option<ExpertsConfig>> {
        let config = DecoderConfig::from_json(&minimal(model_type, changes)).unwrap();
        let layers = config.layers.iter();
        layers
            .map(|layer| match layer.mlp {
                MlpConfig::Experts(experts) => Some(experts),
                _ => None,
            })
            .collect()
    };
    use ExpertRouting::{Softmax, SoftmaxOfChosen, SparseMixer};
    let rows = [
        ("mixtral", (8, 2, 64, SoftmaxOfChosen, None)),
        ("qwen2_moe", (60, 4, 1408, Softmax, Some(5632))),
        ("qwen3_moe", (128, 8, 768, Softmax, None)),
        ("olmoe", (64, 8, 64, Softmax, None)),
        ("granitemoe", (8, 2, 64, SoftmaxOfChosen, None)),
        ("phimoe", (16, 2, 64, SparseMixer { jitter: 0.01 }, None)),
    ];
    for (model_type, expected) in rows {
        for layer in experts(model_type, json!({})) {
            let layer = layer.unwrap();
            let found = (
                layer.num_experts,
                layer.num_experts_per_token,
                layer.expert.intermediate_size,
                layer.routing,
                layer.shared.map(|shared| shared.mlp.intermediate_size),
            );
            assert_eq!(found, expected, "{model_type}");
        }
    }
    for model_type in ["qwen2_moe", "qwen3_moe", "olmoe"] {
        let normed = experts(model_type, json!({"norm_topk_prob": true}));
        assert_eq!(normed[0].unwrap().routing, SoftmaxOfChosen);
    }
    let has_experts = |changes| {
        experts("qwen3_moe", changes)
            .iter()
            .map(Option::is_some)
            .collect()
    };
    let found: Vec<bool> = has_experts(json!({"decoder_sparse_step": 2}));
    assert_eq!(found, [false, true, false]);
    let found: Vec<bool> = has_experts(json!({"mlp_only_layers": [0, 7]}));
    assert_eq!(found, [false, true, true]);
    let found: Vec<bool> = has_experts(json!({"mlp_only_layers": [0, 1, 2], "num_experts": 9}));
    assert_eq!(found, [false; 3]);
}

#[test]
fn windows_are_where_transformers_has_them() {
    let windows = |model_type, changes| -> Vec<Option<usize>> {
        let config = DecoderConfig::from_json(&minimal(model_type, changes)).unwrap();
        let layers = config.layers.iter();
        layers.map(|layer| layer.attention.scores.window).collect()
    };
    let types = ["full_attention", "sliding_attention", "full_attention"];
    let sliding = json!({"sliding_window": 7, "use_sliding_window": true, "layer_types": types});
    for obeys in ["qwen2", "qwen3", "smollm3", "gemma2", "qwen2_moe"] {
        assert_eq!(windows(obeys, sliding.clone()), [None, Some(7), None]);
    }
    for ignores in [
        "mistral",
        "phi3",
        "starcoder2",
        "mixtral",
        "qwen3_moe",
        "phimoe",
    ] {
        assert_eq!(windows(ignores, sliding.clone()), [Some(7); 3]);
    }
    assert_eq!(windows("llama", sliding), [None; 3]);
    assert_eq!(windows("mistral", json!({})), [Some(4096); 3]);
    assert_eq!(
        windows("mistral", json!({"sliding_window": null})),
        [None; 3]
    );
    let late = json!({"use_sliding_window": true, "max_window_layers": 2});
    assert_eq!(windows("qwen2", late), [None, None, Some(4096)]);
    for unused in [7, 0] {
        assert_eq!(
            windows("qwen2", json!({"sliding_window": unused})),
            [None; 3]
        );
    }
}

#[test]
fn the_first_falcons_have_other_keys() {
    let read = |model_type, changes| {
        let json = json!({
            "model_type": model_type, "vocab_size": 100, "hidden_size": 256, "n_layer": 2, "n_head": 32, "bias": false, "alibi": false,
            "parallel_attn": true, "architectures": ["RWForCausalLM"], "apply_residual_connection_post_layernorm": false,
        });
        let mut json = json.as_object().unwrap().clone();
        json.extend(changes);
        DecoderConfig::from_json(&Value::Object(json)).unwrap()
    };
    let entry = |key: &str, value: Value| [(key.to_owned(), value)];
    let small = read("RefinedWebModel", entry("multi_query", json!(true)));
    let large = read("RefinedWeb", entry("n_head_kv", json!(8)));
    for (config, heads, residual) in [
        (small, 1, Residual::ParallelOneNorm),
        (large, 8, Residual::Parallel),
    ] {
        assert_eq!(config.architecture, "falcon");
        assert_eq!(config.layers.len(), 2);
        assert_eq!(config.layers[0].attention.num_key_value_heads, heads);
        assert_eq!(config.layers[0].residual, residual);
    }
}

#[test]
fn a_name_that_the_reference_prefers_wins() {
    let both = json!({"n_embd": 512, "n_head": 4, "n_layer": 1, "n_positions": 9});
    let gpt2 = DecoderConfig::from_json(&minimal("gpt2", both)).unwrap();
    assert_eq!(
        (gpt2.hidden_size, gpt2.layers.len(), gpt2.max_positions()),
        (256, 3, Some(9))
    );
    let bloom = DecoderConfig::from_json(&minimal("bloom", json!({"n_embed": 512}))).unwrap();
    assert_eq!(bloom.hidden_size, 512);
}

#[test]
fn numbers_that_only_python_writes_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    let text = minimal("llama", json!({"spread": 0, "rms_norm_eps": 1e-5})).to_string();
    let write = |from: &str, to: &str| {
        assert!(text.contains(from));
        fs::write(&path, text.replace(from, to)).unwrap();
        DecoderConfig::read(&path)
    };
    let (_, ignored) = write("\"spread\":0", "\"spread\": [NaN, -Infinity]").unwrap();
    assert_eq!(ignored.to_string(), r#"spread (["NaN","-Infinity"])"#);
    let error = write("\"rms_norm_eps\":0.00001", "\"rms_norm_eps\":Infinity").unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("`rms_norm_eps`: is \"Infinity\": expected a number"),
        "{error}"
    );
}

/// What the files of one half of the corpus are called, and what is wrong about each that is not judged as it should be.
fn judge(half: &Path, accept: bool) -> (usize, Vec<String>) {
    let mut folders: Vec<PathBuf> = fs::read_dir(half)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    folders.sort();
    let wrong = folders.iter().filter_map(|folder| {
        let read = DecoderConfig::read(folder.join("config.json"));
        let problem = match read {
            Ok(_) if accept => return None,
            Err(_) if !accept => return None,
            Ok(_) => "was accepted".to_owned(),
            Err(error) => error.to_string(),
        };
        Some(format!("{}: {problem}", folder.display()))
    });
    let wrong = wrong.collect();
    (folders.len(), wrong)
}

/// Set `PEAR_CONFIGS` to a folder, or an archive of it, with the `config.json` of published models: `accept/*/` of those that must load,
/// `refuse/*/` of those that must not.
#[test]
fn published_configs_are_judged_rightly() {
    let Some(corpus) = std::env::var_os("PEAR_CONFIGS").map(PathBuf::from) else {
        println!("skipped: PEAR_CONFIGS does not name a folder of published configs");
        return;
    };
    let unpacked = tempfile::tempdir().unwrap();
    let folder = if corpus.is_dir() {
        corpus
    } else {
        let mut tar = Command::new("tar");
        tar.arg("-xzf").arg(&corpus).arg("-C").arg(unpacked.path());
        assert!(tar.status().unwrap().success(), "{}", corpus.display());
        unpacked.path().into()
    };
    let root = [folder.join("configs"), folder]
        .into_iter()
        .find(|root| root.join("accept").is_dir())
        .expect("a folder `accept`");
    let (accepted, mut wrong) = judge(&root.join("accept"), true);
    let (refused, wrongly_accepted) = judge(&root.join("refuse"), false);
    wrong.extend(wrongly_accepted);
    let all = accepted + refused;
    println!("{} of {all} configs judged rightly", all - wrong.len());
    for line in &wrong {
        println!("{line}");
    }
    assert!(all > 0 && wrong.len() * 100 <= all);
}
