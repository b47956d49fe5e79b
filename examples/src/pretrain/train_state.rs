//! A model in training with its optimizer.

use std::path::Path;

use anyhow::Result;
use burn::grad_clipping::GradientClippingConfig;
use burn::module::Module;
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::prelude::*;
use burn::tensor::activation::log_softmax;
use pear_core::NoEdit;
use pear_core::forward::{token_tensor, training_logits};
use pear_models::Decoder;

use crate::tiny_world::Item;

/// A model with autodiff, and its optimizer.
pub(super) struct TrainState {
    pub(super) model: Decoder,
    optimizer: ModuleOptimizer,
}

impl TrainState {
    pub(super) fn new(model: Decoder, weight_decay: f32) -> Self {
        let optimizer = AdamWConfig::new()
            .with_beta_2(0.98)
            .with_epsilon(1e-8)
            .with_weight_decay(weight_decay)
            .with_grad_clipping(Some(GradientClippingConfig::Norm(1.0)))
            .init();
        Self {
            model: model.train(),
            optimizer,
        }
    }

    /// One optimizer step on a loss, whose value before the step is returned.
    pub(super) fn step(
        &mut self,
        learning_rate: f64,
        loss: impl FnOnce(&Decoder) -> Result<Tensor<1>>,
    ) -> Result<f64> {
        let loss = loss(&self.model)?;
        let value = loss.clone().into_scalar::<f32>();
        let gradients = GradientsParams::from_grads(loss.backward(), &self.model);
        self.model = self
            .optimizer
            .step(learning_rate, self.model.clone(), gradients);
        Ok(f64::from(value))
    }

    pub(super) fn save(&self, folder: &Path) -> Result<()> {
        self.model.clone().save_file(folder.join("model.bpk"))?;
        self.optimizer.save(folder.join("optimizer.bpk"))?;
        Ok(())
    }

    pub(super) fn load(self, folder: &Path) -> Result<Self> {
        Ok(Self {
            model: self.model.load_file(folder.join("model.bpk")),
            optimizer: self.optimizer.load(folder.join("optimizer.bpk"))?,
        })
    }
}

/// Mean cross-entropy of the next token over rows of equal length, each token weighted as its row says.
pub(super) fn mean_loss(model: &Decoder, rows: &[Item], device: &Device) -> Result<Tensor<1>> {
    let len = rows[0].len() - 1;
    let tokens = |from: usize| {
        let ids = |row: &Item| row[from..from + len].iter().map(|(id, _)| *id).collect();
        let rows: Vec<Vec<u32>> = rows.iter().map(ids).collect();
        token_tensor(&rows, device)
    };
    let weights: Vec<f32> = rows
        .iter()
        .flat_map(|row| row[1..].iter().map(|(_, weight)| *weight))
        .collect();
    let total: f32 = weights.iter().sum();
    let weights = Tensor::<3>::from_data(TensorData::new(weights, [rows.len(), len, 1]), device);
    let logits = training_logits(model, tokens(0), &mut NoEdit)?;
    let labels = log_softmax(logits, 2).gather(2, tokens(1).unsqueeze_dim(2));
    Ok((labels * weights).sum().div_scalar(-total))
}
