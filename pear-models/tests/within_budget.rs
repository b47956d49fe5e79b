//! Locating within a budget against the uniform sweep, on models that were trained.
//!
//! For a model of your own, with the tables printed:
//!
//! ```sh
//! # PEAR_FIRST_SEED=5 takes seeds 5 to 9 in place of 0 to 4.
//! PEAR_MODEL=SmolLM2-135M-Instruct.Q4_1.gguf cargo test --release -p pear-models --test within_budget -- --ignored --nocapture
//! ```
#![cfg(feature = "tiny")]

use std::fs;
use std::path::PathBuf;

use burn::prelude::*;
use burn::tensor::DType;
use pear_core::proxy::ProxyBatch;
use pear_core::{DecoderModel, HeadId, ProxyTask};
use pear_locate::{
    Budget, LocateOptions, Locator, Overlap, RankBy, Scores, locate, patched_logits, proxy_batches,
};
use pear_models::tiny::Tiny;
use pear_models::{Decoder, ModelDirectory};

const TOP_K: usize = 10;
const SEEDS: u64 = 5;
/// The seed of the large run.
const TRUTH: u64 = 1_000_000;
const LENGTHS: [(usize, usize); 4] = [(10, 100), (15, 80), (25, 40), (50, 20)];

struct Subject {
    model: Decoder,
    special: Vec<u32>,
}

impl Subject {
    fn open(directory: &ModelDirectory) -> Self {
        Self {
            model: directory.load(&Device::flex(), DType::F32).unwrap(),
            special: directory.special_tokens().unwrap(),
        }
    }

    fn tiny(tiny: Tiny) -> Self {
        let folder = tempfile::tempdir().unwrap();
        tiny.write(folder.path()).unwrap();
        Self::open(&ModelDirectory::open(folder.path()).unwrap())
    }

    /// `times` as many sequences of each length as by default.
    fn batches(&self, seed: u64, times: f64) -> Vec<ProxyBatch> {
        let task = ProxyTask::new(self.model.vocab_size(), &self.special, seed).unwrap();
        let lengths = LENGTHS.map(|(n, samples)| (n, (samples as f64 * times).round() as usize));
        proxy_batches(&task, &lengths).unwrap()
    }

    fn uniform(&self, seed: u64, times: f64) -> Scores {
        let options = LocateOptions::default();
        locate(&self.model, &self.batches(seed, times), &options)
            .unwrap()
            .scores
    }

    /// Within a share of the row passes of the uniform sweep.
    fn within(&self, seed: u64, share: f64, rank_by: RankBy, top_k: usize) -> Scores {
        let options = LocateOptions {
            rank_by,
            ..LocateOptions::default()
        };
        let uniform = Budget::of_uniform(&self.model.shape(), &options, &self.batches(seed, 1.0));
        let budget = Budget::new(top_k, (uniform as f64 * share) as u64);
        let report = Locator::new(&self.model, options)
            .within(budget)
            .run(&self.batches(seed, 4.0))
            .unwrap();
        report.scores
    }
}

fn top(scores: &Scores, rank_by: RankBy, top_k: usize) -> Vec<HeadId> {
    let mut scores = scores.clone();
    scores.settings.rank_by = rank_by;
    scores.top(top_k)
}

fn share(a: &[HeadId], b: &[HeadId]) -> f64 {
    Overlap::of(["a", "b"], a, b).share
}

/// The mean share of the best heads that the uniform sweep finds, and that half of its row passes find. Heads called settled must be on the
/// right side.
fn recall(subject: &Subject, truth: &Scores, rank_by: RankBy, top_k: usize) -> [f64; 2] {
    let first: u64 = std::env::var("PEAR_FIRST_SEED").map_or(0, |seed| seed.parse().unwrap());
    let best = top(truth, rank_by, top_k);
    let mut recall = [0.0; 2];
    for seed in first..first + SEEDS {
        let uniform = share(&top(&subject.uniform(seed, 1.0), rank_by, top_k), &best);
        let scores = subject.within(seed, 0.5, rank_by, top_k);
        let found = scores.top(top_k);
        let record = scores.anytime.unwrap();
        let wrong: Vec<&HeadId> = found
            .iter()
            .filter(|head| !best.contains(head) && !record.undecided.contains(head))
            .collect();
        let within = share(&found, &best);
        println!(
            "{top_k} by {rank_by}, seed {seed}: uniform {uniform:.1}, within {within:.1}; {} of {} row passes in {} rounds, {} undecided, settled wrongly: {wrong:?}",
            record.row_passes,
            record.budget,
            record.rounds,
            record.undecided.len()
        );
        assert!(record.row_passes <= record.budget);
        recall[0] += uniform / SEEDS as f64;
        recall[1] += within / SEEDS as f64;
    }
    println!(
        "{top_k} by {rank_by}: uniform {:.2}, within half of its row passes {:.2}",
        recall[0], recall[1]
    );
    recall
}

/// How alike the rankings of small runs of different sequences are, and how much of the best heads by mean score they find.
fn rankings(subject: &Subject, truth: &Scores, times: f64) {
    let runs: Vec<Scores> = (0..SEEDS)
        .map(|seed| subject.uniform(100 + seed, times))
        .collect();
    for rank_by in [RankBy::Score, RankBy::LowerBound, RankBy::Z] {
        let tops: Vec<Vec<HeadId>> = runs.iter().map(|run| top(run, rank_by, TOP_K)).collect();
        let mean = |shares: Vec<f64>| shares.iter().sum::<f64>() / shares.len() as f64;
        let against = |best: Vec<HeadId>| mean(tops.iter().map(|top| share(top, &best)).collect());
        let pairs = tops
            .iter()
            .enumerate()
            .flat_map(|(index, a)| tops[..index].iter().map(|b| share(a, b)));
        println!(
            "× {times}, by {rank_by}: {:.2} of the best by score, {:.2} of the best by itself, {:.2} with each other",
            against(top(truth, RankBy::Score, TOP_K)),
            against(top(truth, rank_by, TOP_K)),
            mean(pairs.collect())
        );
    }
}

#[test]
fn half_of_the_row_passes_find_as_many_of_the_best_heads_as_the_uniform_sweep() {
    let subject = Subject::tiny(Tiny::Rope);
    let truth = subject.uniform(TRUTH, 5.0);
    // Three heads suppress; the others of the best ten can hardly be told from those that do nothing.
    let [uniform, within] = recall(&subject, &truth, RankBy::Z, 3);
    assert!(within == 1.0 && uniform == 1.0, "{within}, {uniform}");
    let [uniform, within] = recall(&subject, &truth, RankBy::Z, TOP_K);
    assert!(
        within > 0.6 && within > uniform - 0.05,
        "{within}, not {uniform}"
    );
}

#[test]
#[ignore = "takes minutes: prints the tables of the README"]
fn how_many_of_the_best_heads_of_the_embedded_models_are_found() {
    for tiny in [Tiny::Rope, Tiny::Alibi] {
        println!("{tiny:?}");
        let subject = Subject::tiny(tiny);
        let truth = subject.uniform(TRUTH, 5.0);
        for rank_by in [RankBy::Z, RankBy::LowerBound, RankBy::Score] {
            recall(&subject, &truth, rank_by, TOP_K);
        }
    }
}

#[test]
#[ignore = "takes minutes: prints the tables of the README"]
fn how_well_small_runs_rank_the_embedded_models() {
    for tiny in [Tiny::Rope, Tiny::Alibi] {
        println!("{tiny:?}");
        let subject = Subject::tiny(tiny);
        let truth = subject.uniform(TRUTH, 10.0);
        for times in [0.1, 0.25, 1.0] {
            rankings(&subject, &truth, times);
        }
    }
}

#[test]
#[ignore = "takes long: writes the logits that `benches/reference/anytime.py` resamples"]
fn logits_of_many_sequences_of_a_model() {
    let path = |name: &str| PathBuf::from(std::env::var_os(name).expect(name));
    let subject = Subject::open(&ModelDirectory::open(path("PEAR_MODEL")).unwrap());
    for batch in subject.batches(TRUTH, 12.0) {
        let logits = patched_logits(&subject.model, &batch, &LocateOptions::default()).unwrap();
        let file = path("PEAR_LOGITS").join(format!("{}.json", batch.n()));
        fs::write(file, serde_json::to_vec(&logits).unwrap()).unwrap();
    }
}

#[test]
#[ignore = "takes long: prints the same for the model that PEAR_MODEL names"]
fn how_well_heads_of_a_model_are_found() {
    let path = std::env::var("PEAR_MODEL").expect("PEAR_MODEL: a model directory or GGUF file");
    let subject = Subject::open(&ModelDirectory::open(path).unwrap());
    let truth = subject.uniform(TRUTH, 5.0);
    rankings(&subject, &truth, 0.25);
    for rank_by in [RankBy::Z, RankBy::Score] {
        recall(&subject, &truth, rank_by, TOP_K);
    }
}
