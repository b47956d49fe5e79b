//! The kernel for many queries in f32: scores and outputs are matrix products, a block of queries at a time, whose scores stay near a core.

use burn::backend::TensorMetadata;
use burn::tensor::DType;
use rayon::prelude::*;

use super::kernel::{Bias, Rows, Scoring};
use crate::kernels::cast::kernel::convert;
use crate::kernels::flex::{FlexTensor, tensor, values, with_contiguous_rows};
use crate::kernels::loops::vectorised;

/// Queries of a block. Fewer see fewer keys in vain, more are multiplied faster.
const BLOCK: usize = 64;

/// Of contiguous queries. Half precision is widened, and its outputs rounded once.
pub(super) fn attend(
    query: FlexTensor,
    key: FlexTensor,
    value: FlexTensor,
    bias: Option<Bias>,
    scoring: Scoring,
) -> FlexTensor {
    let (dtype, shape) = (query.dtype(), query.shape());
    let [query, key, value] = [query, key, value].map(|x| convert(x, DType::F32));
    let (key, value) = (with_contiguous_rows(key), with_contiguous_rows(value));
    let attention = Attention {
        heads: shape[1],
        queries: shape[2],
        head_dim: shape[3],
        key_value_heads: key.shape()[1],
        keys: key.shape()[2],
        key: Rows::new(&key),
        value: Rows::new(&value),
        bias,
        scoring,
    };
    convert(tensor(attention.output(values(&query)), shape), dtype)
}

struct Attention<'a> {
    heads: usize,
    queries: usize,
    head_dim: usize,
    key_value_heads: usize,
    keys: usize,
    key: Rows<'a, f32>,
    value: Rows<'a, f32>,
    bias: Option<Bias<'a>>,
    scoring: Scoring,
}

impl Attention<'_> {
    fn output(&self, query: &[f32]) -> Vec<f32> {
        let mut output = vec![0.0; query.len()];
        let (of_head, of_block) = (self.queries * self.head_dim, BLOCK * self.head_dim);
        output
            .par_chunks_mut(of_head)
            .zip(query.par_chunks(of_head))
            .enumerate()
            .flat_map(|(head, (output, query))| {
                output
                    .par_chunks_mut(of_block)
                    .zip(query.par_chunks(of_block))
                    .enumerate()
                    .map(move |(block, rows)| (head, block * BLOCK, rows))
            })
            .for_each_init(Vec::new, |scores, (head, first, (output, query))| {
                self.block(head, first, query, scores, output);
            });
        output
    }

    /// The outputs of some queries, from `first` on, of one head of one sample. `scores` is memory for them.
    fn block(
        &self,
        head: usize,
        first: usize,
        query: &[f32],
        scores: &mut Vec<f32>,
        output: &mut [f32],
    ) {
        let (sample, head) = (head / self.heads, head % self.heads);
        // The query heads that share a key/value head are adjacent.
        let shared = head / (self.heads / self.key_value_heads);
        let rows = query.len() / self.head_dim;
        let visible = |query| self.scoring.visible(query, self.queries, self.keys);
        let span = visible(first).start..visible(first + rows - 1).end;
        let width = span.len();
        if scores.len() < rows * width {
            scores.resize(rows * width, 0.0);
        }
        let scores = &mut scores[..rows * width];

        let seen = |rows: &Rows<'_, f32>| {
            let (numbers, stride) = rows.of_head(sample, shared);
            let numbers = &numbers[span.start * stride..];
            assert!(
                (width - 1) * stride + self.head_dim <= numbers.len(),
                "rows of a head"
            );
            (numbers.as_ptr(), stride as isize)
        };
        let (keys, values) = (seen(&self.key), seen(&self.value));
        let head_dim = self.head_dim as isize;
        assert!(query.len() == rows * self.head_dim && output.len() == query.len());
        // SAFETY: `query` has `rows` rows of `head_dim` numbers, `scores` as many of `width`, and `width` rows of `head_dim` numbers from
        // `keys` on are within their buffer, as was checked. Scores are written, not read.
        unsafe {
            let to = (scores.as_mut_ptr(), width as isize);
            product(
                [rows, width, self.head_dim],
                to,
                (query.as_ptr(), head_dim),
                (keys.0, [1, keys.1]),
                self.scoring.scale,
            );
        }
        vectorised(
            #[inline(always)]
            || {
                for (query, scores) in (first..).zip(scores.chunks_exact_mut(width)) {
                    let visible = visible(query);
                    let near = visible.start - span.start..visible.end - span.start;
                    let bias = self.bias.as_ref();
                    let bias = bias.map(|bias| &bias.row(sample, head, query)[visible.clone()]);
                    scores[..near.start].fill(0.0);
                    scores[near.end..].fill(0.0);
                    self.scoring.weigh(&mut scores[near], bias);
                }
            },
        );
        // SAFETY: as above; `output` has as many rows as `query`.
        unsafe {
            let to = (output.as_mut_ptr(), head_dim);
            product(
                [rows, self.head_dim, width],
                to,
                (scores.as_ptr(), width as isize),
                (values.0, [values.1, 1]),
                1.0,
            );
        }
    }
}

/// `output = scale · left · right` of `[rows, columns, depth]`, on this core. `output` and `left` are rows, so far from each other, of
/// contiguous numbers; the strides of `right` are those of its rows and of its columns.
///
/// # Safety
/// `left` and `right` must be readable and `output` writable, by no other thread, throughout these shapes.
unsafe fn product(
    [rows, columns, depth]: [usize; 3],
    (output, output_stride): (*mut f32, isize),
    (left, left_stride): (*const f32, isize),
    (right, [right_row, right_column]): (*const f32, [isize; 2]),
    scale: f32,
) {
    // SAFETY: the caller's.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            depth,
            output,
            1,
            output_stride,
            false,
            left,
            1,
            left_stride,
            right,
            right_column,
            right_row,
            1.0,
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
