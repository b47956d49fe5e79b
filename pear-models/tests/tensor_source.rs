//! Safetensors checkpoints, read by name and range.

use std::fs;
use std::path::Path;

use half::{bf16, f16};
use pear_models::{Error, SafetensorsCheckpoint, TensorSource};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

const INDEX: &str = "model.safetensors.index.json";

fn write(path: &Path, tensors: &[(&str, Dtype, &[usize], Vec<u8>)]) {
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        (
            *name,
            TensorView::new(*dtype, shape.to_vec(), bytes).unwrap(),
        )
    });
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// Two shards: `single` and `half` in one, `brain` and `count` in the other, with a tensor that the index does not know.
fn sharded() -> (tempfile::TempDir, SafetensorsCheckpoint) {
    let folder = tempfile::tempdir().unwrap();
    let single = (0..6).flat_map(|i| (i as f32 + 0.1).to_le_bytes());
    let half = (0..6).flat_map(|i| f16::from_f32(-(i as f32) / 3.0).to_le_bytes());
    let brain = (0..4).flat_map(|i| bf16::from_f32(i as f32 * 1e9).to_le_bytes());
    let count = (0..2).flat_map(i32::to_le_bytes);
    write(
        &folder.path().join("a.safetensors"),
        &[
            ("single", Dtype::F32, &[3, 2], single.collect()),
            ("half", Dtype::F16, &[2, 3], half.collect()),
        ],
    );
    write(
        &folder.path().join("b.safetensors"),
        &[
            ("brain", Dtype::BF16, &[4], brain.collect()),
            ("count", Dtype::I32, &[2], count.collect()),
            ("stray", Dtype::F32, &[1], vec![0; 4]),
        ],
    );
    let index = serde_json::json!({"weight_map": {
        "single": "a.safetensors", "half": "a.safetensors", "brain": "b.safetensors", "count": "b.safetensors",
    }});
    fs::write(folder.path().join(INDEX), index.to_string()).unwrap();
    let checkpoint = SafetensorsCheckpoint::open(folder.path()).unwrap();
    (folder, checkpoint)
}

#[test]
fn tensors_of_all_shards_are_listed_with_shape_and_type() {
    let (_folder, checkpoint) = sharded();
    let source: &dyn TensorSource = &checkpoint;
    let names: Vec<_> = source.names().collect();
    assert_eq!(names, ["brain", "count", "half", "single"]);
    for (name, shape, dtype, num_bytes) in [
        ("single", &[3, 2][..], "F32", 24),
        ("half", &[2, 3], "F16", 12),
        ("brain", &[4], "BF16", 8),
        ("count", &[2], "I32", 8),
    ] {
        let info = source.info(name).unwrap();
        assert_eq!(
            (&info.shape[..], info.dtype.to_string(), info.num_bytes),
            (shape, dtype.to_owned(), num_bytes)
        );
        assert_eq!(info.dtype.is_readable(), name != "count");
    }
    assert_eq!(source.info("stray"), None);
}

#[test]
fn rows_of_each_type_are_read_from_their_shard_in_each_type() {
    let (_folder, source) = sharded();
    let mut wide = [0f32; 4];
    source.rows("single", 1..3, (&mut wide[..]).into()).unwrap();
    assert_eq!(wide, [2.1, 3.1, 4.1, 5.1]);
    let mut brain = [bf16::ZERO; 4];
    source
        .rows("single", 1..3, (&mut brain[..]).into())
        .unwrap();
    assert_eq!(brain, wide.map(bf16::from_f32));

    let mut half = [f16::ZERO; 3];
    source.rows("half", 1..2, (&mut half[..]).into()).unwrap();
    assert_eq!(half, [3., 4., 5.].map(|i: f32| f16::from_f32(-i / 3.0)));
    let mut wide = [0f32; 3];
    source.rows("half", 1..2, (&mut wide[..]).into()).unwrap();
    assert_eq!(wide, half.map(f16::to_f32));

    let mut brain = [bf16::ZERO; 2];
    source.read("brain", 1..3, (&mut brain[..]).into()).unwrap();
    assert_eq!(brain, [1e9, 2e9].map(bf16::from_f32));
    let mut half = [f16::ZERO; 2];
    source.read("brain", 0..2, (&mut half[..]).into()).unwrap();
    assert_eq!(half, [f16::ZERO, f16::INFINITY]);
}

#[test]
fn raw_bytes_are_those_of_the_file_and_are_there_again_after_release() {
    let (_folder, source) = sharded();
    let expected: Vec<u8> = (0..6)
        .flat_map(|i| (i as f32 + 0.1).to_le_bytes())
        .collect();
    assert_eq!(source.raw("single"), [&expected[..]]);
    source.release("single");
    source.release("absent");
    assert_eq!(source.raw("single"), [&expected[..]]);
    assert!(source.raw("absent").is_empty());
}

#[test]
fn errors_name_file_and_tensor() {
    let (folder, source) = sharded();
    let mut three = [0f32; 3];
    for (name, range, file, problem) in [
        ("absent", 0..3, "", "is not in the checkpoint"),
        (
            "count",
            0..3,
            "b.safetensors",
            "is I32, expected F32, F16 or BF16",
        ),
        ("half", 4..7, "a.safetensors", "numbers 4..7 of [2, 3]"),
        (
            "brain",
            0..2,
            "b.safetensors",
            "a buffer of 3 for the numbers 0..2: expected 2",
        ),
        (
            "brain",
            usize::MAX - 3..usize::MAX,
            "b.safetensors",
            "numbers 184",
        ),
    ] {
        let error = source
            .read(name, range, (&mut three[..]).into())
            .unwrap_err();
        let Error::Tensor { path, .. } = &error else {
            panic!("{error:?}");
        };
        assert_eq!(
            *path,
            if file.is_empty() {
                folder.path().to_path_buf()
            } else {
                folder.path().join(file)
            }
        );
        let message = error.to_string();
        assert!(
            message.contains(&format!("tensor `{name}`: {problem}")),
            "{message}"
        );
    }
}

#[test]
fn threads_read_from_one_source() {
    let (_folder, source) = sharded();
    let read = || {
        let mut wide = [0f32; 6];
        source.rows("half", 0..2, (&mut wide[..]).into()).unwrap();
        wide
    };
    let (here, there) = std::thread::scope(|scope| {
        let there = scope.spawn(read);
        (read(), there.join().unwrap())
    });
    assert_eq!(here, there);
    assert_eq!(here[3], -1.0);
}
