//! Quantised checkpoints that are broken, hostile or of a kind that cannot be read: one clear line, never a panic.

mod common;

use std::collections::BTreeMap;
use std::fs;

use common::fixtures;
use pear_models::ModelDirectory;
use safetensors::tensor::{TensorView, serialize_to_file};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Type, shape and bytes of a tensor.
type Contents = (Dtype, Vec<usize>, Vec<u8>);

/// A copy of a fixture to be broken.
struct Copy(TempDir);

impl Copy {
    fn of(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let entries = fs::read_dir(fixtures().join("quantized").join(name)).unwrap();
        for entry in entries.map(|entry| entry.unwrap()) {
            fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
        Self(folder)
    }

    fn json(self, file: &str, change: impl FnOnce(&mut Value)) -> Self {
        let path = self.0.path().join(file);
        let mut value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut value);
        fs::write(path, value.to_string()).unwrap();
        self
    }

    fn settings(self, change: impl FnOnce(&mut Value)) -> Self {
        self.json("config.json", |config| {
            change(&mut config["quantization_config"])
        })
    }

    fn tensors(self, change: impl FnOnce(&mut BTreeMap<String, Contents>)) -> Self {
        let path = self.0.path().join("model.safetensors");
        let bytes = fs::read(&path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let mut tensors = file
            .iter()
            .map(|(name, view)| {
                let contents = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
                (name.to_owned(), contents)
            })
            .collect();
        change(&mut tensors);
        let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
            (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
        });
        serialize_to_file(views, None, &path).unwrap();
        self
    }

    fn without(self, tensor: &str) -> Self {
        self.tensors(|tensors| assert!(tensors.remove(&of_o_proj(tensor)).is_some()))
    }

    /// Gives a tensor another type and shape, its bytes all zero.
    fn with(self, tensor: &str, dtype: Dtype, shape: &[usize]) -> Self {
        let bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
        self.with_bytes(tensor, dtype, shape, vec![0; bytes])
    }

    fn with_bytes(self, tensor: &str, dtype: Dtype, shape: &[usize], bytes: Vec<u8>) -> Self {
        self.tensors(|tensors| {
            tensors.insert(of_o_proj(tensor), (dtype, shape.to_vec(), bytes));
        })
    }

    fn refused(&self, expected: &[&str]) {
        let error = ModelDirectory::open(self.0.path())
            .expect_err("opened")
            .to_string();
        assert!(!error.contains('\n'), "{error}");
        assert!(error.len() < 700, "{} bytes of message", error.len());
        for part in expected {
            assert!(error.contains(part), "`{part}` is not in: {error}");
        }
    }
}

fn of_o_proj(tensor: &str) -> String {
    format!("model.layers.0.self_attn.o_proj.{tensor}")
}

fn integers(numbers: impl IntoIterator<Item = i32>) -> Vec<u8> {
    numbers.into_iter().flat_map(i32::to_le_bytes).collect()
}

#[test]
fn formats_and_variants_that_cannot_be_read_say_what_to_do() {
    for method in [
        "aqlm",
        "hqq",
        "quip",
        "eetq",
        "exl2",
        "torchao",
        "mxfp4",
        "auto-round",
    ] {
        Copy::of("awq")
            .settings(|settings| settings["quant_method"] = json!(method))
            .refused(&[
                "config.json: `quantization_config.quant_method`: ",
                &format!("is `{method}`"),
                "use the original checkpoint",
            ]);
    }
    for (fixture, key, value, expected) in [
        (
            "gptq-dynamic",
            "bits",
            json!(5),
            "is 5: expected 2, 3, 4 or 8",
        ),
        (
            "gptq-dynamic",
            "bits",
            json!("four"),
            "is not a whole number",
        ),
        ("gptq-dynamic", "bits", Value::Null, "is missing"),
        (
            "gptq-dynamic",
            "group_size",
            json!(0),
            "is 0: expected a positive number or -1",
        ),
        (
            "gptq-dynamic",
            "checkpoint_format",
            json!("marlin"),
            "repacked",
        ),
        ("gptq-dynamic", "is_marlin_format", json!(true), "repacked"),
        ("awq", "bits", json!(8), "is 8: expected 4"),
        (
            "awq",
            "version",
            json!("gemv_fast"),
            "expected gemm or gemv",
        ),
        (
            "fp8-blocks",
            "weight_block_size",
            json!([0, 64]),
            "two positive numbers",
        ),
        (
            "fp8-blocks",
            "weight_block_size",
            json!(64),
            "two positive numbers",
        ),
        (
            "packed-int4",
            "format",
            json!("marlin-24"),
            "is `marlin-24`: expected pack-quantized",
        ),
        (
            "packed-int4",
            "format",
            json!("nvfp4-pack-quantized"),
            "expected pack-quantized",
        ),
        (
            "packed-int4",
            "transform_config",
            json!({"config_groups": {"R1": {}}}),
            "rotated",
        ),
        ("packed-int4", "config_groups", Value::Null, "is missing"),
        (
            "packed-int4",
            "config_groups",
            json!({}),
            "holds no scheme for `model.layers.0.",
        ),
    ] {
        Copy::of(fixture)
            .settings(|settings| settings[key] = value)
            .refused(&["config.json: `quantization_config.", key, expected]);
    }
    Copy::of("packed-int4")
        .settings(|settings| settings["sparsity_config"] = json!({"format": "sparse-24-bitmask"}))
        .refused(&[
            "`quantization_config.sparsity_config.format`",
            "is `sparse-24-bitmask`",
        ]);
    Copy::of("packed-int4")
        .settings(|settings| {
            settings["config_groups"]["group_0"]["targets"] = json!(["re:(?<=x)y"])
        })
        .refused(&[
            "config_groups.group_0.targets`: ",
            "pattern that cannot be read",
        ]);
    Copy::of("packed-int4")
        .json("config.json", |config| {
            config["quantization_config"] = json!([4])
        })
        .refused(&["`quantization_config`: is not an object"]);
}

#[test]
fn settings_that_no_tensor_bears_out_are_refused_and_an_old_file_of_them_is_not() {
    let plain = || {
        Copy::of("awq").tensors(|tensors| {
            tensors.retain(|name, _| !name.contains("_proj."));
            for (name, shape) in [
                ("self_attn.q_proj", [256, 64]),
                ("self_attn.k_proj", [64, 64]),
                ("self_attn.v_proj", [64, 64]),
                ("self_attn.o_proj", [64, 256]),
                ("mlp.gate_proj", [96, 64]),
                ("mlp.up_proj", [96, 64]),
                ("mlp.down_proj", [64, 96]),
            ] {
                let bytes = vec![0; shape[0] * shape[1] * 2];
                tensors.insert(
                    format!("model.layers.0.{name}.weight"),
                    (Dtype::F16, shape.into(), bytes),
                );
            }
        })
    };
    plain().refused(&[
        "config.json: `quantization_config`: ",
        "no tensor in",
        "remove this key",
    ]);
    let old = plain().json("config.json", |config| {
        let settings = config
            .as_object_mut()
            .unwrap()
            .remove("quantization_config");
        assert!(settings.is_some());
    });
    fs::write(
        old.0.path().join("quantize_config.json"),
        r#"{"bits": 4, "group_size": 128}"#,
    )
    .unwrap();
    ModelDirectory::open(old.0.path()).unwrap();
    // The weights of one format under the settings of another.
    Copy::of("awq")
        .settings(|settings| settings["quant_method"] = json!("gptq"))
        .refused(&["qzeros", "words"]);
    Copy::of("awq")
        .settings(|settings| settings["quant_method"] = json!("bitsandbytes"))
        .refused(&["`quantization_config`: ", "no tensor in"]);
    Copy::of("fp8-tensor")
        .json("config.json", |config| {
            config
                .as_object_mut()
                .unwrap()
                .remove("quantization_config");
        })
        .refused(&["is F8_E4M3, expected F32, F16 or BF16"]);
}

#[test]
fn tensors_that_are_missing_or_misshapen_are_named() {
    use Dtype::{BF16, F16, F32, I8, I32, I64, U8};
    for (fixture, missing) in [
        ("gptq-dynamic", "qzeros"),
        ("gptq-dynamic", "scales"),
        ("awq", "scales"),
        ("awq-gemv", "qzeros"),
        ("fp8-blocks", "weight_scale_inv"),
        ("fp8-tensor", "weight_scale"),
        ("packed-int4", "weight_shape"),
        ("packed-int4", "weight_scale"),
        ("packed-int4-zeros", "weight_zero_point"),
        ("nf4", "weight.absmax"),
        ("nf4", "weight.quant_map"),
        ("llm-int8", "SCB"),
    ] {
        let expected = format!("`{}`: is missing", of_o_proj(missing));
        Copy::of(fixture).without(missing).refused(&[&expected]);
    }
    for (fixture, tensor, dtype, shape, expected) in [
        (
            "gptq-dynamic",
            "qweight",
            F16,
            &[32, 64][..],
            "is F16, expected I32",
        ),
        (
            "gptq-dynamic",
            "qweight",
            I32,
            &[32, 0],
            "expected a matrix",
        ),
        (
            "gptq-dynamic",
            "qweight",
            I32,
            &[2048],
            "is [2048], expected a matrix",
        ),
        (
            "gptq-dynamic",
            "qzeros",
            I32,
            &[8, 9],
            "has 9 words for 64 zeros: expected 8",
        ),
        (
            "gptq-dynamic",
            "qzeros",
            I32,
            &[8, 16],
            "g_idx`: is [256], expected [128]",
        ),
        (
            "gptq-dynamic",
            "scales",
            F16,
            &[8, 63],
            "is [8, 63], expected [8, 64]",
        ),
        (
            "gptq-dynamic",
            "scales",
            I64,
            &[8, 64],
            "is I64, expected F16, BF16, F32",
        ),
        (
            "gptq-dynamic",
            "g_idx",
            I32,
            &[255],
            "is [255], expected [256]",
        ),
        ("awq", "qzeros", I32, &[8, 9], "is [8, 9], expected [8, 8]"),
        (
            "awq",
            "scales",
            F16,
            &[7, 64],
            "is [7, 64], expected [8, 64]",
        ),
        (
            "awq-gemv",
            "qzeros",
            I32,
            &[63, 4],
            "is [63, 4], expected [64, 4]",
        ),
        (
            "fp8-blocks",
            "weight_scale_inv",
            F32,
            &[1, 3],
            "is [1, 3], expected [1, 4]",
        ),
        (
            "fp8-blocks",
            "weight_scale_inv",
            F32,
            &[],
            "is [], expected one scale for each block of [64, 64]",
        ),
        (
            "fp8-tensor",
            "weight_scale",
            F32,
            &[3, 3],
            "there is no `weight_block_size`",
        ),
        (
            "packed-int4",
            "weight_packed",
            I32,
            &[64, 33],
            "but `weight_packed` is [64, 33]",
        ),
        (
            "packed-int4",
            "weight_shape",
            I64,
            &[3],
            "is [3], expected [2]",
        ),
        (
            "packed-int4",
            "weight_scale",
            BF16,
            &[64, 9],
            "is [64, 9], expected [64, 8]",
        ),
        (
            "packed-int4-zeros",
            "weight_zero_point",
            I32,
            &[9, 8],
            "is [9, 8], expected [8, 8]",
        ),
        (
            "packed-int4-act-order",
            "weight_g_idx",
            I32,
            &[1],
            "is [1], expected [256]",
        ),
        (
            "float-quantized",
            "weight_scale",
            BF16,
            &[2],
            "is [2], expected [1, 1]",
        ),
        (
            "float-quantized",
            "weight",
            I8,
            &[64, 256],
            "is I8, expected F8_E4M3",
        ),
        (
            "nf4",
            "weight",
            U8,
            &[8191, 1],
            "of 8191 bytes: too many or too few",
        ),
        (
            "nf4",
            "weight.absmax",
            F32,
            &[255],
            "is [255], expected [256]",
        ),
        ("nf4", "weight.absmax", U8, &[256], "is U8, expected F32"),
        (
            "nf4",
            "weight.quant_map",
            F32,
            &[15],
            "is [15], expected [16]",
        ),
        ("llm-int8", "SCB", F32, &[63], "is [63], expected [64]"),
    ] {
        Copy::of(fixture)
            .with(tensor, dtype, shape)
            .refused(&["model.safetensors: tensor `", expected]);
    }
}

#[test]
fn numbers_within_tensors_that_point_elsewhere_are_refused() {
    let count = 256;
    for (fixture, tensor) in [
        ("gptq-dynamic", "g_idx"),
        ("packed-int4-act-order", "weight_g_idx"),
    ] {
        for outside in [8, -1, i32::MAX, i32::MIN] {
            let indices =
                integers((0..count).map(|input| if input == 77 { outside } else { input / 32 }));
            Copy::of(fixture)
                .with_bytes(tensor, Dtype::I32, &[256], indices)
                .refused(&[&format!("names group {outside}, but there are 8")]);
        }
    }
    let reversed = || integers((0..count).map(|input| 3 - input / 64));
    let copy = || Copy::of("gptq-act-order").with_bytes("g_idx", Dtype::I32, &[256], reversed());
    ModelDirectory::open(copy().0.path()).unwrap();
    copy()
        .settings(|settings| settings["desc_act"] = json!(false))
        .refused(&["g_idx`: does not number groups in order, though `desc_act` is false"]);
    Copy::of("gptq-act-order")
        .without("g_idx")
        .refused(&["g_idx`: is missing, though `desc_act` is true"]);
    let shape = |sizes: [i64; 2]| sizes.into_iter().flat_map(i64::to_le_bytes).collect();
    for sizes in [
        [64, 257],
        [63, 256],
        [64, 0],
        [64, -256],
        [i64::MAX, i64::MAX],
        [1 << 40, 1 << 40],
    ] {
        Copy::of("packed-int4")
            .with_bytes("weight_shape", Dtype::I64, &[2], shape(sizes))
            .refused(&["weight_shape`: says [", "`weight_packed` is [64, 32]"]);
    }
    for (state, expected) in [
        (
            json!({"blocksize": 0, "shape": [64, 256]}),
            "has blocks of 0",
        ),
        (
            json!({"blocksize": 64, "shape": [64, 257]}),
            "too many or too few",
        ),
        (
            json!({"blocksize": 64, "shape": [1u64 << 40, 1u64 << 40]}),
            "too many or too few",
        ),
        (
            json!({"blocksize": 64, "shape": [16384]}),
            "expected a matrix",
        ),
        (
            json!({"blocksize": 32, "shape": [64, 256]}),
            "is [256], expected [512]",
        ),
        (
            json!({"blocksize": 64, "shape": [64, 0]}),
            "too many or too few",
        ),
        (
            json!({"blocksize": -64, "shape": [64, 256]}),
            "is not the JSON",
        ),
        (
            json!({"blocksize": 64, "shape": [64, 256], "nested_blocksize": 0, "nested_offset": 0.1}),
            "has blocks of 0",
        ),
        (json!([]), "is not the JSON"),
    ] {
        let bytes = state.to_string().into_bytes();
        Copy::of("nf4")
            .with_bytes(
                "weight.quant_state.bitsandbytes__nf4",
                Dtype::U8,
                &[bytes.len()],
                bytes,
            )
            .refused(&["o_proj.weight", expected]);
    }
    Copy::of("llm-int8")
        .with_bytes("weight_format", Dtype::U8, &[], vec![1])
        .refused(&["weight_format`: is not 0"]);
}

#[test]
fn a_lying_group_size_is_refused_with_the_number_of_groups() {
    for (fixture, size, expected) in [
        ("awq", 16, "is [3, 8], expected [6, 8]"),
        ("awq", 1, "is [3, 8], expected [96, 8]"),
        ("awq-gemv", 1, "too few for 96 groups of 1"),
        ("awq", i64::MAX, "is [3, 8], expected [1, 8]"),
    ] {
        Copy::of(fixture)
            .settings(|settings| settings["group_size"] = json!(size))
            .refused(&["mlp.down_proj.qzeros`: ", expected]);
    }
    Copy::of("gptq-dynamic")
        .settings(|settings| {
            settings["group_size"] = json!(64);
            settings["dynamic"] = json!({});
        })
        .refused(&["down_proj.qzeros`: has 4 words for 64 zeros: expected 8"]);
    Copy::of("packed-int4")
        .settings(|settings| {
            settings["config_groups"]["group_0"]["weights"]["group_size"] = json!(64)
        })
        .refused(&["weight_scale`: is ["]);
}
