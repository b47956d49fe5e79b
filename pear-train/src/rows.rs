//! Losses of the rows of a residual stream, whose logits need not stand in memory all at once.

use std::ops::Range;

use burn::prelude::*;
use burn::tensor::DType;
use pear_core::kernels::inner_product;

/// Logits that may stand in memory at once.
pub(crate) const LOGITS_IN_MEMORY: usize = 1 << 24;

/// The mean loss of all rows of a residual stream `[rows, hidden]`: `[1]`, f32, tracked if the residual stream is.
///
/// `losses` turns some of the rows, `[part, hidden]`, into their losses, `[part]`; it is told which rows they are. No more than
/// `rows_at_once` are given to it, each once and in order.
pub(crate) fn mean_over_rows(
    residual: Tensor<2>,
    rows_at_once: usize,
    mut losses: impl FnMut(Tensor<2>, Range<usize>) -> Tensor<1>,
) -> Tensor<1> {
    let rows = residual.dims()[0];
    if rows <= rows_at_once {
        return losses(residual, 0..rows).mean();
    }
    if residual.is_tracked() {
        return differentiated_in_parts(residual, rows_at_once, losses);
    }
    let mut total = Tensor::zeros([1], (&residual.device(), DType::F32));
    for part in parts(rows, rows_at_once) {
        let residual = residual.clone().narrow(0, part.start, part.len());
        total = total + losses(residual, part).sum();
    }
    total / rows as f64
}

/// The mean loss of a tracked residual stream `[rows, hidden]` whose logits do not fit into memory: `[1]`.
///
/// A graph would keep the logits of every part. So each part is differentiated at once, as far as the residual stream, and only
/// its gradient is kept.
fn differentiated_in_parts(
    residual: Tensor<2>,
    rows_at_once: usize,
    mut losses: impl FnMut(Tensor<2>, Range<usize>) -> Tensor<1>,
) -> Tensor<1> {
    let rows = residual.dims()[0];
    let plain = residual.clone().inner();
    let mut total = Tensor::zeros([1], (&plain.device(), DType::F32));
    let mut gradients = Vec::new();
    for range in parts(rows, rows_at_once) {
        let part = plain.clone().narrow(0, range.start, range.len());
        let part = part.autodiff().require_grad();
        let loss = losses(part.clone(), range).sum();
        total = total + loss.clone().inner();
        let gradient = part.grad(&loss.backward());
        gradients.push(gradient.unwrap_or_else(|| part.inner().zeros_like()));
    }
    let rows = rows as f64;
    let gradient = Tensor::cat(gradients, 0).cast(DType::F32) / rows;
    // Linear in the residual stream, with this gradient; its own value is taken off again.
    let linear = inner_product(residual.cast(DType::F32), gradient);
    let value = linear.clone().inner();
    linear - value + total / rows
}

fn parts(rows: usize, rows_at_once: usize) -> impl Iterator<Item = Range<usize>> {
    (0..rows)
        .step_by(rows_at_once)
        .map(move |start| start..rows.min(start + rows_at_once))
}
