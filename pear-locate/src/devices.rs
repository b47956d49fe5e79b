//! One sweep on several devices, each with its own copy of the model and its share of the sequences.

use std::ops::{ControlFlow, Range};
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{self, ScopedJoinHandle};

use burn::prelude::*;
use pear_core::DecoderModel;
use pear_core::proxy::ProxyBatch;

use crate::budget::{Plan, Sizes};
use crate::clean::batch_means;
use crate::selection::Selection;
use crate::sweep::{LayerDone, sweep};
use crate::{Ablation, LocateOptions, PatchedLogits, Result};

/// As [`sweep`], with the sequences of each batch split evenly over `models`. `layer_done` is called on this thread.
pub(crate) fn sweep_on_each<M: DecoderModel + Sync>(
    models: &[M],
    batches: &[ProxyBatch],
    selected: &Selection,
    options: &LocateOptions,
    state: Option<&Path>,
    layer_done: &mut LayerDone<'_>,
) -> Result<Option<Vec<PatchedLogits>>> {
    if let [model] = models {
        return sweep(model, batches, selected, options, None, state, layer_done);
    }
    batches
        .iter()
        .map(|batch| divided(models, batch, selected, options, layer_done))
        .collect()
}

/// One batch, its sequences split over `models`.
fn divided<M: DecoderModel + Sync>(
    models: &[M],
    batch: &ProxyBatch,
    selected: &Selection,
    options: &LocateOptions,
    layer_done: &mut LayerDone<'_>,
) -> Result<Option<PatchedLogits>> {
    let shares: Vec<(&M, ProxyBatch)> = models
        .iter()
        .zip(shares(batch.len(), models.len()))
        .map(|(model, range)| (model, batch.slice(range)))
        .collect();
    // One sweep, of one batch.
    let of_share = |(model, share): &(&M, ProxyBatch), means, layer_done: &mut LayerDone<'_>| {
        let batches = std::slice::from_ref(share);
        let found = sweep(*model, batches, selected, options, means, None, layer_done)?;
        Ok(found.and_then(|mut found| found.pop()))
    };
    if let [share] = &shares[..] {
        return of_share(share, None, layer_done);
    }
    let means = match options.ablation {
        Ablation::BatchMean => Some(means_over_all(&shares, options)?),
        Ablation::SequenceMean | Ablation::Zero => None,
    };
    let cancelled = AtomicBool::new(false);
    let (sender, receiver) = mpsc::channel::<(usize, usize)>();
    let parts = thread::scope(|scope| {
        let mut threads = Vec::new();
        for (index, share) in shares.iter().enumerate() {
            let (sender, cancelled) = (sender.clone(), &cancelled);
            let here = |mean: &TensorData| Tensor::from_data(mean.clone(), &share.0.device());
            let means = means.as_ref().map(|means| means.iter().map(here).collect());
            let mut layer_done = move |_: &ProxyBatch, layer| {
                // The receiver outlives every sender.
                let _ = sender.send((index, layer));
                if cancelled.load(Ordering::Relaxed) {
                    return ControlFlow::Break(());
                }
                ControlFlow::Continue(())
            };
            threads.push(scope.spawn(move || of_share(share, means, &mut layer_done)));
        }
        drop(sender);
        for (index, layer) in receiver {
            if !cancelled.load(Ordering::Relaxed) && layer_done(&shares[index].1, layer).is_break()
            {
                cancelled.store(true, Ordering::Relaxed);
            }
        }
        threads
            .into_iter()
            .map(joined)
            .collect::<Result<Option<Vec<_>>>>()
    })?;
    if cancelled.into_inner() {
        return Ok(None);
    }
    Ok(parts.map(PatchedLogits::join))
}

/// The mean head outputs at the patched position over the sequences of all devices: `[1, heads, head_dim]` for each layer, f32.
fn means_over_all<M: DecoderModel + Sync>(
    shares: &[(&M, ProxyBatch)],
    options: &LocateOptions,
) -> Result<Vec<TensorData>> {
    let total: usize = shares.iter().map(|(_, share)| share.len()).sum();
    let host = |(model, share): &(&M, ProxyBatch)| -> Result<Vec<Tensor<3>>> {
        let means = batch_means(
            *model,
            share,
            Plan::new(&Sizes::of(*model), share, options.memory_budget),
        )?;
        Ok(means
            .into_iter()
            .map(|mean| mean * (share.len() as f64 / total as f64))
            .collect())
    };
    let parts = thread::scope(|scope| {
        let threads: Vec<_> = shares
            .iter()
            .map(|share| scope.spawn(move || host(share)))
            .collect();
        threads.into_iter().map(joined).collect::<Result<Vec<_>>>()
    })?;
    let device = shares[0].0.device();
    let sum = |layer: usize| {
        let parts = parts
            .iter()
            .map(|part| Tensor::<3>::from_data(part[layer].to_data(), &device));
        parts.reduce(|a, b| a + b).map(Tensor::into_data)
    };
    Ok((0..parts[0].len()).filter_map(sum).collect())
}

/// What a thread gave; a panic goes on in this one.
fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
}

/// `count` sequences in at most `ways` parts that differ by one at most.
fn shares(count: usize, ways: usize) -> impl Iterator<Item = Range<usize>> {
    let ways = ways.min(count);
    (0..ways).map(move |way| count * way / ways..count * (way + 1) / ways)
}
