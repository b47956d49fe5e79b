//! Attention against a loop over heads, positions and channels; tracked tensors against plain ones; gradients against differences.

use burn::module::{Module, ModuleMapper, Param};
use burn::prelude::*;
use pear_core::position::{PositionEmbeddingConfig, RotaryConfig};
use pear_core::{
    Attention, AttentionConfig, AttentionScoreConfig, HeadAttention, HeadCoefficients, HeadId,
    ModelShape, Positions, attend, forward,
};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Wide weights, the same in every run.
struct Wide(ChaCha8Rng);

impl Wide {
    fn tensor<const D: usize>(&mut self, shape: [usize; D]) -> Tensor<D> {
        let count = shape.iter().product();
        let values: Vec<f32> = (0..count)
            .map(|_| (self.0.next_u64() >> 40) as f32 / (1 << 23) as f32 - 1.0)
            .collect();
        Tensor::from_data(TensorData::new(values, shape), &Device::flex())
    }
}

impl ModuleMapper for Wide {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let shape: [usize; D] = param.lazy_shape().dims();
        Param::initialized(param.id, self.tensor(shape) * 0.6)
    }
}

fn random<const D: usize>(shape: [usize; D], seed: u64) -> Tensor<D> {
    Wide(ChaCha8Rng::seed_from_u64(seed)).tensor(shape)
}

fn attention(config: &AttentionConfig) -> Attention {
    config
        .init(&Device::flex())
        .unwrap()
        .map(&mut Wide(ChaCha8Rng::seed_from_u64(1)))
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().iter::<f64>().collect()
}

fn close(a: &[f64], b: &[f64], tolerance: f64) -> bool {
    a.len() == b.len()
        && a.iter()
            .zip(b)
            .all(|(a, b)| (a - b).abs() <= tolerance * b.abs().max(1.0))
}

/// 14 query heads on 2 key/value heads, as Qwen2.5-0.5B has.
fn grouped() -> AttentionConfig {
    AttentionConfig {
        head_dim: 5,
        qkv_bias: true,
        output_bias: true,
        ..AttentionConfig::new(12, 14)
    }
    .with_num_key_value_heads(2)
}

/// The definition, one number at a time.
fn by_hand(config: &AttentionConfig, q: &Tensor<4>, k: &Tensor<4>, v: &Tensor<4>) -> Vec<f64> {
    let ([batch, heads, queries, dim], [_, kv_heads, keys, _]) = (q.dims(), k.dims());
    let (qs, ks, vs) = (values(q.clone()), values(k.clone()), values(v.clone()));
    let scale = config.scores.scale.unwrap_or(1.0 / (dim as f64).sqrt());
    let mut out = Vec::new();
    for b in 0..batch {
        for h in 0..heads {
            let kv = h / (heads / kv_heads);
            for i in 0..queries {
                let position = keys - queries + i;
                let first = config
                    .scores
                    .window
                    .map_or(0, |w| (position + 1).saturating_sub(w));
                let row = |x: &[f64], heads: usize, h: usize, len: usize, i: usize| {
                    x[((b * heads + h) * len + i) * dim..][..dim].to_vec()
                };
                let query = row(&qs, heads, h, queries, i);
                let scores: Vec<f64> = (first..=position)
                    .map(|j| {
                        let s = row(&ks, kv_heads, kv, keys, j)
                            .iter()
                            .zip(&query)
                            .map(|(a, b)| a * b)
                            .sum::<f64>()
                            * scale;
                        config
                            .scores
                            .soft_cap
                            .map_or(s, |cap| cap * (s / cap).tanh())
                    })
                    .collect();
                let largest = scores.iter().copied().fold(f64::MIN, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
                let total: f64 = weights.iter().sum();
                for d in 0..dim {
                    let sum: f64 = weights
                        .iter()
                        .enumerate()
                        .map(|(j, w)| w * row(&vs, kv_heads, kv, keys, first + j)[d])
                        .sum();
                    out.push(sum / total);
                }
            }
        }
    }
    out
}

#[test]
fn head_outputs_follow_the_definition_with_groups_windows_caps_and_a_cache() {
    for (window, soft_cap, scale) in [
        (None, None, None),
        (Some(4), None, None),
        (None, Some(2.0), Some(0.7)),
        (Some(1), None, None),
    ] {
        let config = AttentionConfig {
            scores: AttentionScoreConfig {
                scale,
                soft_cap,
                window,
            },
            ..grouped()
        };
        let attention = attention(&config);
        for (queries, keys) in [(7, 7), (3, 9), (1, 9)] {
            let q = random([2, 14, queries, 5], 2) * 3.0;
            let (k, v) = (random([2, 2, keys, 5], 3) * 3.0, random([2, 2, keys, 5], 4));
            let ours = values(attend(&attention, q.clone(), k.clone(), v.clone()));
            assert!(
                close(&ours, &by_hand(&config, &q, &k, &v), 1e-5),
                "{:?}, {queries} of {keys}",
                config.scores
            );
        }
    }
}

#[test]
fn long_sequences_computed_in_tiles_follow_the_definition() {
    for window in [None, Some(300)] {
        let scores = AttentionScoreConfig {
            window,
            ..AttentionScoreConfig::default()
        };
        let config = AttentionConfig {
            head_dim: 4,
            scores,
            ..AttentionConfig::new(8, 2)
        };
        let attention = attention(&config);
        let (q, k, v) = (
            random([1, 2, 700, 4], 2) * 3.0,
            random([1, 2, 720, 4], 3) * 3.0,
            random([1, 2, 720, 4], 4),
        );
        let ours = values(attend(&attention, q.clone(), k.clone(), v.clone()));
        assert!(
            close(&ours, &by_hand(&config, &q, &k, &v), 1e-5),
            "window {window:?}"
        );
    }
}

#[test]
fn grouped_heads_on_tracked_tensors_give_the_numbers_of_plain_ones() {
    let attention = attention(
        &grouped()
            .with_position_embedding(PositionEmbeddingConfig::Rotary(RotaryConfig::new(4, 100.0))),
    );
    let hidden = random([2, 9, 12], 5);
    let plain = values(attention.forward(hidden.clone(), Positions::first(9)));
    assert!(plain.iter().all(|x| x.is_finite()));
    for tracked in [hidden.clone().autodiff(), hidden.autodiff().require_grad()] {
        let ours = attention.forward(tracked, Positions::first(9)).inner();
        assert!(close(&values(ours), &plain, 1e-6));
    }
}

#[test]
fn gradients_of_every_coefficient_agree_with_central_differences() {
    let positions = [
        PositionEmbeddingConfig::None,
        PositionEmbeddingConfig::Rotary(RotaryConfig::new(4, 100.0)),
        PositionEmbeddingConfig::Alibi {
            num_heads: 14,
            max_bias: 8.0,
        },
    ];
    let shape = ModelShape::new("", 1, 14);
    for position_embedding in positions {
        let attention = attention(&grouped().with_position_embedding(position_embedding));
        let hidden = random([2, 6, 12], 6);
        let heads: Vec<(HeadId, f32)> = (0..14)
            .map(|h| (HeadId::new(0, h), 0.5 + 0.1 * h as f32))
            .collect();
        let loss = |coefficients: &HeadCoefficients| {
            let once = attention
                .clone()
                .with_coefficients(coefficients.layer(0).cloned())
                .unwrap();
            let between = once.forward(hidden.clone(), Positions::first(6));
            once.forward(between, Positions::first(6)).square().mean()
        };
        let coefficients = HeadCoefficients::new(&heads, &shape, &Device::flex())
            .unwrap()
            .trainable();
        let gradients = loss(&coefficients).backward();
        let mut collected = Vec::new();
        coefficients.visit(&mut Gradients(&gradients, &mut collected));
        assert_eq!(collected.len(), 14);
        for (h, gradient) in collected.into_iter().enumerate() {
            let at = |step: f32| {
                let mut moved = heads.clone();
                moved[h].1 += step;
                values(loss(
                    &HeadCoefficients::new(&moved, &shape, &Device::flex()).unwrap(),
                ))[0]
            };
            let difference = (at(1e-2) - at(-1e-2)) / 2e-2;
            assert!(
                (gradient - difference).abs() < 5e-3 * difference.abs().max(0.1),
                "head {h}: {gradient}, {difference}"
            );
        }
    }
}

/// Collects the gradients of a module's parameters.
struct Gradients<'a>(&'a burn::tensor::Gradients, &'a mut Vec<f64>);

impl burn::module::ModuleVisitor for Gradients<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.1.extend(values(param.val().grad(self.0).unwrap()));
    }
}

#[test]
fn contributions_of_heads_and_the_bias_add_up() {
    let attention = attention(&grouped());
    let heads = random([2, 14, 3, 5], 7);
    let contributions = forward::head_contributions(&attention, heads.clone());
    assert_eq!(contributions.dims(), [2, 14, 3, 12]);
    let bias = attention.output_projection(heads.zeros_like());
    let sum = contributions.sum_dim(1).squeeze_dim::<3>(1) + bias;
    assert!(close(
        &values(sum),
        &values(attention.output_projection(heads)),
        1e-5
    ));
}

#[test]
fn folded_attention_is_the_re_weighted_one_and_keeps_its_bias() {
    let attention = attention(&grouped());
    let pairs = [(HeadId::new(0, 13), -0.5), (HeadId::new(0, 4), 0.3)];
    let coefficients =
        HeadCoefficients::new(&pairs, &ModelShape::new("", 1, 14), &Device::flex()).unwrap();
    let reweighted = attention
        .clone()
        .with_coefficients(coefficients.layer(0).cloned())
        .unwrap();
    let folded = reweighted.clone().fold();
    assert!(folded.coefficients().is_none());
    let hidden = random([1, 4, 12], 8);
    let (a, b) = (
        reweighted.forward(hidden.clone(), Positions::first(4)),
        folded.forward(hidden.clone(), Positions::first(4)),
    );
    assert!(close(&values(a.clone()), &values(b), 1e-6));
    assert!(!close(
        &values(a),
        &values(attention.forward(hidden, Positions::first(4))),
        1e-3
    ));
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    let base = AttentionConfig::new(12, 4);
    let refused = [
        AttentionConfig {
            num_key_value_heads: 3,
            ..base.clone()
        },
        AttentionConfig {
            num_key_value_heads: 0,
            ..base.clone()
        },
        AttentionConfig {
            head_dim: 0,
            ..base.clone()
        },
        AttentionConfig {
            hidden_size: 0,
            ..base.clone()
        },
        AttentionConfig {
            scores: AttentionScoreConfig {
                window: Some(0),
                ..base.scores
            },
            ..base.clone()
        },
        base.with_position_embedding(PositionEmbeddingConfig::Rotary(RotaryConfig::new(8, 100.0))),
    ];
    for config in refused {
        assert!(config.init(&Device::flex()).is_err(), "{config:?}");
    }
}
