//! GGUF files with coefficients folded in: the re-weighted model, and nothing else changed.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::DType;
use common::{device, distance, fixtures};
use pear_core::{HeadCoefficients, HeadId, Profile};
use pear_models::{FoldPlan, FoldRoute, GgufCheckpoint, ModelDirectory, TensorSource, log_probs};

fn file(name: &str) -> PathBuf {
    fixtures().join(format!("gguf/{name}.gguf"))
}

fn open(path: impl AsRef<Path>) -> ModelDirectory {
    ModelDirectory::open(path).unwrap()
}

/// The names of all files of whole models.
fn names() -> Vec<String> {
    let files = fs::read_dir(fixtures().join("gguf")).unwrap();
    let names = files.filter_map(|file| {
        let name = file.unwrap().file_name().into_string().unwrap();
        Some(name.strip_suffix(".gguf")?.to_owned())
    });
    let names: Vec<String> = names.filter(|name| !name.contains("-of-")).collect();
    assert!(names.len() >= 20, "only {} files", names.len());
    names
}

/// Coefficients for two heads of the first layer and one of the last.
fn profile(directory: &ModelDirectory) -> Profile {
    let shape = directory.shape();
    let last = shape.num_layers - 1;
    let pairs = [
        (HeadId::new(0, 0), 0.62),
        (HeadId::new(0, shape.num_heads - 1), -0.4),
        (HeadId::new(last, 1), 1.7),
    ];
    let coefficients = HeadCoefficients::new(&pairs, &shape, &device()).unwrap();
    Profile::new(&coefficients, None).unwrap()
}

fn tokens(directory: &ModelDirectory) -> Vec<u32> {
    let vocab_size = directory.config().vocab_size as u32;
    (0..24)
        .map(|i| 3 + (5 + 7 * i) % (vocab_size - 4))
        .collect()
}

/// The largest difference between the folded file's log-probabilities and those of the model with coefficients.
fn difference(directory: &ModelDirectory, profile: &Profile, folded: &Path) -> f64 {
    let load = |directory: &ModelDirectory| directory.load(&device(), DType::F32).unwrap();
    let tokens = tokens(directory);
    let exact = load(directory).with_profile(profile).unwrap();
    distance(
        &log_probs(&load(&open(folded)), &tokens).unwrap(),
        &log_probs(&exact, &tokens).unwrap(),
    )
}

/// Checks that only the tensors of the plan differ, and have the types and sizes that it says.
fn check_tensors(before: &Path, after: &Path, plan: &FoldPlan) {
    let [before, after] = [before, after].map(|path| GgufCheckpoint::open(path).unwrap());
    let names: Vec<&str> = before.names().collect();
    assert_eq!(names, after.names().collect::<Vec<_>>());
    for name in names {
        let (was, is) = (before.info(name).unwrap(), after.info(name).unwrap());
        assert_eq!(was.shape, is.shape);
        match plan.tensors.iter().find(|tensor| tensor.name == name) {
            Some(tensor) => {
                assert_eq!(
                    (was.dtype.to_string(), was.num_bytes),
                    (tensor.dtype.clone(), tensor.num_bytes)
                );
                assert_eq!(
                    (is.dtype.to_string(), is.num_bytes),
                    (tensor.folded_dtype.clone(), tensor.folded_num_bytes)
                );
                assert!(before.raw(name) != after.raw(name), "{name}");
            }
            None => {
                assert_eq!(was, is, "{name}");
                assert!(before.raw(name) == after.raw(name), "{name}");
            }
        }
    }
}

#[test]
fn folded_files_compute_what_the_re_weighted_model_does() {
    let mut routes = BTreeSet::new();
    for name in names() {
        let directory = open(file(&name));
        let profile = profile(&directory);
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("folded.gguf");
        let plan = directory.export(&profile, &out).unwrap();
        assert_eq!(plan, directory.fold_plan(&profile).unwrap(), "{name}");
        let layers: Vec<usize> = plan.tensors.iter().map(|tensor| tensor.layer).collect();
        let last = directory.shape().num_layers - 1;
        assert_eq!(layers, [0, last], "{name}");
        check_tensors(&file(&name), &out, &plan);
        for tensor in &plan.tensors {
            assert!(
                tensor.name.ends_with("attn_output.weight"),
                "{name}: {tensor:?}"
            );
            assert!(tensor.relative_error < 2e-3, "{name}: {tensor:?}");
            routes.insert(tensor.route.to_string());
        }
        // The weights are rounded once more.
        let error = difference(&directory, &profile, &out);
        assert!(error < 4e-3, "{name}: {error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "{name}");
    }
    assert!(
        routes.contains(&FoldRoute::Values.to_string()),
        "{routes:?}"
    );
    // Heads of 16 share blocks of 32.
    assert!(
        routes.contains(&FoldRoute::Unquantized.to_string()),
        "{routes:?}"
    );
}

#[test]
fn a_split_model_is_folded_part_by_part() {
    let source = file("split-00001-of-00003");
    let directory = open(&source);
    let profile = profile(&directory);
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("new/folded.gguf");
    let plan = directory.export(&profile, &out).unwrap();
    let first = folder.path().join("new/folded-00001-of-00003.gguf");
    check_tensors(&source, &first, &plan);
    assert!(difference(&directory, &profile, &first) < 4e-3);
    let error = directory.export(&profile, &first).unwrap_err().to_string();
    assert!(
        error.ends_with(
            "folded-00001-of-00003.gguf: exists already: expected the name of a new file"
        ),
        "{error}"
    );
}

#[test]
fn what_stands_already_is_kept_and_nothing_is_folded_twice() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("model.gguf");
    fs::copy(file("quantized"), &source).unwrap();
    let directory = open(&source);
    let profile = profile(&directory);
    let out = folder.path().join("folded.gguf");
    directory.export(&profile, &out).unwrap();
    let message = |directory: &ModelDirectory, out: &Path| {
        directory.export(&profile, out).unwrap_err().to_string()
    };
    for taken in [&source, &out] {
        let error = message(&directory, taken);
        assert!(
            error.ends_with("exists already: expected the name of a new file"),
            "{error}"
        );
    }
    let error = message(&directory, &folder.path().join("folded"));
    assert!(
        error.ends_with("expected a name that ends with .gguf"),
        "{error}"
    );
    let error = message(&open(&out), &folder.path().join("twice.gguf"));
    assert!(
        error.contains("folded.gguf: `pear.version`: coefficients were folded into this file before (heads 0.0, 0.3, 1.1)"),
        "{error}"
    );
    assert!(open(&out).fold_plan(&profile).is_err());
    assert_eq!(
        fs::read(&source).unwrap(),
        fs::read(file("quantized")).unwrap()
    );
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().count(),
        2,
        "something was left behind"
    );
}

#[test]
fn the_plan_of_a_directory_tells_how_far_rounding_goes() {
    for (name, dtype, least, most) in [
        ("llama-2", "F32", 0.0, 1e-7),
        ("baichuan-13b", "F16", 1e-5, 4e-4),
        ("qwen3", "BF16", 1e-4, 3e-3),
    ] {
        let directory = common::open(name);
        let profile = profile(&directory);
        let plan = directory.fold_plan(&profile).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let written = directory
            .export(&profile, folder.path().join("out"))
            .unwrap();
        assert_eq!(plan, written);
        assert_eq!(plan.tensors.len(), 2, "{name}");
        for tensor in &plan.tensors {
            assert_eq!(
                (tensor.dtype.as_str(), tensor.route),
                (dtype, FoldRoute::Values)
            );
            assert!(
                (least..=most).contains(&tensor.relative_error),
                "{name}: {tensor:?}"
            );
        }
    }
}
