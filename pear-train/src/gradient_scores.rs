//! Which coefficients the proxy loss would have moved, and which way: a ranking of heads from one backward pass.

use pear_core::proxy::ProxyBatch;
use pear_core::{DecoderModel, HeadCoefficients, HeadId};

use crate::Result;
use crate::objective::gradients_of_sequences;

/// How the proxy loss answers to scaling one head.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GradientScore {
    /// The head.
    pub head: HeadId,
    /// `∂ loss / ∂ α` at α = 1, the mean over sequences. Positive: scaling the head down lowers the loss, as for a suppression head;
    /// negative: scaling it up does.
    pub gradient: f64,
    /// The standard error of that mean, from the spread over sequences; `None` for a single one.
    pub standard_error: Option<f64>,
}

/// The gradient of the [proxy loss](crate::proxy_loss) by the coefficient of each of these heads, where all coefficients are 1, in the
/// order of `heads`.
///
/// One backward pass for each `at_once` sequences gives the gradients of all heads and sequences. It tells what a *small change of
/// scale* does. What happens when a head's output is *replaced* is another question, which pear-locate answers by patching: a head
/// may matter much and yet be scaled right.
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
/// let heads: Vec<HeadId> = model.shape().heads().collect();
/// let batch = ProxyTask::new(model.vocab_size(), &[0], 7)?.batch(8, 0..20)?;
/// let scores = pear_train::gradient_scores(&model, &heads, &batch, 10)?;
/// assert_eq!(scores.len(), heads.len());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// As [`proxy_loss`](crate::proxy_loss); heads that the model does not have or that are listed twice.
pub fn gradient_scores<M: DecoderModel>(
    model: &M,
    heads: &[HeadId],
    batch: &ProxyBatch,
    at_once: usize,
) -> Result<Vec<GradientScore>> {
    let ones = HeadCoefficients::ones(heads, &model.shape(), &model.device())?;
    let mut gradients = Vec::with_capacity(batch.len());
    for start in (0..batch.len()).step_by(at_once.max(1)) {
        let part = batch.slice(start..batch.len().min(start.saturating_add(at_once.max(1))));
        let (_, of_part) = gradients_of_sequences(model, &part, &ones)?;
        // Of a mean over the part: each sequence's own is as many times as large.
        let size = part.len() as f64;
        gradients.extend(of_part.into_iter().map(|row| (row, size)));
    }
    let sorted = ones.heads();
    let score = |&head: &HeadId| {
        let column = sorted.iter().position(|other| *other == head);
        let of_head = gradients
            .iter()
            .map(|(row, size)| column.map_or(0.0, |column| size * row[column]));
        let (gradient, standard_error) = mean_and_error(of_head);
        GradientScore {
            head,
            gradient,
            standard_error,
        }
    };
    Ok(heads.iter().map(score).collect())
}

/// The mean, and its standard error from the spread of at least two numbers.
fn mean_and_error(values: impl Iterator<Item = f64> + Clone) -> (f64, Option<f64>) {
    let count = values.clone().count() as f64;
    let mean = values.clone().sum::<f64>() / count;
    let squares: f64 = values.map(|value| (value - mean).powi(2)).sum();
    let error = (count > 1.0).then(|| (squares / (count - 1.0) / count).sqrt());
    (mean, error)
}
