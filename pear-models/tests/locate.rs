//! Locating on every family against a hook-by-hook reference over transformers.

mod common;

use common::{distance, expected, load, names};
use pear_core::proxy::ProxyBatch;
use pear_locate::{Ablation, LocateOptions, Mode, PatchedLogits, naive, patched_logits};
use pear_models::Decoder;

const MODES: [Mode; 2] = [Mode::Activation, Mode::Path];
const ABLATIONS: [Ablation; 3] = [Ablation::SequenceMean, Ablation::BatchMean, Ablation::Zero];

fn every_way(
    check: impl Fn(&str, &Decoder, &ProxyBatch, &LocateOptions, &[Vec<Vec<f64>>], &[f64]),
) {
    for name in names() {
        let (model, locate) = (load(&name), expected(&name).locate);
        let batch =
            ProxyBatch::from_sequences(locate.sequences, model.config().vocab_size).unwrap();
        for mode in MODES {
            for ablation in ABLATIONS {
                let options = LocateOptions {
                    mode,
                    ablation,
                    ..LocateOptions::default()
                };
                let reference = &locate.patched_logits[&mode.to_string()][&ablation.to_string()];
                check(
                    &name,
                    &model,
                    &batch,
                    &options,
                    reference,
                    &locate.base_logits,
                );
            }
        }
    }
}

fn flat(logits: &PatchedLogits) -> Vec<f64> {
    logits
        .patched_logits
        .iter()
        .flatten()
        .flatten()
        .map(|&logit| f64::from(logit))
        .collect()
}

#[test]
fn every_head_of_every_family_is_patched_as_by_hooks_in_transformers() {
    every_way(|name, model, batch, options, reference, base| {
        let ours = patched_logits(model, batch, options).unwrap();
        let error = distance(&flat(&ours), reference.iter().flatten().flatten());
        assert!(
            error < 1e-4,
            "{name}, {} {}: {error}",
            options.mode,
            options.ablation
        );
        let ours: Vec<f64> = ours.base_logits.into_iter().map(f64::from).collect();
        assert!(distance(&ours, base) < 1e-4, "{name}");
    });
}

#[test]
fn the_sweep_gives_the_numbers_of_one_run_a_head() {
    every_way(|name, model, batch, options, _, _| {
        let fast = patched_logits(model, batch, options).unwrap();
        let slow = naive::patched_logits(model, batch, options).unwrap();
        let largest = flat(&slow)
            .iter()
            .fold(0.0, |largest: f64, logit| largest.max(logit.abs()));
        let error = distance(&flat(&fast), &flat(&slow));
        assert!(
            error < 1e-4 * largest,
            "{name}, {} {}: {error} of {largest}",
            options.mode,
            options.ablation
        );
    });
}
