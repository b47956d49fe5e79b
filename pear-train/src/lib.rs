#![doc = include_str!("../README.md")]
//!
//! # A loop of your own
//!
//! [`Trainer`] can own its model, be watched and stopped at every step, and save and restore its state. For a loop of your own,
//! [`proxy_loss`] is differentiable in the coefficients, and any optimizer of burn learns them. The model is any
//! [`DecoderModel`](pear_core::DecoderModel):
//!
//! ```
//! # use burn::prelude::*;
//! # use pear_core::*;
//! # struct OneLayer { attention: Attention, embedding: Tensor<2> }
//! # impl DecoderModel for OneLayer {
//! #     type Layer<'a> = &'a Self;
//! #     fn shape(&self) -> ModelShape { ModelShape::new("one-layer", 1, 6) }
//! #     fn hidden_size(&self) -> usize { 24 }
//! #     fn vocab_size(&self) -> usize { 50 }
//! #     fn device(&self) -> Device { self.embedding.device() }
//! #     fn embed(&self, tokens: Tensor<2, Int>, _: Positions) -> Tensor<3> {
//! #         burn::tensor::module::embedding(self.embedding.clone(), tokens)
//! #     }
//! #     fn layer(&self, _: usize) -> Result<&Self> { Ok(self) }
//! #     fn logits(&self, residual: Tensor<3>) -> Tensor<3> { residual.matmul(self.embedding.clone().transpose().unsqueeze()) }
//! # }
//! # impl DecoderLayer for OneLayer {
//! #     type Attention = Attention;
//! #     fn attention(&self) -> &Attention { &self.attention }
//! #     fn attention_input(&self, residual: Tensor<3>) -> Tensor<3> { residual }
//! #     fn output(&self, residual: Tensor<3>, attention: Tensor<3>) -> Tensor<3> { residual + attention }
//! # }
//! # let device = Device::flex();
//! # device.seed(0);
//! # let attention = AttentionConfig::new(24, 6).init(&device)?;
//! # let embedding = Tensor::random([50, 24], burn::tensor::Distribution::Normal(0.0, 1.0), &device);
//! # let model = OneLayer { attention, embedding };
//! use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
//! use pear_train::{evaluate, proxy_loss};
//!
//! let heads = [HeadId::new(0, 2), HeadId::new(0, 5)];
//! let task = ProxyTask::new(50, &[0], 7)?;
//! let mut coefficients = HeadCoefficients::ones(&heads, &model.shape(), &device)?.trainable();
//! let mut optimizer: ModuleOptimizer = AdamWConfig::new().with_epsilon(1e-8).with_weight_decay(0.0).init();
//! for step in 0..10 {
//!     let loss = proxy_loss(&model, &task.batch(8, step * 4..(step + 1) * 4)?, &coefficients)?;
//!     let gradients = GradientsParams::from_grads(loss.backward(), &coefficients);
//!     coefficients = optimizer.step(0.005, coefficients, gradients);
//! }
//! let held_out = task.batch(8, 1000..1010)?;
//! println!("accuracy {:.3}", evaluate(&model, &held_out, Some(&coefficients))?.accuracy);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![deny(missing_docs)]

#[doc = include_str!("../docs/all-heads.md")]
pub mod all_heads {}
mod checkpoint;
mod cholesky;
mod divergence;
mod draws;
mod error;
pub mod faithful;
mod fisher;
mod gradient_scores;
mod gradients;
mod held_out;
mod natural;
mod objective;
mod optimizer;
mod options;
mod recompute;
mod rows;
mod schedule;
mod sequence_edit;
mod sequences;
mod text;
mod trainer;

pub use divergence::{divergence_and_gradients, text_divergence};
pub use error::Error;
pub use fisher::{Fisher, fisher};
pub use gradient_scores::{GradientScore, gradient_scores};
pub use natural::natural_step;
pub use objective::{ProxyMetrics, evaluate, loss_and_gradients, proxy_loss};
pub use options::TrainOptions;
pub use schedule::Schedule;
pub use sequences::{Sequences, StepReport};
pub use text::PlainText;
pub use trainer::Trainer;

/// The result of everything here that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;
