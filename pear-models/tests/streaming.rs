//! A decoder whose layers are read from the files when they are visited gives the numbers of one in memory.

mod common;

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use burn::prelude::*;
use burn::tensor::DType;
use common::{device, expected, fixtures, names};
use pear_core::forward::{logits, token_tensor};
use pear_core::proxy::ProxyBatch;
use pear_core::{DecoderModel, HeadCoefficients, HeadId, NoEdit, ProxyTask};
use pear_locate::{
    Ablation, Error, Event, LocateOptions, Locator, Method, Mode, Outcome, Report, locate,
    proxy_batches, remove_sweep_state,
};
use pear_models::{Decoder, GenerateOptions, ModelDirectory, generate};
use pear_train::{Sequences, TrainOptions, Trainer, gradient_scores};

fn open(name: &str) -> Arc<ModelDirectory> {
    Arc::new(ModelDirectory::open(fixtures().join(name)).unwrap())
}

/// In memory, and streamed.
fn both(name: &str, dtype: DType) -> [Decoder; 2] {
    let (directory, device) = (open(name), device());
    let streamed = directory.stream(&device, dtype).unwrap();
    [directory.load(&device, dtype).unwrap(), streamed]
}

fn layers_read(model: &Decoder) -> u64 {
    model.stream_statistics().unwrap().layers
}

fn same_logits([here, there]: [&Decoder; 2], prompt: &[u32]) {
    let of = |model: &Decoder| {
        let tokens = token_tensor(&[prompt], &model.device());
        logits(model, tokens, &mut NoEdit).unwrap().into_data()
    };
    assert_eq!(of(here), of(there));
}

#[test]
fn every_family_is_read_layer_by_layer_as_it_is_at_once() {
    for name in names() {
        let prompt = &expected(&name).prompts[0];
        for dtype in [DType::F32, DType::BF16] {
            let [here, there] = both(&name, dtype);
            assert!(!here.layers_on_demand() && there.layers_on_demand());
            same_logits([&here, &there], prompt);
            let statistics = there.stream_statistics().unwrap();
            assert_eq!(statistics.layers, here.shape().num_layers as u64, "{name}");
            assert!(statistics.bytes > 0);
            assert!(here.stream_statistics().is_none());
        }
    }
}

#[test]
fn coefficients_are_attached_and_folded_where_layers_are_read() {
    let [here, there] = both("llama-3.1", DType::F32);
    let prompt = expected("llama-3.1").prompts[0].clone();
    let coefficients = |values: &[(HeadId, f32)]| {
        HeadCoefficients::new(values, &here.shape(), &here.device()).unwrap()
    };
    let first = coefficients(&[(HeadId::new(0, 1), 0.3), (HeadId::new(1, 0), 1.4)]);
    let second = coefficients(&[(HeadId::new(1, 0), 0.5), (HeadId::new(1, 2), -0.5)]);

    let plain = there.clone();
    let attached = [&here, &there].map(|model| model.clone().with_coefficients(&first).unwrap());
    same_logits([&attached[0], &attached[1]], &prompt);
    // Attached to one copy alone.
    same_logits([&here, &plain], &prompt);
    let folded = attached.map(|model| model.fold().with_coefficients(&second).unwrap());
    same_logits([&folded[0], &folded[1]], &prompt);
    let folded = folded.map(Decoder::fold);
    same_logits([&folded[0], &folded[1]], &prompt);
    let refused = there.save(&serde_json::json!({"model_type": "llama"}), DType::F32, "x");
    assert!(refused.is_err());
}

#[test]
fn generating_reads_all_layers_for_each_token() {
    let [here, there] = both("qwen2-14-2", DType::F32);
    let options = GenerateOptions {
        max_new_tokens: 5,
        ..GenerateOptions::default()
    };
    let prompt = &expected("qwen2-14-2").prompts[0];
    let [a, b] = [&here, &there].map(|model| generate(model, prompt, &options).unwrap());
    assert_eq!(a, b);
    assert_eq!(
        layers_read(&there),
        (a.len() * here.shape().num_layers) as u64
    );
}

fn batches(model: &Decoder) -> Vec<ProxyBatch> {
    let task = ProxyTask::new(model.vocab_size(), &[0], 1).unwrap();
    proxy_batches(&task, &[(6, 5), (4, 8)]).unwrap()
}

fn near(a: &Report, b: &Report) {
    for (a, b) in a.scores.heads().iter().zip(b.scores.heads()) {
        assert_eq!(a.head, b.head);
        let error = (a.score - b.score).abs();
        assert!(error < 1e-5, "{}: {} and {}", a.head, a.score, b.score);
    }
}

#[test]
fn locating_reads_a_layer_once_if_all_rows_fit_and_more_often_if_not() {
    let [here, there] = both("llama-3.1", DType::F32);
    let (batches, layers) = (batches(&here), here.shape().num_layers as u64);
    for mode in [Mode::Activation, Mode::Path] {
        for ablation in [Ablation::SequenceMean, Ablation::BatchMean, Ablation::Zero] {
            let options = LocateOptions {
                mode,
                ablation,
                ..LocateOptions::default()
            };
            let expected = locate(&here, &batches, &options).unwrap();
            let before = layers_read(&there);
            near(&locate(&there, &batches, &options).unwrap(), &expected);
            assert_eq!(layers_read(&there) - before, layers);
            // A sequence at a time, and those of a batch together or not.
            for memory_budget in [40_000, 1] {
                let options = LocateOptions {
                    memory_budget,
                    ..options.clone()
                };
                let before = layers_read(&there);
                near(&locate(&there, &batches, &options).unwrap(), &expected);
                let times = (layers_read(&there) - before) / layers;
                assert!(times > 1, "{memory_budget}: {times}");
            }
        }
    }
    let options = LocateOptions {
        method: Method::Attribution,
        ..LocateOptions::default()
    };
    let refused = locate(&there, &batches, &options).unwrap_err();
    assert!(matches!(refused, Error::KeepsAllLayers));
}

/// Locates with the state in a folder; ended after so many times that a step has been through a layer.
fn located(
    model: &Decoder,
    batches: &[ProxyBatch],
    options: &LocateOptions,
    folder: &Path,
    ended_after: usize,
) -> Option<Report> {
    let locator = Locator::new(model, options.clone()).with_state(folder);
    let mut seen = 0;
    let outcome = locator.run_with(batches, |event| {
        seen += usize::from(matches!(event, Event::Layer(_)));
        Ok::<_, Error>(if seen > ended_after {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        })
    });
    match outcome.unwrap() {
        Outcome::Finished(report) => Some(report),
        Outcome::Cancelled(_) => None,
    }
}

#[test]
fn an_interrupted_sweep_goes_on_at_its_layer() {
    let folder = tempfile::tempdir().unwrap();
    for ablation in [Ablation::SequenceMean, Ablation::BatchMean] {
        for memory_budget in [LocateOptions::DEFAULT_MEMORY_BUDGET, 40_000] {
            let options = LocateOptions {
                ablation,
                memory_budget,
                ..LocateOptions::default()
            };
            let [_, uninterrupted] = both("llama-3.1", DType::BF16);
            let batches = batches(&uninterrupted);
            let expected = locate(&uninterrupted, &batches, &options).unwrap();
            let all = layers_read(&uninterrupted);
            for ended_after in [0, 1, 2, 5, 8, 13, 14, 21, 26, 34] {
                let state = folder.path().join("state");
                let [_, first] = both("llama-3.1", DType::BF16);
                let found = located(&first, &batches, &options, &state, ended_after);
                let [_, second] = both("llama-3.1", DType::BF16);
                let resumed = located(&second, &batches, &options, &state, usize::MAX).unwrap();
                assert_eq!(resumed, expected);
                if let Some(found) = found {
                    assert_eq!(found, expected);
                } else {
                    // The first layer is always kept, later ones as far as that is worth the time.
                    let kept = ended_after >= 13;
                    assert!(layers_read(&second) < all || !kept, "{ended_after}");
                }
                remove_sweep_state(&state).unwrap();
                assert!(!state.exists());
            }
        }
    }
}

#[test]
fn the_state_of_another_sweep_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let [_, model] = both("llama-3.1", DType::F32);
    let (batches, options) = (batches(&model), LocateOptions::default());
    assert!(located(&model, &batches, &options, folder.path(), 2).is_none());
    let other = LocateOptions {
        mode: Mode::Path,
        ..options.clone()
    };
    let locator = Locator::new(&model, other).with_state(folder.path());
    assert!(matches!(
        locator.run(&batches),
        Err(Error::Unresumable { .. })
    ));
    // Files that are not what was written.
    let steps = fs::read_dir(folder.path()).unwrap();
    let mut steps = steps.map(|entry| entry.unwrap().path());
    let steps = steps.find(|path| path.is_dir()).unwrap();
    let file = steps.join("step-0.safetensors");
    let bytes = fs::read(&file).unwrap();
    let locator = Locator::new(&model, options).with_state(folder.path());
    for damaged in [&bytes[..bytes.len() / 2], b"", &[0xff; 64]] {
        fs::write(&file, damaged).unwrap();
        let error = locator.run(&batches).unwrap_err().to_string();
        assert!(error.contains("step-0.safetensors"), "{error}");
    }
    fs::write(&file, &bytes).unwrap();
    locator.run(&batches).unwrap();
}

#[test]
fn training_learns_what_it_learns_in_memory() {
    let [here, there] = both("llama-3.1", DType::F32);
    let layers = here.shape().num_layers as u64;
    let task = ProxyTask::new(here.vocab_size(), &[0], 1).unwrap();
    let options = TrainOptions {
        steps: 4,
        batch_size: 3,
        length: 5,
        learning_rate: 0.02,
        ..TrainOptions::default()
    };
    let heads: Vec<HeadId> = here.shape().heads().collect();
    let run = |model| {
        let mut trainer = Trainer::new(model, &heads, options.clone()).unwrap();
        trainer.run(&Sequences::Drawn(task.clone())).unwrap();
        (trainer.losses().to_vec(), trainer.coefficients().values())
    };
    let (losses, values) = run(&there);
    // Up, and down again; the layer where it turns round is still there, at the top and at the bottom.
    assert_eq!(layers_read(&there), 1 + 4 * (2 * layers - 2));
    let (expected_losses, expected_values) = run(&here);
    for (a, b) in losses.iter().zip(&expected_losses) {
        assert!((a - b).abs() < 1e-5, "{a} and {b}");
    }
    for (a, b) in values.iter().zip(&expected_values) {
        assert!((a - b).abs() < 1e-5, "{a} and {b}");
    }

    let batch = task.batch(5, 0..4).unwrap();
    let scores = |model| gradient_scores(model, &heads, &batch, 2).unwrap();
    for (a, b) in scores(&there).iter().zip(scores(&here)) {
        assert!((a.gradient - b.gradient).abs() < 1e-6, "{a:?} and {b:?}");
    }
}

#[test]
fn a_layer_that_cannot_be_read_is_named() {
    let folder = tempfile::tempdir().unwrap();
    for file in fs::read_dir(fixtures().join("llama-3.1")).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    let weights = folder.path().join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let name = "model.layers.1.mlp.up_proj.weight";
    let inside = file.tensor(name).unwrap().data().as_ptr() as usize - bytes.as_ptr() as usize;
    bytes[inside..inside + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&weights, &bytes).unwrap();

    let directory = Arc::new(ModelDirectory::open(folder.path()).unwrap());
    let model = directory.stream(&Device::flex(), DType::F32).unwrap();
    let tokens = token_tensor(&[[1u32, 2, 3]], &Device::flex());
    let error = logits(&model, tokens, &mut NoEdit).unwrap_err().to_string();
    assert!(error.contains("layer 1") && error.contains(name), "{error}");
}
