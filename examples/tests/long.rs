//! Texts of 8,192 tokens: as transformers has them, and in bounded memory. A process of its own, because memory is counted.

mod common;

use std::collections::BTreeMap;

use burn::prelude::*;
use burn::tensor::DType;
use common::model;
use pear_examples::memory::{peak_memory, reset_peak_memory};
use pear_models::{ModelDirectory, log_probs};

const TOKENS: u64 = 8192;
/// The scores of six heads alone, `[heads, seq, seq]` in f32, would be 1.6 GB.
const LARGEST: u64 = 400 << 20;

#[test]
fn long_texts_are_read_as_transformers_reads_them_in_little_memory() {
    let text = std::fs::read(model("long.json")).unwrap();
    let expected: BTreeMap<String, Vec<f64>> = serde_json::from_slice(&text).unwrap();
    assert!(expected.len() >= 5);
    let tokens: Vec<u32> = (0..TOKENS)
        .map(|i| 3 + ((31 * i * i + 7 * i) % 94) as u32)
        .collect();
    for (name, expected) in expected {
        let model = ModelDirectory::open(model(&name))
            .unwrap()
            .load(&Device::flex(), DType::F32)
            .unwrap();
        reset_peak_memory();
        let before = peak_memory();
        let ours = log_probs(&model, &tokens).unwrap();
        let taken = peak_memory().saturating_sub(before);
        assert!(taken < LARGEST, "{name}: {} MB", taken >> 20);
        for (ours, expected) in ours[ours.len() - expected.len()..].iter().zip(&expected) {
            assert!(
                (ours - expected).abs() < 1e-3,
                "{name}: {ours}, expected {expected}"
            );
        }
    }
}
