//! What a model must show of itself to be located, trained and re-weighted.
//!
//! A decoder is cut where attention heads are still heads. Per layer, with `x` the residual stream:
//!
//! ```text
//! input  = attention_input(layer, x)                    the norm before attention, if there is one
//! heads  = softmax(q kᵀ) v,  q, k, v = project_qkv(input)   [batch, heads, seq, head_dim]
//!          ← edits act here: capture, ablate, re-weight
//! output = output_projection(heads)                           the output projection W_O
//! x      = block_output(layer, x, output)               residual sum, MLP, norms: serial or parallel
//! ```
//!
//! [`DecoderModel`] and [`HeadAttention`] are these pieces. Everything else — the [forward pass](crate::forward), caches,
//! edits, sweeps over heads, training — is written once on top of them.

use std::ops::Range;

use burn::prelude::*;

use crate::head::ModelShape;
use crate::position::Positions;
use crate::score_config::AttentionScoreConfig;

/// Queries, keys and values with their positions already in them.
#[derive(Clone, Debug)]
pub struct Qkv {
    /// `[batch, heads, seq, head_dim]`.
    pub query: Tensor<4>,
    /// `[batch, key_value_heads, seq, head_dim]`; query head `h` reads key/value head `h / (heads / key_value_heads)`.
    pub key: Tensor<4>,
    /// `[batch, key_value_heads, seq, head_dim]`.
    pub value: Tensor<4>,
}

/// One layer's attention in two halves, the heads between them.
///
/// [`Attention`](crate::Attention) is one; a model of your own needs [`project_qkv`](Self::project_qkv) and
/// [`output_projection`](Self::output_projection), and the other two methods only if its scores are not plainly `q kᵀ / √head_dim`.
pub trait HeadAttention {
    /// From the attention's input, `[batch, seq, hidden]`, to queries, keys and values, rotated if the model has rotary positions.
    fn project_qkv(&self, input: Tensor<3>, positions: Positions) -> Qkv;

    /// From head outputs `[batch, heads, seq, head_dim]` through the output projection (and its bias) to `[batch, seq, hidden]`.
    fn output_projection(&self, heads: Tensor<4>) -> Tensor<3>;

    /// Scale, soft cap and window of the scores.
    fn score_config(&self) -> AttentionScoreConfig {
        AttentionScoreConfig::default()
    }

    /// What is added to the scores of query positions against key positions, `[1, heads, queries, keys]`: ALiBi and its like.
    fn score_bias(&self, queries: Range<usize>, keys: Range<usize>) -> Option<Tensor<4>> {
        let _ = (queries, keys);
        None
    }
}

/// A decoder-only language model, cut where heads are heads (see the [module](self)).
///
/// The weights stay on the plain (not autodiff) side of their device; only coefficients are ever tracked.
pub trait DecoderModel {
    /// The attention of a layer.
    type Attention: HeadAttention;

    /// Layers and query heads.
    fn shape(&self) -> ModelShape;

    /// Number of tokens that logits are given for.
    fn vocab_size(&self) -> usize;

    /// Where the weights are.
    fn device(&self) -> Device;

    /// The longest sequence the model can read, if there is one: learned positions end somewhere.
    fn max_positions(&self) -> Option<usize> {
        None
    }

    /// Token ids `[batch, seq]` to the residual stream before the first layer, `[batch, seq, hidden]`.
    fn embed(&self, tokens: Tensor<2, Int>, positions: Positions) -> Tensor<3>;

    /// The attention of layer `layer`.
    fn attention(&self, layer: usize) -> &Self::Attention;

    /// What attention reads from the residual stream: usually a norm. Both are `[batch, seq, hidden]`.
    fn attention_input(&self, layer: usize, residual: Tensor<3>) -> Tensor<3>;

    /// The residual stream after the layer, from the one before it and the attention's output, all `[batch, seq, hidden]`.
    fn block_output(
        &self,
        layer: usize,
        residual: Tensor<3>,
        attention_output: Tensor<3>,
    ) -> Tensor<3>;

    /// The residual stream after the last layer, `[batch, seq, hidden]`, to logits `[batch, seq, vocab]`: final norm and unembedding.
    fn logits(&self, residual: Tensor<3>) -> Tensor<3>;

    /// The logit of one chosen token for each row: `residual` is `[rows, hidden]`, `targets` and the result are `[rows]`.
    ///
    /// The default computes all logits; a model with a large vocabulary should read one row of its unembedding instead.
    fn target_logits(&self, residual: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
        let [rows, _] = residual.dims();
        let logits = self
            .logits(residual.unsqueeze_dim(1))
            .reshape([rows, self.vocab_size()]);
        logits.gather(1, targets.reshape([rows, 1])).reshape([rows])
    }
}
