//! Tokenizers that come with a model, as they are and as they should not be.
#![cfg(feature = "tokenizer")]

use std::fs;

use pear_models::{Error, Tokenizer};
use serde_json::{Value, json};
use tempfile::TempDir;

fn words() -> Value {
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "[UNK]": 2}, "unk_token": "[UNK]"},
    })
}

fn open(tokenizer: &Value) -> (TempDir, Result<Tokenizer, Error>) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let opened = Tokenizer::open(folder.path());
    (folder, opened)
}

#[test]
fn stored_truncation_and_padding_are_ignored_as_in_transformers() {
    let mut tokenizer = words();
    tokenizer["truncation"] =
        json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
    tokenizer["padding"] = json!({
        "strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 2, "pad_type_id": 0,
        "pad_token": "[UNK]",
    });
    let (_folder, tokenizer) = open(&tokenizer);
    let tokens = tokenizer.unwrap().encode("a b b a").unwrap();
    assert_eq!(tokens, [0, 1, 1, 0]);
}

#[test]
fn files_at_which_the_tokenizers_library_panics_are_errors_that_name_them() {
    let mut broken = Vec::new();
    let mut charsmap = words();
    charsmap["normalizer"] = json!({"type": "Precompiled", "precompiled_charsmap": ""});
    broken.push(charsmap);
    let mut prefix = words();
    prefix["model"] = json!({
        "type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]],
        "continuing_subword_prefix": "#######", "unk_token": null,
    });
    broken.push(prefix);
    for tokenizer in broken {
        let (_folder, opened) = open(&tokenizer);
        let result = opened.and_then(|tokenizer| tokenizer.encode("a b ab"));
        let error = result.unwrap_err().to_string();
        assert!(error.contains("tokenizer.json"), "{error}");
    }
}
