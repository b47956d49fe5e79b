//! Coefficients folded into quantised checkpoints: by the scales, or by storing the output projection as plain numbers.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::prelude::*;
use burn::tensor::DType;
use common::{Reweighted, distance, fixtures};
use half::{bf16, f16};
use pear_core::{HeadCoefficients, HeadId, Profile};
use pear_models::{FoldPlan, FoldRoute, ModelDirectory, log_probs};
use safetensors::SafeTensors;
use serde::Deserialize;
use serde_json::{Value, json};

const HEAD_DIM: usize = 64;

#[derive(Deserialize)]
struct Expected {
    prompts: Vec<Vec<u32>>,
    reweighted: Reweighted,
    route: String,
}

fn fixture(name: &str) -> PathBuf {
    fixtures().join("quantized").join(name)
}

fn names() -> Vec<String> {
    let entries = fs::read_dir(fixture(""))
        .unwrap()
        .map(|entry| entry.unwrap());
    let folders = entries.filter(|entry| entry.path().is_dir());
    let mut names: Vec<String> = folders
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert!(names.len() >= 19, "only {} fixtures", names.len());
    names
}

fn expected(name: &str) -> Expected {
    serde_json::from_slice(&fs::read(fixture(name).join("expected.json")).unwrap()).unwrap()
}

fn profile(directory: &ModelDirectory, pairs: &[(HeadId, f32)]) -> Profile {
    let coefficients = HeadCoefficients::new(pairs, &directory.shape(), &Device::flex()).unwrap();
    Profile::new(&coefficients, None).unwrap()
}

/// Exports a model directory with coefficients, and opens the result.
fn export(model: &Path, pairs: &[(HeadId, f32)], out: &Path) -> (FoldPlan, ModelDirectory) {
    let directory = ModelDirectory::open(model).unwrap();
    let profile = profile(&directory, pairs);
    let planned = directory.fold_plan(&profile).unwrap();
    let plan = directory.export(&profile, out).unwrap();
    assert_eq!(planned, plan);
    let folded = ModelDirectory::open(out).unwrap_or_else(|e| panic!("{}: {e}", model.display()));
    (plan, folded)
}

fn numbers(directory: &ModelDirectory, name: &str) -> Vec<f32> {
    let count = directory.tensors().info(name).unwrap().num_elements();
    let mut numbers = vec![0f32; count];
    directory
        .tensors()
        .read(name, 0..count, (&mut numbers[..]).into())
        .unwrap();
    numbers
}

/// The bytes of all tensors, by name, and the names of the files that hold them.
fn tensors(folder: &Path) -> (BTreeMap<String, Vec<u8>>, BTreeMap<String, String>) {
    let (mut tensors, mut files) = (BTreeMap::new(), BTreeMap::new());
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()) {
        let name = entry.file_name().into_string().unwrap();
        if !name.ends_with(".safetensors") {
            continue;
        }
        let bytes = fs::read(entry.path()).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        for (tensor, view) in file.iter() {
            let text = format!("{:?}{:?}", view.dtype(), view.shape());
            let contents = [text.as_bytes(), view.data()].concat();
            tensors.insert(tensor.to_owned(), contents);
            files.insert(tensor.to_owned(), name.clone());
        }
    }
    (tensors, files)
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn every_number_is_the_exact_product_within_the_rounding_of_scales_or_of_the_plain_type() {
    for name in names() {
        let expected = expected(&name);
        let scratch = tempfile::tempdir().unwrap();
        let pairs = expected.reweighted.pairs();
        let (plan, folded) = export(&fixture(&name), &pairs, &scratch.path().join("out"));
        let original = ModelDirectory::open(fixture(&name)).unwrap();
        assert_eq!(plan.tensors.len(), 1, "{name}");
        let tensor = &plan.tensors[0];
        let layer = pairs[0].0.layer;
        assert_eq!((tensor.layer, tensor.heads.len()), (layer, 2), "{name}");
        let route = match expected.route.as_str() {
            "scales" => FoldRoute::Scales,
            _ => FoldRoute::Unquantized,
        };
        assert_eq!(tensor.route, route, "{name}");

        let info =
            |directory: &ModelDirectory| directory.tensors().info(&tensor.name).unwrap().clone();
        let (before, after) = (info(&original), info(&folded));
        assert_eq!(tensor.num_bytes, before.num_bytes, "{name}");
        assert_eq!(tensor.folded_num_bytes, after.num_bytes, "{name}");
        assert_eq!(tensor.dtype, before.dtype.to_string(), "{name}");
        assert_eq!(tensor.folded_dtype, after.dtype.to_string(), "{name}");

        // What the scales, or the plain numbers, are rounded to.
        let rounding = match (route, name.as_str()) {
            (FoldRoute::Scales, "packed-int4") => 2f32.powi(-8),
            (FoldRoute::Scales, "fp8-blocks" | "nf4" | "nf4-nested" | "fp4") => 2f32.powi(-22),
            (FoldRoute::Scales, _) => 2f32.powi(-11),
            (_, _) if after.dtype.to_string() == "BF16" => 2f32.powi(-8),
            _ => 2f32.powi(-11),
        };
        let head_dim = original.config().layers[0].attention.head_dim;
        let width = before.shape[1];
        let (mut squared_error, mut squares) = (0f64, 0f64);
        let (was, is) = (
            numbers(&original, &tensor.name),
            numbers(&folded, &tensor.name),
        );
        for (index, (&was, &is)) in was.iter().zip(&is).enumerate() {
            let head = HeadId::new(layer, index % width / head_dim);
            let factor = pairs
                .iter()
                .find(|(of, _)| *of == head)
                .map(|(_, factor)| *factor);
            let exact = was * factor.unwrap_or(1.0);
            // Below the smallest normal number of f16 steps are of 2^-24.
            assert!(
                (is - exact).abs() <= exact.abs() * rounding + 2f32.powi(-25),
                "{name}: {is} for {exact}"
            );
            match (route, factor) {
                (FoldRoute::Scales, None) => assert_eq!(is.to_bits(), was.to_bits(), "{name}"),
                _ => {
                    squared_error += (f64::from(is) - f64::from(exact)).powi(2);
                    squares += f64::from(exact).powi(2);
                }
            }
        }
        let error = (squared_error / squares).sqrt();
        assert!(
            (tensor.relative_error - error).abs() < 0.02 * error + 1e-7,
            "{name}: {error}"
        );
        assert!(error > 0.0, "{name}");
    }
}

#[test]
fn folded_directories_compute_what_transformers_does_with_re_weighted_heads() {
    for name in names() {
        let expected = expected(&name);
        let scratch = tempfile::tempdir().unwrap();
        let pairs = expected.reweighted.pairs();
        let (plan, folded) = export(&fixture(&name), &pairs, &scratch.path().join("out"));
        let model = folded.load(&Device::flex(), DType::F32).unwrap();
        let ours = log_probs(&model, expected.prompts.last().unwrap()).unwrap();
        let error = distance(&ours, &expected.reweighted.log_probs);
        let rounding = plan.tensors[0].relative_error;
        assert!(
            error < 1e-4 + 20.0 * rounding,
            "{name}: {error}, rounding {rounding}"
        );
    }
}

#[test]
fn all_other_tensors_and_files_stay_byte_for_byte() {
    for name in names() {
        let expected = expected(&name);
        let scratch = tempfile::tempdir().unwrap();
        let out = scratch.path().join("out");
        let (plan, _) = export(&fixture(&name), &expected.reweighted.pairs(), &out);
        let module = plan.tensors[0].name.strip_suffix("weight").unwrap();
        let ((before, _), (after, files)) = (tensors(&fixture(&name)), tensors(&out));
        for (tensor, bytes) in &before {
            if !tensor.starts_with(module) || tensor.ends_with("bias") {
                assert_eq!(after.get(tensor), Some(bytes), "{name}: `{tensor}`");
            }
        }
        let is_new = |tensor: &&String| !before.contains_key(*tensor);
        let new: Vec<&String> = after.keys().filter(is_new).collect();
        let is_unquantized = plan.tensors[0].route == FoldRoute::Unquantized;
        if is_unquantized {
            let of_module: Vec<&String> = after.keys().filter(|t| t.starts_with(module)).collect();
            assert_eq!(of_module, [&plan.tensors[0].name], "{name}");
        } else {
            assert!(new.is_empty(), "{name}: {new:?}");
        }
        for entry in fs::read_dir(fixture(&name))
            .unwrap()
            .map(|entry| entry.unwrap())
        {
            let file = entry.file_name().into_string().unwrap();
            let (was, is) = (
                fs::read(entry.path()).unwrap(),
                fs::read(out.join(&file)).unwrap(),
            );
            let may_change = match file.as_str() {
                "config.json" | "quantize_config.json" | "quant_config.json" => is_unquantized,
                "model.safetensors.index.json" => is_unquantized || name == "nf4-nested",
                _ => file.ends_with(".safetensors"),
            };
            assert!(may_change || was == is, "{name}: {file}");
        }
        let index = out.join("model.safetensors.index.json");
        if index.exists() {
            let index = read_json(&index);
            assert_eq!(index["weight_map"], json!(files), "{name}");
            let total: usize = fs::read_dir(&out)
                .unwrap()
                .map(|entry| fs::read(entry.unwrap().path()).unwrap())
                .filter_map(|bytes| {
                    let file = SafeTensors::deserialize(&bytes).ok()?;
                    Some(
                        file.iter()
                            .map(|(_, view)| view.data().len())
                            .sum::<usize>(),
                    )
                })
                .sum();
            assert_eq!(index["metadata"]["total_size"], json!(total), "{name}");
        }
    }
}

#[test]
fn scales_change_in_place_and_new_tensors_begin_where_their_type_may() {
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("gptq");
    export(
        &fixture("gptq"),
        &[(HeadId::new(0, 1), 0.5), (HeadId::new(1, 3), 2.0)],
        &out,
    );
    let mut changed = 0;
    for file in [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ] {
        let (was, is) = (
            fs::read(fixture("gptq").join(file)).unwrap(),
            fs::read(out.join(file)).unwrap(),
        );
        assert_eq!(was.len(), is.len());
        changed += was.iter().zip(&is).filter(|(was, is)| was != is).count();
    }
    // Two groups of 32 inputs a head, 64 outputs, at most two bytes a scale, two layers.
    assert!(changed > 0 && changed <= 2 * 64 * 2 * 2, "{changed}");

    for name in [
        "w8a8",
        "gptq-act-order",
        "nf4-nested",
        "llm-int8",
        "fp8-tensor",
    ] {
        let out = scratch.path().join(name);
        export(&fixture(name), &[(HeadId::new(0, 1), 0.5)], &out);
        for entry in fs::read_dir(&out)
            .unwrap()
            .map(|entry| entry.unwrap().path())
        {
            if entry.extension().is_none_or(|end| end != "safetensors") {
                continue;
            }
            let bytes = fs::read(&entry).unwrap();
            let (header, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
            assert_eq!((header + 8) % 8, 0, "{name}");
            for (tensor, info) in metadata.tensors() {
                let size = info.dtype.bitsize() / 8;
                assert!(
                    info.data_offsets.0.is_multiple_of(size),
                    "{name}: `{tensor}`"
                );
            }
        }
    }
}

#[test]
fn the_settings_name_the_projection_that_is_no_longer_quantised() {
    let module = "model.layers.0.self_attn.o_proj";
    for (name, file, path, list) in [
        (
            "gptq-act-order",
            "config.json",
            "/quantization_config/dynamic",
            json!({r"-:^model\.layers\.0\.self_attn\.o_proj$": {}}),
        ),
        (
            "gptq-file",
            "quantize_config.json",
            "/dynamic",
            json!({r"-:^model\.layers\.0\.self_attn\.o_proj$": {}}),
        ),
        (
            "awq-file",
            "quant_config.json",
            "/modules_to_not_convert",
            json!(["q_proj", module]),
        ),
        (
            "fp8-wide-blocks",
            "config.json",
            "/quantization_config/modules_to_not_convert",
            json!(["lm_head", module]),
        ),
        (
            "fp8-tensor",
            "config.json",
            "/quantization_config/ignored_layers",
            json!(["lm_head", module]),
        ),
        (
            "w8a8",
            "config.json",
            "/quantization_config/ignore",
            json!(["lm_head", module]),
        ),
        (
            "llm-int8",
            "config.json",
            "/quantization_config/llm_int8_skip_modules",
            json!(["lm_head", module]),
        ),
    ] {
        let scratch = tempfile::tempdir().unwrap();
        let out = scratch.path().join("out");
        export(&fixture(name), &[(HeadId::new(0, 1), 0.5)], &out);
        let mut settings = read_json(&out.join(file));
        assert_eq!(settings.pointer(path), Some(&list), "{name}");
        // Nothing else is another.
        let mut before = read_json(&fixture(name).join(file));
        let (parent, key) = path.rsplit_once('/').unwrap();
        for settings in [&mut before, &mut settings] {
            settings
                .pointer_mut(parent)
                .unwrap()
                .as_object_mut()
                .unwrap()
                .remove(key);
        }
        assert_eq!(before, settings, "{name}");
    }
}

#[test]
fn a_folded_directory_can_be_folded_again() {
    for name in ["w8a8", "nf4-nested", "packed-int4", "gptq-act-order"] {
        let scratch = tempfile::tempdir().unwrap();
        let (once, twice) = (scratch.path().join("once"), scratch.path().join("twice"));
        let head = HeadId::new(0, 1);
        export(&fixture(name), &[(head, 0.5)], &once);
        let (plan, folded) = export(&once, &[(head, 4.0)], &twice);
        assert_ne!(plan.tensors[0].route, FoldRoute::Unquantized, "{name}");
        // Powers of two lose nothing.
        let (scratch2, tensor) = (scratch.path().join("at-once"), &plan.tensors[0].name);
        let (_, at_once) = export(&fixture(name), &[(head, 2.0)], &scratch2);
        assert_eq!(
            numbers(&folded, tensor),
            numbers(&at_once, tensor),
            "{name}"
        );
    }
}

#[test]
fn one_factor_for_all_heads_of_a_scale_keeps_it_quantised() {
    let heads = |head| HeadId::new(0, head);
    let scratch = tempfile::tempdir().unwrap();
    for (number, (name, pairs, route)) in [
        // Blocks of 128 inputs, heads of 64.
        (
            "fp8-wide-blocks",
            vec![(heads(0), 0.7), (heads(1), 0.7)],
            FoldRoute::Scales,
        ),
        (
            "fp8-wide-blocks",
            vec![(heads(1), 0.7), (heads(2), 0.7)],
            FoldRoute::Unquantized,
        ),
        (
            "w8a8",
            (0..4).map(|head| (heads(head), 0.7)).collect(),
            FoldRoute::Scales,
        ),
        (
            "float-quantized",
            (0..4).map(|head| (heads(head), -0.7)).collect(),
            FoldRoute::Scales,
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let (plan, _) = export(
            &fixture(name),
            &pairs,
            &scratch.path().join(number.to_string()),
        );
        assert_eq!(plan.tensors[0].route, route, "{name}");
    }
}

#[test]
fn a_scale_that_would_lose_digits_makes_the_projection_plain_and_one_that_overflows_is_an_error() {
    let scratch = tempfile::tempdir().unwrap();
    let head = HeadId::new(0, 1);
    let (plan, _) = export(
        &fixture("awq"),
        &[(head, 1e-4)],
        &scratch.path().join("small"),
    );
    assert_eq!(plan.tensors[0].route, FoldRoute::Unquantized);
    // Zero is exact.
    let (plan, folded) = export(
        &fixture("awq"),
        &[(head, 0.0)],
        &scratch.path().join("zero"),
    );
    assert_eq!(plan.tensors[0].route, FoldRoute::Scales);
    let tensor = &plan.tensors[0].name;
    let width = folded.tensors().info(tensor).unwrap().shape[1];
    let values = numbers(&folded, tensor);
    let of_head = values
        .iter()
        .enumerate()
        .filter(|(index, _)| index % width / HEAD_DIM == 1);
    assert!(of_head.into_iter().all(|(_, value)| *value == 0.0));

    let directory = ModelDirectory::open(fixture("awq")).unwrap();
    let out = scratch.path().join("large");
    let error = directory
        .export(&profile(&directory, &[(head, 1e9)]), &out)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("o_proj.weight`: head 0.1: ") && error.contains("is no finite F16 number"),
        "{error}"
    );
    assert!(!out.exists());
}

#[test]
fn plain_numbers_are_of_the_type_that_the_config_names() {
    for (name, dtype) in [("llm-int8", "F16"), ("w8a8", "BF16")] {
        let scratch = tempfile::tempdir().unwrap();
        let (plan, folded) = export(
            &fixture(name),
            &[(HeadId::new(0, 1), 0.3)],
            &scratch.path().join("out"),
        );
        let tensor = &plan.tensors[0];
        assert_eq!(tensor.folded_dtype, dtype);
        for (index, x) in numbers(&folded, &tensor.name).into_iter().enumerate() {
            let rounded = if dtype == "F16" {
                f16::from_f32(x).to_f32()
            } else {
                bf16::from_f32(x).to_f32()
            };
            assert_eq!(x, rounded, "{name}: {index}");
        }
    }
}
