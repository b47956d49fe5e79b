//! One layer as seen from the patched position, for many variants of the residual stream there.
//!
//! A *variant* is the residual stream at the patched position with one head of a lower layer replaced. Variants are rows, ordered
//! by variant and then by sequence, so that new ones are appended without moving any: `[1, variants * samples, hidden]`.

use std::ops::Range;

use burn::prelude::*;
use burn::tensor::activation::softmax;
use burn::tensor::{Bool, DType};
use pear_core::{DecoderLayer, HeadAttention, Positions, Qkv};

use crate::clean::CleanLayer;

/// The clean run's part in a layer, for the sequences at hand.
pub(crate) struct PatchSite<'a, L: DecoderLayer> {
    layer: &'a L,
    /// The patched position.
    positions: Positions<'static>,
    /// The first position that it attends to.
    first: usize,
    /// `[samples, key_value_heads, seen, head_dim]`, its own position last.
    key: Tensor<4>,
    /// `[samples, key_value_heads, seen, head_dim]`.
    value: Tensor<4>,
    /// `[samples, heads, head_dim]`.
    heads: Tensor<3>,
    /// The residual stream before the layer, `[samples, 1, hidden]`.
    residual: Tensor<3>,
    /// The attention's output, `[samples, 1, hidden]`.
    output: Tensor<3>,
}

impl<'a, L: DecoderLayer> PatchSite<'a, L> {
    /// `residual`: the clean run before `layer`, `[samples, seq, hidden]`; `position` is the patched one.
    pub(crate) fn new(
        layer: &'a L,
        position: usize,
        residual: &Tensor<3>,
        clean: &CleanLayer,
    ) -> Self {
        let [samples, num_heads, _, head_dim] = clean.heads.dims();
        let window = layer.attention().score_config().window;
        let first = window.map_or(0, |window| (position + 1).saturating_sub(window));
        let seen = |x: &Tensor<4>| x.clone().narrow(2, first, position + 1 - first);
        Self {
            layer,
            positions: Positions {
                start: position,
                total: residual.dims()[1],
                padding: &[],
            },
            first,
            key: seen(&clean.key),
            value: seen(&clean.value),
            heads: clean
                .heads
                .clone()
                .narrow(2, position, 1)
                .reshape([samples, num_heads, head_dim]),
            residual: residual.clone().narrow(1, position, 1),
            output: clean.output.clone().narrow(1, position, 1),
        }
    }

    /// Activation patching: `rows` attend anew and go through the layer.
    pub(crate) fn react(&self, rows: Tensor<3>) -> Tensor<3> {
        let heads = self.attended(rows.clone());
        self.continued(Some(rows), heads)
    }

    /// Path patching: `rows` go through the layer with the clean run's attention output.
    pub(crate) fn pass(&self, rows: Tensor<3>) -> Tensor<3> {
        let variants = rows.dims()[1] / self.output.dims()[0];
        self.layer.output(rows, repeat(&self.output, variants))
    }

    /// New variants above this layer: one for each of `replaced`, by its own of `vectors`, `[samples or 1, heads, head_dim]`.
    pub(crate) fn replace(&self, replaced: &[usize], vectors: &Tensor<3>) -> Tensor<3> {
        let count = replaced.len();
        let [samples, num_heads, head_dim] = self.heads.dims();
        let shape = [count, samples, num_heads, head_dim];
        let device = self.heads.device();
        let replaced: Vec<i32> = replaced.iter().map(|&head| head as i32).collect();
        let replaced =
            Tensor::<1, Int>::from_data(replaced.as_slice(), &device).reshape([count, 1, 1, 1]);
        let head =
            Tensor::<1, Int>::arange(0..num_heads as i64, &device).reshape([1, 1, num_heads, 1]);
        let here: Tensor<4, Bool> = (replaced - head).equal_elem(0).expand(shape);
        let heads = self.heads.clone().unsqueeze::<4>().expand(shape);
        let heads = heads.mask_where(here, vectors.clone().unsqueeze::<4>().expand(shape));
        let output = self.merge(heads.reshape([count * samples, num_heads, head_dim]));
        self.layer.output(repeat(&self.residual, count), output)
    }

    /// The clean run's heads, `[samples, heads, head_dim]`.
    pub(crate) fn heads(&self) -> Tensor<3> {
        self.heads.clone()
    }

    /// The heads of `rows`, `[1, rows, hidden]` before the layer to `[rows, heads, head_dim]`.
    pub(crate) fn attended(&self, rows: Tensor<3>) -> Tensor<3> {
        self.attend(self.layer.attention_input(rows))
    }

    /// The layer's rest: `rows`, or the clean run, with these `heads`.
    pub(crate) fn continued(&self, rows: Option<Tensor<3>>, heads: Tensor<3>) -> Tensor<3> {
        let rows = rows.unwrap_or_else(|| repeat(&self.residual, 1));
        self.layer.output(rows, self.merge(heads))
    }

    /// `[rows, heads, head_dim]` to the attention's output `[1, rows, hidden]`.
    fn merge(&self, heads: Tensor<3>) -> Tensor<3> {
        // Rows along the sequence: a plain matrix product, however the model writes it.
        self.layer
            .attention()
            .output_projection(heads.unsqueeze::<4>().swap_dims(1, 2))
    }

    /// Attention at the patched position, `[1, rows, hidden]` to heads `[rows, heads, head_dim]`: keys and values of earlier
    /// positions are those of the clean run, shared by all variants of a sequence and never copied.
    fn attend(&self, input: Tensor<3>) -> Tensor<3> {
        let [_, rows, hidden] = input.dims();
        // All rows stand at the same position, and so go to `project_qkv` as a batch.
        let input = input.reshape([rows, 1, hidden]);
        let Qkv { query, key, value } = self.layer.attention().project_qkv(input, self.positions);
        let [_, num_heads, _, head_dim] = query.dims();
        let [samples, kv_heads, _, _] = self.key.dims();
        let (variants, group) = (rows / samples, num_heads / kv_heads);
        // Axes by name: [variants, samples, kv_heads, group or 1, head_dim].
        let query = query.reshape([variants, samples, kv_heads, group, head_dim]);
        let key = key.reshape([variants, samples, kv_heads, 1, head_dim]);
        let value = value.reshape([variants, samples, kv_heads, 1, head_dim]);

        let weights = softmax(self.scores(query, key), 4);
        self.weighted_values(weights, value)
            .reshape([rows, num_heads, head_dim])
    }

    /// Scores `[samples, kv_heads, group, variants, seen]` of queries `[variants, samples, kv_heads, group, head_dim]` against the
    /// shared keys of earlier positions and each variant's `key` of its own, `[variants, samples, kv_heads, 1, head_dim]`.
    fn scores(&self, query: Tensor<5>, key: Tensor<5>) -> Tensor<5> {
        let shared = shared_by_group(&self.key).swap_dims(3, 4);
        let scores = variants_inner(query.clone())
            .matmul(shared)
            .cast(DType::F32);
        // The product's last column belongs to the clean run's key, and is overwritten.
        let own = (query.cast(DType::F32) * key.cast(DType::F32)).sum_dim(4);
        let last = last_column(&scores);
        self.finish(scores.slice_assign(last, variants_inner(own)))
    }

    /// Values `[variants, samples, kv_heads, group, head_dim]` summed with `weights`, `[samples, kv_heads, group, variants, seen]`;
    /// `value` is each variant's own, `[variants, samples, kv_heads, 1, head_dim]`.
    fn weighted_values(&self, weights: Tensor<5>, value: Tensor<5>) -> Tensor<5> {
        let [samples, kv_heads, seen, head_dim] = self.value.dims();
        // The product counts the clean run's own value; what each variant's differs by is added.
        let clean = self
            .value
            .clone()
            .narrow(2, seen - 1, 1)
            .reshape([1, samples, kv_heads, 1, head_dim]);
        let difference = value - clean;
        let own_weight =
            variants_outer(weights.clone().slice(last_column(&weights))).cast(difference.dtype());
        let sum = weights
            .cast(difference.dtype())
            .matmul(shared_by_group(&self.value));
        variants_outer(sum) + own_weight * difference
    }

    /// Scale, soft cap and bias, as [`attend`](pear_core::attend) has them; the window has already been cut out.
    fn finish(&self, scores: Tensor<5>) -> Tensor<5> {
        let attention = self.layer.attention();
        let config = attention.score_config();
        let [_, kv_heads, group, _, seen] = scores.dims();
        let mut scores = scores * config.scale_for(self.key.dims()[3]);
        if let Some(cap) = config.soft_cap {
            scores = (scores / cap).tanh() * cap;
        }
        let position = self.positions.start;
        match attention.score_bias(position..position + 1, self.first..position + 1) {
            Some(bias) if bias.dims()[1] == 1 => scores + bias.reshape([1, 1, 1, 1, seen]),
            Some(bias) => scores + bias.reshape([1, kv_heads, group, 1, seen]),
            None => scores,
        }
    }
}

/// Keys or values `[samples, kv_heads, seen, head_dim]` for all query heads of a group: `[samples, kv_heads, 1, seen, head_dim]`.
fn shared_by_group(x: &Tensor<4>) -> Tensor<5> {
    x.clone().unsqueeze_dim(2)
}

/// Where the own position's scores or weights are in `[samples, kv_heads, group, variants, seen]`.
fn last_column(x: &Tensor<5>) -> [Range<usize>; 5] {
    let [samples, kv_heads, group, variants, seen] = x.dims();
    [
        0..samples,
        0..kv_heads,
        0..group,
        0..variants,
        seen - 1..seen,
    ]
}

/// `[variants, samples, kv_heads, group, width]` to `[samples, kv_heads, group, variants, width]`.
///
/// By swaps: where operations are fused, burn 0.22 sends `permute` to served devices as one of integers.
fn variants_inner(x: Tensor<5>) -> Tensor<5> {
    x.swap_dims(0, 1).swap_dims(1, 2).swap_dims(2, 3)
}

/// `[samples, kv_heads, group, variants, width]` to `[variants, samples, kv_heads, group, width]`.
fn variants_outer(x: Tensor<5>) -> Tensor<5> {
    x.swap_dims(2, 3).swap_dims(1, 2).swap_dims(0, 1)
}

/// `[samples, 1, hidden]` once for each variant: `[1, variants * samples, hidden]`.
fn repeat(x: &Tensor<3>, variants: usize) -> Tensor<3> {
    let [samples, _, hidden] = x.dims();
    x.clone()
        .reshape([1, samples, hidden])
        .repeat_dim(1, variants)
}
