//! Fixtures: tiny checkpoints with what transformers computes on them (see `fixtures/README.md`).
#![allow(dead_code, reason = "each test binary uses its share")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::prelude::*;
use burn::tensor::DType;
use pear_core::HeadId;
use pear_models::{Decoder, ModelDirectory};
use serde::Deserialize;

#[derive(Deserialize)]
pub struct Expected {
    pub prompts: Vec<Vec<u32>>,
    pub log_probs: Vec<Vec<f64>>,
    pub last_logits: Vec<f64>,
    pub greedy: Greedy,
    pub head_outputs: Vec<Vec<Vec<Vec<f64>>>>,
    pub locate: Locate,
    pub reweighted: Reweighted,
    pub train: Option<Train>,
}

#[derive(Deserialize)]
pub struct Greedy {
    pub prompt: Vec<u32>,
    pub tokens: Vec<u32>,
}

/// `[layer][head][sample]`.
pub type Grid = Vec<Vec<Vec<f64>>>;

#[derive(Deserialize)]
pub struct Locate {
    pub sequences: Vec<Vec<u32>>,
    pub base_logits: Vec<f64>,
    /// By mode and ablation, as a scores file names them.
    pub patched_logits: BTreeMap<String, BTreeMap<String, Grid>>,
}

#[derive(Deserialize)]
pub struct Reweighted {
    pub coefficients: Vec<Coefficient>,
    pub log_probs: Vec<f64>,
}

#[derive(Deserialize)]
pub struct Coefficient {
    pub layer: usize,
    pub head: usize,
    pub value: f32,
}

#[derive(Deserialize)]
pub struct Train {
    pub heads: Vec<[usize; 2]>,
    pub sequences: Vec<Vec<Vec<u32>>>,
    pub learning_rate: f64,
    pub warmup_steps: usize,
    pub gradient: Vec<f64>,
    pub losses: Vec<f64>,
    pub coefficients: Vec<Vec<f64>>,
}

impl Reweighted {
    pub fn pairs(&self) -> Vec<(HeadId, f32)> {
        self.coefficients
            .iter()
            .map(|c| (HeadId::new(c.layer, c.head), c.value))
            .collect()
    }
}

pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// Every checkpoint, by name.
pub fn names() -> Vec<String> {
    let folders = std::fs::read_dir(fixtures())
        .unwrap()
        .map(|entry| entry.unwrap());
    let mut names: Vec<String> = folders
        .filter(|entry| entry.path().join("config.json").exists())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert!(names.len() >= 20, "only {} fixtures", names.len());
    names
}

pub fn expected(name: &str) -> Expected {
    let text = std::fs::read(fixtures().join(name).join("expected.json")).unwrap();
    serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{name}: {e}"))
}

pub fn open(name: &str) -> ModelDirectory {
    ModelDirectory::open(fixtures().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

pub fn load(name: &str) -> Decoder {
    open(name)
        .load(&device(), DType::F32)
        .unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The CPU, or the device that `BURN_DEVICE` names: everything here holds on every backend.
pub fn device() -> Device {
    if std::env::var_os("BURN_DEVICE").is_some() {
        Device::default()
    } else {
        Device::flex()
    }
}

/// The largest difference between two lists of the same length.
pub fn distance<'a>(
    a: impl IntoIterator<Item = &'a f64>,
    b: impl IntoIterator<Item = &'a f64>,
) -> f64 {
    let (a, b): (Vec<_>, Vec<_>) = (a.into_iter().collect(), b.into_iter().collect());
    assert_eq!(a.len(), b.len());
    // A NaN on either side must not be lost in the maximum.
    a.iter()
        .zip(&b)
        .map(|(a, b)| (*a - *b).abs())
        .fold(0.0, |worst, d| if d <= worst { worst } else { d })
}
