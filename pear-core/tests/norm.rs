//! Norms against their formulas.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::prelude::*;
use burn::tensor::{DType, Distribution};
use pear_core::{Norm, NormConfig};

const WIDTH: usize = 7;
const EPS: f64 = 1e-3;

/// Replaces the ones and zeros that norms start with.
struct Randomized;

impl ModuleMapper for Randomized {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|value| value.random_like(Distribution::Normal(0.3, 1.0)))
    }
}

struct Half;

impl ModuleMapper for Half {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|value| value.cast(DType::BF16))
    }
}

struct Collected(Vec<Vec<f64>>);

impl ModuleVisitor for Collected {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.push(numbers(param.val()));
    }
}

/// Weight and bias.
fn vectors(norm: &Norm) -> Vec<Vec<f64>> {
    let mut collected = Collected(Vec::new());
    norm.visit(&mut collected);
    collected.0
}

fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    let data = tensor.cast(DType::F32).into_data();
    data.iter::<f32>().map(f64::from).collect()
}

fn by_formula(config: NormConfig, row: &[f64], vectors: &[Vec<f64>]) -> Vec<f64> {
    let mean = match config {
        NormConfig::Layer { .. }
        | NormConfig::LayerPlusOne { .. }
        | NormConfig::LayerWithoutWeight { .. } => row.iter().sum::<f64>() / row.len() as f64,
        _ => 0.0,
    };
    let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / row.len() as f64;
    let added = match config {
        NormConfig::RmsPlusOne { .. } | NormConfig::LayerPlusOne { .. } => 1.0,
        _ => 0.0,
    };
    let normed = row.iter().map(|x| (x - mean) / (variance + EPS).sqrt());
    normed
        .enumerate()
        .map(|(i, x)| {
            let weight = vectors.first().map_or(1.0, |weight| weight[i] + added);
            x * weight + vectors.get(1).map_or(0.0, |bias| bias[i])
        })
        .collect()
}

#[test]
fn every_norm_is_what_its_formula_says() {
    let (device, eps) = (Device::flex(), EPS);
    for (config, expected_vectors) in [
        (NormConfig::Rms { eps }, 1),
        (NormConfig::RmsRoundedOnce { eps }, 1),
        (NormConfig::RmsPlusOne { eps }, 1),
        (NormConfig::Layer { eps, bias: false }, 1),
        (NormConfig::Layer { eps, bias: true }, 2),
        (NormConfig::LayerPlusOne { eps }, 2),
        (NormConfig::LayerWithoutWeight { eps }, 0),
    ] {
        let norm = config.init(WIDTH, &device).map(&mut Randomized);
        let vectors = vectors(&norm);
        assert_eq!(vectors.len(), expected_vectors, "{config:?}");
        let x = Tensor::<3>::random([2, 3, WIDTH], Distribution::Normal(1.0, 2.0), &device);
        let found = numbers(norm.forward(x.clone()));
        let expected: Vec<f64> = numbers(x.clone())
            .chunks(WIDTH)
            .flat_map(|row| by_formula(config, row, &vectors))
            .collect();
        for (found, expected) in found.iter().zip(&expected) {
            assert!(
                (found - expected).abs() < 1e-5,
                "{config:?}: {found}, {expected}"
            );
        }
        // In half precision the type stays, and the numbers within its rounding.
        let half = norm.map(&mut Half).forward(x.cast(DType::BF16));
        assert_eq!(half.dtype(), DType::BF16, "{config:?}");
        for (found, expected) in numbers(half).iter().zip(&expected) {
            let tolerance = 0.03 * (1.0 + expected.abs());
            assert!(
                (found - expected).abs() < tolerance,
                "{config:?}: {found}, {expected}"
            );
        }
    }
}

#[test]
fn rows_with_weights_of_their_own_are_normed_one_by_one() {
    const ROWS: usize = 3;
    let (device, eps) = (Device::flex(), EPS);
    for config in [
        NormConfig::RmsPlusOne { eps },
        NormConfig::Layer { eps, bias: false },
        NormConfig::LayerPlusOne { eps },
        NormConfig::LayerWithoutWeight { eps },
    ] {
        let norm = config.init(ROWS * WIDTH, &device).map(&mut Randomized);
        let of_all = vectors(&norm);
        let x = Tensor::<4>::random([2, 2, ROWS, WIDTH], Distribution::Default, &device);
        let expected = numbers(x.clone());
        let expected = expected.chunks(WIDTH).enumerate().flat_map(|(at, row)| {
            let own = |vector: &Vec<f64>| vector[at % ROWS * WIDTH..][..WIDTH].to_vec();
            by_formula(config, row, &of_all.iter().map(own).collect::<Vec<_>>())
        });
        for (found, expected) in numbers(norm.forward_rows(x.clone()))
            .into_iter()
            .zip(expected)
        {
            let error = (found - expected).abs();
            assert!(error < 1e-4, "{config:?}: {found}, {expected}");
        }
        let half = norm.map(&mut Half).forward_rows(x.cast(DType::BF16));
        assert_eq!(half.dtype(), DType::BF16, "{config:?}");
    }
}

#[test]
fn epsilon_is_set_checked_and_survives_a_file() {
    let norm = NormConfig::Layer {
        eps: 1e-5,
        bias: true,
    };
    assert_eq!(norm.with_eps(1e-6).eps(), 1e-6);
    assert!(norm.with_eps(1e-6).has_bias());
    assert!(norm.validate().is_ok());
    for wrong in [-1e-5, f64::NAN, f64::INFINITY] {
        let error = norm.with_eps(wrong).validate().unwrap_err().to_string();
        assert!(error.contains("norm_eps"), "{error}");
    }
    let text = serde_json::to_string(&norm).unwrap();
    assert_eq!(serde_json::from_str::<NormConfig>(&text).unwrap(), norm);
}
