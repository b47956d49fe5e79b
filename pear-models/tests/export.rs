//! The folded directory: what changes, what does not, and that it is the re-weighted model.

mod common;

use std::fs;
use std::path::Path;

use burn::prelude::*;
use burn::tensor::DType;
use common::{distance, expected, fixtures, names, open};
use pear_core::{HeadCoefficients, HeadId, ModelShape, Profile};
use pear_models::{ModelDirectory, log_probs};
use safetensors::SafeTensors;

fn profile(shape: &ModelShape, pairs: &[(HeadId, f32)]) -> Profile {
    let coefficients = HeadCoefficients::new(pairs, shape, &Device::flex()).unwrap();
    Profile::new(&coefficients, None).unwrap()
}

fn export(directory: &ModelDirectory, pairs: &[(HeadId, f32)], out: &Path) {
    directory
        .export(&profile(&directory.shape(), pairs), out)
        .unwrap();
}

fn is_output_projection(name: &str) -> bool {
    [
        "o_proj.weight",
        "out_proj.weight",
        "attn.c_proj.weight",
        "attention.dense.weight",
        "attn.dense.weight",
    ]
    .iter()
    .any(|end| name.ends_with(end))
}

#[test]
fn folded_directories_compute_what_the_re_weighted_model_does() {
    for name in names() {
        let (directory, expected) = (open(&name), expected(&name));
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("folded");
        export(&directory, &expected.reweighted.pairs(), &out);
        let folded = ModelDirectory::open(&out)
            .unwrap()
            .load(&Device::flex(), DType::F32)
            .unwrap();
        let prompt = expected.prompts.iter().find(|p| p.len() == 33).unwrap();
        let error = distance(
            &log_probs(&folded, prompt).unwrap(),
            &expected.reweighted.log_probs,
        );
        // Half-precision checkpoints round the folded weights once more; f32 ones do not.
        let in_f32 = ["llama-2", "gpt2", "bloom"].contains(&name.as_str());
        assert!(error < if in_f32 { 1e-4 } else { 0.03 }, "{name}: {error}");
    }
}

#[test]
fn every_other_tensor_and_file_stays_byte_for_byte() {
    for name in names() {
        let (directory, expected) = (open(&name), expected(&name));
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("folded");
        export(&directory, &expected.reweighted.pairs(), &out);
        let touched: Vec<usize> = expected
            .reweighted
            .pairs()
            .iter()
            .map(|(head, _)| head.layer)
            .collect();
        let mut changed = 0;
        for file in fs::read_dir(directory.path())
            .unwrap()
            .map(|file| file.unwrap().file_name())
        {
            let (before, after) = (
                fs::read(directory.path().join(&file)).unwrap(),
                fs::read(out.join(&file)).unwrap(),
            );
            if !file.to_string_lossy().ends_with(".safetensors") {
                assert_eq!(before, after, "{name}/{file:?}");
                continue;
            }
            assert_eq!(before.len(), after.len());
            let (before, after) = (
                SafeTensors::deserialize(&before).unwrap(),
                SafeTensors::deserialize(&after).unwrap(),
            );
            for (tensor, was) in before.iter() {
                let is = after.tensor(tensor).unwrap();
                assert_eq!((was.dtype(), was.shape()), (is.dtype(), is.shape()));
                if was.data() != is.data() {
                    let layer = tensor
                        .split('.')
                        .find_map(|part| part.parse::<usize>().ok())
                        .unwrap();
                    assert!(
                        is_output_projection(tensor) && touched.contains(&layer),
                        "{name}: `{tensor}` changed"
                    );
                    changed += 1;
                }
            }
        }
        let distinct: std::collections::BTreeSet<_> = touched.into_iter().collect();
        assert_eq!(changed, distinct.len(), "{name}");
    }
}

#[test]
fn only_the_channels_of_the_re_weighted_head_change_in_either_layout() {
    for (name, tensor, transposed) in [
        ("gpt2", "transformer.h.1.attn.c_proj.weight", false),
        ("llama-2", "model.layers.1.self_attn.o_proj.weight", true),
    ] {
        let directory = open(name);
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("folded");
        export(&directory, &[(HeadId::new(1, 4), 0.25)], &out);
        let read = |path: &Path| {
            let bytes = fs::read(path.join("model.safetensors")).unwrap();
            let tensors = SafeTensors::deserialize(&bytes).unwrap();
            let data = tensors.tensor(tensor).unwrap().data().to_vec();
            data.chunks(4)
                .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
                .collect::<Vec<_>>()
        };
        let (before, after) = (read(directory.path()), read(&out));
        let (width, head_dim) = (48, directory.config().layers[0].attention.head_dim);
        for (index, (was, is)) in before.iter().zip(&after).enumerate() {
            let input = if transposed {
                index % width
            } else {
                index / width
            };
            let factor = if input / head_dim == 4 { 0.25 } else { 1.0 };
            assert_eq!(was * factor, *is, "{name}, {index}");
        }
    }
}

#[test]
fn nothing_is_written_where_something_stands_or_heads_do_not_exist() {
    let directory = open("llama-2");
    let folder = tempfile::tempdir().unwrap();
    let wide = ModelShape::new("llama", 64, 64);
    let of_shape = |shape: &ModelShape, head| profile(shape, &[(head, 0.5)]);
    let one = |head| of_shape(&directory.shape(), head);
    let out = folder.path().join("absent");
    let error = directory
        .export(&of_shape(&wide, HeadId::new(0, 6)), &out)
        .unwrap_err()
        .to_string();
    assert!(error.contains("made for llama with 64 layers"), "{error}");
    assert!(!out.exists());

    for within in [
        directory.path().to_path_buf(),
        directory.path().join("new/folded"),
    ] {
        assert!(
            directory.export(&one(HeadId::new(0, 1)), &within).is_err(),
            "{within:?}"
        );
    }
    assert!(!directory.path().join("new").exists());

    let taken = folder.path().join("taken");
    fs::create_dir(&taken).unwrap();
    fs::write(taken.join("config.json"), "mine").unwrap();
    let error = directory
        .export(&one(HeadId::new(0, 1)), &taken)
        .unwrap_err()
        .to_string();
    assert!(error.contains("taken: exists already"), "{error}");
    assert_eq!(
        fs::read_to_string(taken.join("config.json")).unwrap(),
        "mine"
    );
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().count(),
        1,
        "something was left behind"
    );
}

#[test]
fn coefficients_that_are_no_numbers_listed_twice_or_too_large_for_the_weights_write_nothing() {
    // Weights in f16.
    let directory = open("baichuan-13b");
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("absent");
    let head = HeadId::new(1, 2);
    let good = profile(&directory.shape(), &[(HeadId::new(0, 0), 0.5), (head, 0.6)]);
    let mut not_a_number = good.clone();
    not_a_number.coefficients[1].value = f32::NAN;
    let mut twice = good.clone();
    twice.coefficients[0].head = head;
    let mut too_large = good;
    too_large.coefficients[1].value = 1e9;
    for (profile, expected) in [
        (not_a_number, "the coefficient of head 1.2 is NaN"),
        (twice, "head 1.2 is listed twice"),
        (
            too_large,
            "tensor `model.layers.1.self_attn.o_proj.weight`: head 1.2: ",
        ),
    ] {
        let error = directory.export(&profile, &out).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_that_cannot_be_copied_is_the_one_that_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    fs::create_dir(&model).unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(fixtures().join("llama-2").join(file), model.join(file)).unwrap();
    }
    // Can be opened, but its first page cannot be read.
    std::os::unix::fs::symlink("/proc/self/mem", model.join("notes.txt")).unwrap();
    let directory = ModelDirectory::open(&model).unwrap();
    let profile = profile(&directory.shape(), &[(HeadId::new(0, 1), 0.5)]);
    let out = folder.path().join("out");
    let error = directory.export(&profile, &out).unwrap_err().to_string();
    assert!(error.contains("model/notes.txt: cannot read"), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}
