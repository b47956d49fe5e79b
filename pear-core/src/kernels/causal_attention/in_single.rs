//! The kernel for many queries in f32: scores and outputs are matrix products, a block of queries at a time, whose scores stay near a core.

use std::ops::Range;

use burn::backend::TensorMetadata;
use burn::tensor::DType;
use rayon::prelude::*;

use super::kernel::{Attention, Rows};
use crate::kernels::buffer::SharedRows;
use crate::kernels::cast::kernel::convert;
use crate::kernels::flex::{FlexTensor, tensor, values};
use crate::kernels::loops::vectorised;

/// Rows of the products of a block, about: for each block the keys and values that it sees are packed anew.
const ROWS: usize = 96;
/// Query heads of a block, at most, which share a key/value head.
const HEADS: usize = 8;
/// Queries of a block, at most: the first of them see the last one's keys in vain.
const QUERIES: usize = 60;

/// Of contiguous queries, and keys and values with contiguous rows. Half precision is widened, and its outputs rounded once.
pub(super) fn attend(
    attention: &Attention<'_>,
    query: FlexTensor,
    key: FlexTensor,
    value: FlexTensor,
) -> FlexTensor {
    let (dtype, shape) = (query.dtype(), query.shape());
    let [query, key, value] = [query, key, value].map(|x| convert(x, DType::F32));
    let query = values::<f32>(&query);
    let mut output = vec![0.0; query.len()];
    let blocks = Blocks {
        attention,
        query,
        key: Rows::new(&key),
        value: Rows::new(&value),
        output: SharedRows::new(&mut output, attention.head_dim),
    };
    let heads = shape[0] * attention.heads;
    blocks.of_heads(heads).into_par_iter().for_each_init(
        Memory::default,
        |memory, (heads, queries)| {
            // SAFETY: blocks do not overlap.
            unsafe { blocks.compute(heads, queries, memory) }
        },
    );
    convert(tensor(output, shape), dtype)
}

struct Blocks<'a> {
    attention: &'a Attention<'a>,
    query: &'a [f32],
    key: Rows<'a, f32>,
    value: Rows<'a, f32>,
    output: SharedRows<'a, f32>,
}

/// What a thread computes with.
#[derive(Default)]
struct Memory {
    query: Vec<f32>,
    scores: Vec<f32>,
    output: Vec<f32>,
}

impl Blocks<'_> {
    /// The blocks of so many heads: some heads that share a key/value head, and some of their queries.
    fn of_heads(&self, heads: usize) -> Vec<(Range<usize>, Range<usize>)> {
        let Attention { queries, .. } = *self.attention;
        let group = self.attention.group();
        let height = group.min(HEADS);
        let width = (ROWS / height).min(QUERIES);
        let mut blocks = Vec::new();
        for shared in (0..heads).step_by(group) {
            for head in (0..group).step_by(height) {
                let heads = shared + head..shared + group.min(head + height);
                let queries = (0..queries)
                    .step_by(width)
                    .map(|first| first..queries.min(first + width));
                blocks.extend(queries.map(|queries| (heads.clone(), queries)));
            }
        }
        blocks
    }

    /// The outputs of some queries of some heads that share a key/value head.
    ///
    /// # Safety
    /// Nobody else may have these outputs.
    unsafe fn compute(&self, heads: Range<usize>, queries: Range<usize>, memory: &mut Memory) {
        let (attention, head_dim) = (self.attention, self.attention.head_dim);
        let first_row = |head: usize| head * attention.queries + queries.start;
        memory.query.clear();
        for head in heads.clone() {
            let rows = &self.query[first_row(head) * head_dim..][..queries.len() * head_dim];
            memory.query.extend_from_slice(rows);
        }
        let (rows, shared) = (heads.len() * queries.len(), heads.start / attention.group());
        let span = attention.visible(queries.start).start..attention.visible(queries.end - 1).end;
        let width = span.len();
        if memory.scores.len() < rows * width {
            memory.scores.resize(rows * width, 0.0);
        }
        memory.output.resize(rows * head_dim, 0.0);
        let scores = &mut memory.scores[..rows * width];
        let seen = |rows: &Rows<'_, f32>| {
            let (numbers, stride) = rows.of_head(shared);
            let numbers = &numbers[span.start * stride..];
            assert!(
                (width - 1) * stride + head_dim <= numbers.len(),
                "rows of a head"
            );
            (numbers.as_ptr(), stride as isize)
        };
        let (keys, values) = (seen(&self.key), seen(&self.value));
        assert_eq!(memory.query.len(), rows * head_dim, "queries of a block");
        // SAFETY: there are `rows` queries of `head_dim` numbers, `scores` has as many rows of `width`, and `width` rows of `head_dim`
        // numbers from `keys` on are within their buffer, as was checked. Scores are written, not read.
        unsafe {
            product(
                [rows, width, head_dim],
                scores.as_mut_ptr(),
                memory.query.as_ptr(),
                (keys.0, [1, keys.1]),
                attention.scale(),
            );
        }
        vectorised(
            #[inline(always)]
            || {
                for (row, scores) in scores.chunks_exact_mut(width).enumerate() {
                    let head = heads.start + row / queries.len();
                    let query = queries.start + row % queries.len();
                    let visible = attention.visible(query);
                    let near = visible.start - span.start..visible.end - span.start;
                    scores[..near.start].fill(0.0);
                    scores[near.end..].fill(0.0);
                    attention.weigh(head, query, &mut scores[near]);
                }
            },
        );
        // SAFETY: as above; there are as many rows of outputs as of queries.
        unsafe {
            product(
                [rows, head_dim, width],
                memory.output.as_mut_ptr(),
                scores.as_ptr(),
                (values.0, [values.1, 1]),
                1.0,
            );
        }
        for (row, output) in memory.output.chunks_exact(head_dim).enumerate() {
            let place = first_row(heads.start + row / queries.len()) + row % queries.len();
            // SAFETY: the caller's.
            unsafe { self.output.row(place, 0..head_dim) }.copy_from_slice(output);
        }
    }
}

/// `output = scale · left · right` of `[rows, columns, depth]`, on this core. `output` and `left` are contiguous; the strides of `right` are
/// those of its rows and of its columns.
///
/// # Safety
/// `left` and `right` must be readable and `output` writable, by no other thread, throughout these shapes.
unsafe fn product(
    [rows, columns, depth]: [usize; 3],
    output: *mut f32,
    left: *const f32,
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
            columns as isize,
            false,
            left,
            1,
            depth as isize,
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
