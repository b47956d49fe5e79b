//! Training that runs each layer once more in the backward pass: the same gradients in less memory.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use common::{HEAD_DIM, Small};
use pear_core::position::{PositionEmbeddingConfig, RotaryConfig};
use pear_core::{DecoderModel, HeadId, ProxyTask};
use pear_train::faithful::{FaithfulOptions, FaithfulTrainer, Item, ItemGroup, Stage};
use pear_train::{PlainText, Sequences, TrainOptions, Trainer, fisher};

/// The system's allocator, counting what is allocated.
struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let allocated = ALLOCATED.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(allocated, Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One test at a time: one of them measures memory.
static ALONE: Mutex<()> = Mutex::new(());

fn model(layers: usize) -> Small {
    let rotary = PositionEmbeddingConfig::Rotary(RotaryConfig::new(HEAD_DIM, 10_000.0));
    Small::new(layers, 4, 2, 60, rotary)
}

fn text() -> PlainText {
    let piece = |index: u32| (0..20).map(move |place| (index * 11 + place * place * 7) % 60);
    PlainText::new((0..6).map(|index| piece(index).collect()).collect(), 0).unwrap()
}

fn assert_near(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < 2e-6, "{found} {expected}");
    }
}

#[test]
fn steps_that_recompute_layers_are_those_that_keep_them() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let model = model(3);
    let all: Vec<HeadId> = model.shape().heads().collect();
    let some = [HeadId::new(2, 1), HeadId::new(1, 3)];
    for (heads, kl_weight) in [(&all[..], 5.0), (&some, 0.0)] {
        let options = TrainOptions {
            steps: 4,
            batch_size: 4,
            length: 7,
            learning_rate: 0.02,
            kl_weight,
            text_batch_size: 3,
            ..TrainOptions::default()
        };
        let coefficients = |recompute| {
            let trainer = Trainer::new(&model, heads, options.clone()).unwrap();
            let mut trainer = trainer.with_recompute(recompute).with_text(text()).unwrap();
            trainer.run(&Sequences::Drawn(model.task())).unwrap();
            trainer.coefficients().values()
        };
        let expected = coefficients(false);
        assert!(expected.iter().any(|value| (value - 1.0).abs() > 0.01));
        assert_near(&coefficients(true), &expected);
    }
}

#[test]
fn learning_from_items_does_not_depend_on_it() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let model = model(3);
    let heads: Vec<HeadId> = model.shape().heads().collect();
    let prompt = |index: u32, length: u32| (0..length).map(move |i| (index * 5 + i * i * 3) % 60);
    let prefer = |index| Item::prefer(prompt(index, 4 + index % 5).collect(), 7, 9);
    let fisher = fisher(&model, &heads, &text(), 4, 0, 6).unwrap();
    let coefficients = |recompute| {
        // No tokens to be kept: where one is as likely as it was, rounding decides whether it has a gradient.
        let groups = vec![ItemGroup::new("conflict", (0..9).map(prefer).collect(), 5).unwrap()];
        let options = FaithfulOptions {
            stages: vec![Stage::new(10.0, 4)],
            ..FaithfulOptions::default()
        };
        let trainer = FaithfulTrainer::new(&model, groups, text(), &fisher, options).unwrap();
        let front = trainer.with_recompute(recompute).run().unwrap();
        front[0].coefficients.values()
    };
    assert_near(&coefficients(true), &coefficients(false));
}

#[test]
fn the_graph_of_one_layer_takes_a_fraction_of_that_of_all() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let model = model(12);
    let heads: Vec<HeadId> = model.shape().heads().collect();
    let options = TrainOptions {
        steps: 2,
        batch_size: 32,
        length: 48,
        ..TrainOptions::default()
    };
    let peak = |recompute| {
        let trainer = Trainer::new(&model, &heads, options.clone()).unwrap();
        let mut trainer = trainer.with_recompute(recompute);
        let batch = ProxyTask::new(60, &[], 0)
            .unwrap()
            .batch(48, 0..32)
            .unwrap();
        let before = ALLOCATED.load(Relaxed);
        PEAK.store(before, Relaxed);
        trainer.step(&batch).unwrap();
        (PEAK.load(Relaxed) - before) as f64 / 1e6
    };
    let (recomputed, whole) = (peak(true), peak(false));
    println!("{recomputed} MB, {whole} MB");
    assert!(recomputed < 0.5 * whole, "{recomputed} MB, {whole} MB");
}
