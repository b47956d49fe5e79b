//! A step that is as good for the proxy loss as its price on plain text allows.

use crate::fisher::Fisher;
use crate::{Error, Result};

/// The change of coefficients which, to first order, lowers a loss most for a divergence of `kl` nats a position: `−η (F + r)⁻¹ g`, the
/// natural gradient (Amari, 1998), with the step size η at which [`Fisher::divergence`] of it is `kl`. In the order of
/// [`Fisher::heads`], as is `gradient`.
///
/// `ridge` is relative: `r` is that share of the mean of the diagonal of `F`. It keeps the step out of directions in which `F`, a mean
/// over few samples, is small by chance.
///
/// ```
/// # use burn::prelude::*;
/// # use pear_core::*;
/// # struct OneLayer { attention: Attention, embedding: Tensor<2> }
/// # impl DecoderModel for OneLayer {
/// #     type Layer<'a> = &'a Self;
/// #     fn shape(&self) -> ModelShape { ModelShape::new("one-layer", 1, 6) }
/// #     fn hidden_size(&self) -> usize { 24 }
/// #     fn vocab_size(&self) -> usize { 50 }
/// #     fn device(&self) -> Device { self.embedding.device() }
/// #     fn embed(&self, tokens: Tensor<2, Int>, _: Positions) -> Tensor<3> {
/// #         burn::tensor::module::embedding(self.embedding.clone(), tokens)
/// #     }
/// #     fn layer(&self, _: usize) -> Result<&Self> { Ok(self) }
/// #     fn logits(&self, residual: Tensor<3>) -> Tensor<3> { residual.matmul(self.embedding.clone().transpose().unsqueeze()) }
/// # }
/// # impl DecoderLayer for OneLayer {
/// #     type Attention = Attention;
/// #     fn attention(&self) -> &Attention { &self.attention }
/// #     fn attention_input(&self, residual: Tensor<3>) -> Tensor<3> { residual }
/// #     fn output(&self, residual: Tensor<3>, attention: Tensor<3>) -> Tensor<3> { residual + attention }
/// # }
/// # let device = Device::flex();
/// # let attention = AttentionConfig::new(24, 6).init(&device)?;
/// # let embedding = Tensor::random([50, 24], burn::tensor::Distribution::Normal(0.0, 1.0), &device);
/// # let model = OneLayer { attention, embedding };
/// use pear_train::{PlainText, fisher, gradient_scores, natural_step};
///
/// let heads: Vec<HeadId> = model.shape().heads().collect();
/// let text = PlainText::new(vec![(0..40).collect(), (10..50).collect()], 0)?;
/// let fisher = fisher(&model, &heads, &text, 8, 0, 8)?;
/// let batch = ProxyTask::new(model.vocab_size(), &[0], 7)?.batch(8, 0..20)?;
/// let scores = gradient_scores(&model, &heads, &batch, 20)?;
/// let gradient: Vec<f64> = scores.iter().map(|score| score.gradient).collect();
///
/// let step = natural_step(&fisher, &gradient, 0.1, 0.01)?;
/// assert!((fisher.divergence(&step) - 0.01).abs() < 1e-9);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`Error::Option`] for another number of gradients than heads, or a `ridge` or `kl` out of range; [`Error::Fisher`] for a matrix that
/// cannot be inverted, as one of few samples without a ridge.
pub fn natural_step(fisher: &Fisher, gradient: &[f64], ridge: f64, kl: f64) -> Result<Vec<f64>> {
    let option = |option, value: String, expected| {
        Err(Error::Option {
            option,
            value,
            expected,
        })
    };
    if gradient.len() != fisher.heads().len() {
        let count = format!("{} numbers", gradient.len());
        return option("gradient", count, "one number for each head");
    }
    if !(ridge.is_finite() && ridge >= 0.0) {
        return option("ridge", ridge.to_string(), "a number of at least 0");
    }
    if !(kl.is_finite() && kl > 0.0) {
        return option("kl", kl.to_string(), "a positive number of nats");
    }
    let direction = fisher.factor(ridge)?.solve(gradient);
    let divergence = fisher.divergence(&direction);
    if !(divergence.is_finite() && divergence > 0.0) {
        return option(
            "gradient",
            format!("of divergence {divergence}"),
            "finite numbers that are not all 0",
        );
    }
    let size = (kl / divergence).sqrt();
    Ok(direction.into_iter().map(|d| -size * d).collect())
}
