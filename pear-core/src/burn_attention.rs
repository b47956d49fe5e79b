//! burn's own multi-head attention as a [`HeadAttention`]: a burn model needs no other attention to be located and re-weighted.

use burn::nn::attention::MultiHeadAttention;
use burn::prelude::*;

use crate::kernels::linear_forward;
use crate::model::{HeadAttention, Qkv};
use crate::position::Positions;

/// Causal self-attention with burn's parameters, under burn's paths (`query`, `key`, `value`, `output`).
///
/// It has no positions of its own, so that `positions` are not looked at; dropout is not applied.
///
/// # Panics
/// [`project_qkv`](HeadAttention::project_qkv) panics where `quiet_softmax` is on: its weights do not sum to 1, and no other
/// attention of this crate has them.
///
/// ```
/// use burn::nn::attention::MultiHeadAttentionConfig;
/// use burn::prelude::*;
/// use pear_core::{HeadAttention, Positions, attend};
///
/// let attention = MultiHeadAttentionConfig::new(12, 3).init(&Device::flex());
/// let qkv = attention.project_qkv(Tensor::ones([2, 5, 12], &Device::flex()), Positions::first(5));
/// let heads = attend(&attention, qkv.query, qkv.key, qkv.value);
/// assert_eq!(heads.dims(), [2, 3, 5, 4]);
/// assert_eq!(attention.output_projection(heads).dims(), [2, 5, 12]);
/// ```
impl HeadAttention for MultiHeadAttention {
    fn project_qkv(&self, input: Tensor<3>, _: Positions) -> Qkv {
        assert!(
            !self.quiet_softmax,
            "HeadAttention of burn's MultiHeadAttention: quiet_softmax is not supported"
        );
        let [batch, seq, _] = input.dims();
        let split = |x: Tensor<3>| {
            x.reshape([batch, seq, self.n_heads, self.d_k])
                .swap_dims(1, 2)
        };
        Qkv {
            query: split(linear_forward(&self.query, input.clone())),
            key: split(linear_forward(&self.key, input.clone())),
            value: split(linear_forward(&self.value, input)),
        }
    }

    fn output_projection(&self, heads: Tensor<4>) -> Tensor<3> {
        let [batch, num_heads, seq, head_dim] = heads.dims();
        linear_forward(
            &self.output,
            heads
                .swap_dims(1, 2)
                .reshape([batch, seq, num_heads * head_dim]),
        )
    }
}
