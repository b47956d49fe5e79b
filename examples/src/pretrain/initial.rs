//! Initial weights that are the same on every machine.

use std::collections::BTreeMap;

use burn::module::{ModuleMapper, Param};
use burn::prelude::*;
use burn::tensor::DType;
use pear_models::DecoderConfig;

use super::{induction, positions};
use crate::random::Random;

/// Sets the weights of a model: normal, smaller for projections into the residual stream; biases zero, norms one.
pub(super) struct InitialWeights<'a> {
    random: Random,
    /// Matrices that are not random, by path.
    given: BTreeMap<String, Vec<f32>>,
    /// Factor for projections into the residual stream.
    output_scale: f64,
    width: usize,
    device: &'a Device,
    path: Vec<String>,
}

impl<'a> InitialWeights<'a> {
    pub(super) fn new(config: &DecoderConfig, seed: u64, device: &'a Device) -> Self {
        Self {
            random: Random::new(seed, 0),
            given: BTreeMap::new(),
            output_scale: 0.5 / (config.layers.len() as f64).sqrt(),
            width: config.hidden_size,
            device,
            path: Vec::new(),
        }
    }

    /// Writes the copying circuit into layers 0 and 1, and makes the other projections into the residual stream ten times smaller, so
    /// that they do not drown it.
    pub(super) fn seed_circuit(&mut self, config: &DecoderConfig) {
        self.given = induction::circuit(config, positions::ROPE_THETA, &mut self.random);
        self.output_scale *= 0.1;
    }

    fn values(&mut self, path: &str, rank: usize, count: usize) -> Vec<f32> {
        if path.ends_with(".bias") {
            return vec![0.0; count];
        }
        if rank == 1 {
            return vec![1.0; count];
        }
        if let Some(given) = self.given.remove(path) {
            return given;
        }
        let into_residual = path.ends_with("o_proj.weight") || path.ends_with("down_proj.weight");
        let scale = if into_residual {
            self.output_scale
        } else {
            1.0
        };
        self.random
            .normal(count, scale / (self.width as f64).sqrt())
    }
}

impl ModuleMapper for InitialWeights<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let shape = param.lazy_shape().to_vec();
        let values = self.values(&self.path.join("."), D, shape.iter().product());
        Param::from_tensor(Tensor::from_data(
            TensorData::new(values, shape),
            (self.device, DType::F32),
        ))
    }
}
