//! Position embeddings against transformers (see `fixtures/README.md`).

use std::path::Path;

use burn::prelude::*;
use pear_core::Positions;
use pear_core::position::{
    PositionEmbedding, PositionEmbeddingConfig, RelativeConfig, RotaryConfig, RotaryLayout,
    RotaryScaling, SinusoidalConfig, SinusoidalLayout, alibi_slopes, relative_bucket,
};
use serde_json::Value;

fn fixture(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// All numbers of a nested list.
fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(list) => list.iter().flat_map(numbers).collect(),
        number => vec![number.as_f64().unwrap()],
    }
}

fn assert_close(
    ours: impl IntoIterator<Item = f64>,
    reference: &Value,
    tolerance: f64,
    what: &str,
) {
    let (ours, reference): (Vec<_>, _) = (ours.into_iter().collect(), numbers(reference));
    assert_eq!(ours.len(), reference.len(), "{what}");
    for (i, (a, b)) in ours.iter().zip(&reference).enumerate() {
        assert!(
            (a - b).abs() <= tolerance * b.abs().max(1.0),
            "{what}[{i}]: {a}, expected {b}"
        );
    }
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().iter::<f64>().collect()
}

fn init(config: PositionEmbeddingConfig) -> PositionEmbedding {
    config.init(&Device::flex()).unwrap()
}

#[test]
fn alibi_slopes_are_those_of_bloom_and_mpt_for_any_number_of_heads() {
    let fixture = fixture("alibi_slopes.json");
    for case in fixture["bloom"].as_array().unwrap() {
        let heads = case["heads"].as_u64().unwrap() as usize;
        let ours = alibi_slopes(heads, 8.0).into_iter().map(f64::from);
        assert_close(
            ours,
            &case["slopes"],
            1e-7,
            &format!("bloom, {heads} heads"),
        );
    }
    for case in fixture["mpt"].as_array().unwrap() {
        let (heads, max) = (
            case["heads"].as_u64().unwrap() as usize,
            case["alibi_bias_max"].as_f64().unwrap(),
        );
        // Both rules give a head the same slope when the largest exponent is 8, which it is in every released checkpoint.
        if max == 8.0 {
            let ours = alibi_slopes(heads, max).into_iter().map(f64::from);
            assert_close(
                ours,
                &case["slopes"],
                1e-7,
                &format!("mpt, {heads} heads, {max}"),
            );
        }
    }
}

#[test]
fn alibi_bias_falls_with_distance_and_follows_a_cache() {
    let alibi = init(PositionEmbeddingConfig::Alibi {
        num_heads: 3,
        max_bias: 8.0,
    });
    let device = Device::flex();
    let whole = alibi.score_bias(0..6, 0..6, &device).unwrap();
    let later = alibi.score_bias(4..6, 0..6, &device).unwrap();
    assert_eq!(
        values(whole.clone().slice([0..1, 0..3, 4..6, 0..6])),
        values(later)
    );
    let slope = f64::from(alibi_slopes(3, 8.0)[2]);
    assert_eq!(
        values(whole.slice([0..1, 2..3, 5..6, 0..6])),
        [-5.0, -4.0, -3.0, -2.0, -1.0, 0.0].map(|d| d * slope)
    );
}

#[test]
fn rotation_is_that_of_transformers_in_both_layouts_full_and_partial() {
    let fixture = fixture("rotary.json");
    let q = numbers(&fixture["q"])
        .into_iter()
        .map(|x| x as f32)
        .collect::<Vec<_>>();
    let q = Tensor::<4>::from_data(TensorData::new(q, [1, 2, 12, 16]), &Device::flex());
    let partial = fixture["partial_rotary_dim"].as_u64().unwrap() as usize;
    for case in fixture["rotated"].as_array().unwrap() {
        let start = case["start"].as_u64().unwrap() as usize;
        let kinds = [
            ("half_split", 16, RotaryLayout::HalfSplit),
            ("interleaved", 16, RotaryLayout::Interleaved),
            ("partial_half_split", partial, RotaryLayout::HalfSplit),
            ("partial_interleaved", partial, RotaryLayout::Interleaved),
        ];
        for (name, rotary_dim, layout) in kinds {
            let config = RotaryConfig {
                layout,
                ..RotaryConfig::new(rotary_dim, fixture["rope_theta"].as_f64().unwrap())
            };
            let rotary = init(PositionEmbeddingConfig::Rotary(config));
            let ours = values(rotary.rotate(q.clone(), Positions::after(start, 12)));
            assert_close(ours, &case[name], 2e-6, &format!("{name} from {start}"));
        }
    }
}

#[test]
fn frequencies_are_those_of_transformers_for_every_scaling() {
    let fixture = fixture("rotary.json");
    for case in fixture["frequencies"].as_array().unwrap() {
        let given = &case["rope_scaling"];
        let number = |key: &str| given[key].as_f64();
        let max_positions = case["max_position_embeddings"].as_u64().unwrap() as usize;
        let original = given["original_max_position_embeddings"]
            .as_u64()
            .map_or(max_positions, |n| n as usize);
        let factor = number("factor").unwrap_or(1.0);
        let scaling = match given["rope_type"].as_str().unwrap_or("default") {
            "default" => RotaryScaling::None,
            "linear" => RotaryScaling::Linear { factor },
            "dynamic" => RotaryScaling::DynamicNtk {
                factor,
                original_max_position_embeddings: max_positions,
            },
            "yarn" => RotaryScaling::Yarn {
                factor,
                original_max_position_embeddings: original,
                beta_fast: number("beta_fast").unwrap_or(32.0),
                beta_slow: number("beta_slow").unwrap_or(1.0),
                attention_factor: number("attention_factor").unwrap_or_else(|| {
                    RotaryScaling::yarn_attention_factor(
                        factor,
                        number("mscale"),
                        number("mscale_all_dim"),
                    )
                }),
                truncate: given["truncate"].as_bool().unwrap_or(true),
            },
            "llama3" => RotaryScaling::Llama3 {
                factor,
                low_freq_factor: number("low_freq_factor").unwrap(),
                high_freq_factor: number("high_freq_factor").unwrap(),
                original_max_position_embeddings: original,
            },
            other => panic!("unknown kind {other}"),
        };
        let head_dim = case["head_dim"].as_u64().unwrap() as usize;
        let config = RotaryConfig {
            scaling,
            ..RotaryConfig::new(head_dim, case["rope_theta"].as_f64().unwrap())
        };
        let total = case["seq_len"].as_u64().map_or(0, |n| n as usize);
        let (ours, reference) = (
            config.inverse_frequencies(total),
            numbers(&case["inv_freq"]),
        );
        assert_eq!(ours.len(), reference.len());
        for (ours, reference) in ours.into_iter().zip(reference) {
            assert!(
                (f64::from(ours) - reference).abs() <= 1e-6 * reference,
                "{given}: {ours}, expected {reference}"
            );
        }
        let attention = case["attention_scaling"].as_f64().unwrap();
        assert!(
            (config.attention_scaling() - attention).abs() < 1e-7,
            "{given}"
        );
    }
}

#[test]
fn rotary_tables_survive_growth_shrinking_and_changes_of_dtype() {
    let fresh = |start: usize, dtype| {
        let rotary = init(PositionEmbeddingConfig::Rotary(RotaryConfig::new(
            8, 10000.0,
        )));
        let x = Tensor::<4>::ones([1, 1, 3, 8], (&Device::flex(), dtype));
        values(rotary.rotate(x, Positions::after(start, 3)))
    };
    let kept = init(PositionEmbeddingConfig::Rotary(RotaryConfig::new(
        8, 10000.0,
    )));
    use burn::tensor::DType::{BF16, F32};
    for (start, dtype) in [(0, F32), (500, F32), (2, BF16), (62, F32), (63, BF16)] {
        let x = Tensor::<4>::ones([1, 1, 3, 8], (&Device::flex(), dtype));
        assert_eq!(
            values(kept.rotate(x, Positions::after(start, 3))),
            fresh(start, dtype),
            "from {start} in {dtype:?}"
        );
    }
}

#[test]
fn relative_buckets_and_bias_are_those_of_t5() {
    let fixture = fixture("relative_bias.json");
    let (buckets, distance) = (
        fixture["num_buckets"].as_u64().unwrap() as usize,
        fixture["max_distance"].as_u64().unwrap() as usize,
    );
    for (d, expected) in numbers(&fixture["buckets"]).into_iter().enumerate() {
        assert_eq!(
            relative_bucket(d, buckets, distance) as f64,
            expected,
            "distance {d}"
        );
    }
    let table: Vec<f32> = numbers(&fixture["table"])
        .into_iter()
        .map(|x| x as f32)
        .collect();
    let config = RelativeConfig {
        num_heads: 3,
        num_buckets: buckets,
        max_distance: distance,
    };
    let relative = with_table(
        init(PositionEmbeddingConfig::Relative(config)),
        table,
        [buckets, 3],
    );
    let bias = relative.score_bias(0..10, 0..10, &Device::flex()).unwrap();
    // Only the causal half is ever looked at.
    let reference = numbers(&fixture["bias"]);
    for (i, ours) in values(bias).into_iter().enumerate() {
        let (query, key) = (i / 10 % 10, i % 10);
        assert!(
            key > query || (ours - reference[i]).abs() < 1e-6,
            "query {query}, key {key}: {ours}"
        );
    }
}

#[test]
fn sinusoids_are_those_of_fairseq_and_of_the_paper() {
    let fixture = fixture("sinusoidal.json");
    for (name, layout) in [
        ("half_split", SinusoidalLayout::HalfSplit),
        ("interleaved", SinusoidalLayout::Interleaved),
    ] {
        let positions = init(PositionEmbeddingConfig::Sinusoidal(SinusoidalConfig {
            layout,
            offset: 0,
            width: 10,
        }));
        let added = positions.add(
            Tensor::zeros([1, 21, 10], &Device::flex()),
            Positions::first(21),
        );
        assert_close(values(added.clone()), &fixture[name], 1e-6, name);
        let later = positions.add(
            Tensor::zeros([1, 4, 10], &Device::flex()),
            Positions::after(17, 4),
        );
        assert_eq!(values(later), values(added.narrow(1, 17, 4)));
    }
}

#[test]
fn learned_positions_are_rows_of_their_table() {
    let table: Vec<f32> = (0..12).map(|x| x as f32).collect();
    let learned = with_table(
        init(PositionEmbeddingConfig::Learned {
            num_positions: 6,
            width: 2,
        }),
        table,
        [6, 2],
    );
    let added = learned.add(
        Tensor::zeros([1, 2, 2], &Device::flex()),
        Positions::after(3, 2),
    );
    assert_eq!(values(added), [6.0, 7.0, 8.0, 9.0]);
}

#[test]
fn impossible_sizes_are_refused() {
    let rotary = |config: RotaryConfig| PositionEmbeddingConfig::Rotary(config);
    let refused = [
        rotary(RotaryConfig::new(7, 10000.0)),
        rotary(RotaryConfig::new(0, 10000.0)),
        rotary(RotaryConfig::new(8, f64::NAN)),
        rotary(RotaryConfig {
            scaling: RotaryScaling::Linear { factor: 0.0 },
            ..RotaryConfig::new(8, 10000.0)
        }),
        PositionEmbeddingConfig::Alibi {
            num_heads: 0,
            max_bias: 8.0,
        },
        PositionEmbeddingConfig::Learned {
            num_positions: 0,
            width: 4,
        },
        PositionEmbeddingConfig::Relative(RelativeConfig {
            num_heads: 2,
            num_buckets: 32,
            max_distance: 16,
        }),
        PositionEmbeddingConfig::Sinusoidal(SinusoidalConfig {
            layout: SinusoidalLayout::HalfSplit,
            offset: 0,
            width: 5,
        }),
    ];
    for config in refused {
        assert!(config.init(&Device::flex()).is_err(), "{config:?}");
    }
}

/// The position embedding with this table.
fn with_table(
    embedding: PositionEmbedding,
    table: Vec<f32>,
    shape: [usize; 2],
) -> PositionEmbedding {
    use burn::module::{Module, ModuleMapper, Param};
    struct Set(TensorData);
    impl ModuleMapper for Set {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            Param::initialized(param.id, Tensor::from_data(self.0.clone(), &Device::flex()))
        }
    }
    embedding.map(&mut Set(TensorData::new(table, shape)))
}
