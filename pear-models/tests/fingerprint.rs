//! Fingerprints: of what a model computes with, not of how its files are laid out.

mod common;

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use burn::tensor::DType;
use common::open;
use pear_core::files::Provenance;
use pear_models::ModelDirectory;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::json;

/// Copies a fixture of one shard to `to` as one shard for each group of tensors, changed by `change`.
fn rewrite(
    name: &str,
    to: &Path,
    shards: usize,
    change: impl Fn(&str, &mut Vec<u8>),
) -> ModelDirectory {
    let from = open(name).path().to_path_buf();
    fs::create_dir_all(to).unwrap();
    fs::copy(from.join("config.json"), to.join("config.json")).unwrap();
    let bytes = fs::read(from.join("model.safetensors")).unwrap();
    let mut tensors: Vec<_> = SafeTensors::deserialize(&bytes)
        .unwrap()
        .tensors()
        .into_iter()
        .collect();
    tensors.sort_by(|a, b| b.0.cmp(&a.0));
    let changed: Vec<(String, Vec<u8>)> = tensors
        .iter()
        .map(|(name, tensor)| {
            let mut data = tensor.data().to_vec();
            change(name, &mut data);
            (name.clone(), data)
        })
        .collect();
    let mut weight_map = serde_json::Map::new();
    for shard in 0..shards {
        let file = format!("part-{shard}.safetensors");
        let mine = tensors
            .iter()
            .zip(&changed)
            .enumerate()
            .filter(|(index, _)| index % shards == shard);
        let views: Vec<_> = mine
            .map(|(_, ((name, tensor), (_, data)))| {
                (
                    name.clone(),
                    TensorView::new(tensor.dtype(), tensor.shape().to_vec(), data).unwrap(),
                )
            })
            .collect();
        views
            .iter()
            .for_each(|(name, _)| _ = weight_map.insert(name.clone(), json!(file)));
        let metadata = HashMap::from([("comment".into(), "x".repeat(shard + 7))]);
        fs::write(
            to.join(&file),
            safetensors::serialize(views, Some(metadata)).unwrap(),
        )
        .unwrap();
    }
    fs::write(
        to.join("model.safetensors.index.json"),
        json!({"weight_map": weight_map}).to_string(),
    )
    .unwrap();
    ModelDirectory::open(to).unwrap()
}

#[test]
fn shards_headers_and_folders_make_no_difference_and_every_byte_does() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["llama-2", "gpt2"] {
        let fingerprint = open(name).fingerprint().to_owned();
        assert!(
            fingerprint.len() == 64 && fingerprint.bytes().all(|b| b.is_ascii_hexdigit()),
            "{fingerprint}"
        );
        for shards in [1, 3] {
            let same = rewrite(
                name,
                &folder.path().join(format!("{name}-{shards}")),
                shards,
                |_, _| (),
            );
            assert_eq!(same.fingerprint(), fingerprint, "{name} in {shards}");
        }
        let end = |tensor: &str, data: &mut Vec<u8>| {
            if tensor.ends_with("1.mlp.down_proj.weight") || tensor.ends_with("1.mlp.c_proj.weight")
            {
                *data.last_mut().unwrap() ^= 1;
            }
        };
        let other = rewrite(name, &folder.path().join(format!("{name}-other")), 3, end);
        assert_ne!(other.fingerprint(), fingerprint, "{name}");
    }
    assert_ne!(open("llama-2").fingerprint(), open("gpt2").fingerprint());
}

#[test]
fn a_result_belongs_to_its_weights_and_tokenizer() {
    let (llama, gpt2) = (open("llama-2"), open("gpt2"));
    let made = llama.provenance(DType::BF16).unwrap();
    assert_eq!(
        (made.dtype.as_deref(), made.version.as_deref()),
        (Some("bf16"), Some(env!("CARGO_PKG_VERSION")))
    );
    assert!(llama.mismatches(&made).unwrap().is_empty());
    assert_eq!(gpt2.mismatches(&made).unwrap(), ["weights", "tokenizer"]);
    // An older file, and a model of no files.
    assert!(gpt2.mismatches(&Provenance::default()).unwrap().is_empty());
    assert!(gpt2.mismatches(&Provenance::new()).unwrap().is_empty());
    // Without a tokenizer there is nothing to compare.
    assert_eq!(open("opt").mismatches(&made).unwrap(), ["weights"]);
}
