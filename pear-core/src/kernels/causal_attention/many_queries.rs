//! The kernel for many queries in bf16: scores and outputs are products of tiles, a block of queries at a time, whose scores stay near a core.

use burn::backend::TensorMetadata;
use burn::tensor::bf16;
use rayon::prelude::*;

use super::kernel::{Attention, Rows};
use crate::kernels::flex::{FlexTensor, tensor, values};
use crate::kernels::loops::vectorised;
use crate::kernels::matrix::Matrix;
use crate::kernels::stored::Stored;
use crate::kernels::tiles::{
    BLOCK, DEPTH, Factors, Instructions, SIDE, Sums, Tile, of_columns, of_rows, pair,
};

/// Of contiguous queries, and keys and values with contiguous rows, in bf16. Weights are rounded to bf16, the sums over them to bf16 once.
pub(super) fn attend(
    attention: &Attention<'_>,
    instructions: Instructions,
    query: &FlexTensor,
    key: &FlexTensor,
    value: &FlexTensor,
) -> FlexTensor {
    let shape = query.shape();
    let (key, value) = (Rows::<bf16>::new(key), Rows::<bf16>::new(value));
    let (keys, head_dim) = (attention.keys, attention.head_dim);
    let seen: Vec<Seen> = (0..shape[0] * attention.key_value_heads)
        .into_par_iter()
        .map(|head| Seen::new(key.of_head(head), value.of_head(head), keys, head_dim))
        .collect();
    let queries = Queries {
        attention,
        instructions,
        seen: &seen,
    };
    tensor(queries.output(values(query)), shape)
}

/// What the queries of some heads see, in tiles: a column for each key, and the values as columns of one number of each position.
struct Seen {
    keys: Vec<Tile>,
    values: Vec<Tile>,
}

impl Seen {
    fn new(
        (key, key_stride): (&[bf16], usize),
        (value, value_stride): (&[bf16], usize),
        keys: usize,
        head_dim: usize,
    ) -> Self {
        let key = Matrix {
            numbers: key,
            inputs: head_dim,
            outputs: keys,
            strides: [1, key_stride],
        };
        let value = Matrix {
            numbers: value,
            inputs: keys,
            outputs: head_dim,
            strides: [value_stride, 1],
        };
        Self {
            keys: of_columns(key, 0..keys),
            values: of_columns(value, 0..head_dim),
        }
    }
}

struct Queries<'a> {
    attention: &'a Attention<'a>,
    instructions: Instructions,
    seen: &'a [Seen],
}

impl Queries<'_> {
    fn output(&self, query: &[bf16]) -> Vec<bf16> {
        let Attention {
            queries, head_dim, ..
        } = *self.attention;
        let mut output = vec![bf16::ZERO; query.len()];
        output
            .par_chunks_mut(queries * head_dim)
            .zip(query.par_chunks(queries * head_dim))
            .enumerate()
            .flat_map(|(head, (output, query))| {
                output
                    .par_chunks_mut(BLOCK * head_dim)
                    .zip(query.par_chunks(BLOCK * head_dim))
                    .enumerate()
                    .map(move |(block, rows)| (head, block * BLOCK, rows))
            })
            .for_each(|(head, first, (output, query))| self.block(head, first, query, output));
        output
    }

    /// The outputs of some queries, from `first` on, of one head.
    fn block(&self, head: usize, first: usize, query: &[bf16], output: &mut [bf16]) {
        let (attention, seen) = (self.attention, &self.seen[head / self.attention.group()]);
        let rows = query.len() / attention.head_dim;
        let last = first + rows - 1;
        let span = attention.visible(first).start / DEPTH * DEPTH..attention.visible(last).end;
        let width = span.len().next_multiple_of(BLOCK);
        let query = of_rows(query, attention.head_dim);
        let mut scores = vec![0.0; BLOCK * width];
        let mut weights = vec![bf16::ZERO; rows * width];
        // SAFETY: the instructions are available, or nobody had them; no other task runs within.
        unsafe {
            self.instructions.with_blocks(|multiply| {
                self.score(multiply, &query, seen, span.start, &mut scores);
            });
        }
        vectorised(
            #[inline(always)]
            || self.weigh(head, first, span.start, &mut scores, &mut weights),
        );
        let weights = of_rows(&weights, width);
        // SAFETY: as above.
        unsafe {
            self.instructions.with_blocks(|multiply| {
                self.sum(multiply, &weights, seen, span.start, output);
            });
        }
    }

    /// The scores of a block of queries against the keys from `start` on, row by row.
    fn score(
        &self,
        multiply: &mut dyn FnMut(Factors, &mut Sums),
        query: &[Tile],
        seen: &Seen,
        start: usize,
        scores: &mut [f32],
    ) {
        let depth = self.attention.head_dim.div_ceil(DEPTH);
        let width = scores.len() / BLOCK;
        let mut sums = [[0.0; BLOCK]; BLOCK];
        for column in (0..width).step_by(BLOCK) {
            let factors = Factors {
                rows: pair(query, 0, depth, 0..depth),
                columns: pair(&seen.keys, start + column, depth, 0..depth),
            };
            multiply(factors, &mut sums);
            for (scores, sums) in scores.chunks_exact_mut(width).zip(&sums) {
                scores[column..][..BLOCK].copy_from_slice(sums);
            }
        }
    }

    /// Turns the scores of each query into weights, 0 for what it does not see.
    #[inline(always)]
    fn weigh(
        &self,
        head: usize,
        first: usize,
        start: usize,
        scores: &mut [f32],
        weights: &mut [bf16],
    ) {
        let width = scores.len() / BLOCK;
        let rows = scores
            .chunks_exact_mut(width)
            .zip(weights.chunks_exact_mut(width));
        for (query, (scores, weights)) in (first..).zip(rows) {
            let visible = self.attention.visible(query);
            let near = visible.start - start..visible.end - start;
            let (scores, weights) = (&mut scores[near.clone()], &mut weights[near]);
            scores
                .iter_mut()
                .for_each(|score| *score *= self.attention.scale());
            self.attention.weigh(head, query, scores);
            weights
                .iter_mut()
                .zip(scores)
                .for_each(|(weight, score)| *weight = bf16::narrow(*score));
        }
    }

    /// The values from `start` on, summed by the weights of each query.
    fn sum(
        &self,
        multiply: &mut dyn FnMut(Factors, &mut Sums),
        weights: &[Tile],
        seen: &Seen,
        start: usize,
        output: &mut [bf16],
    ) {
        let (before, depth) = (start / DEPTH, self.attention.keys.div_ceil(DEPTH));
        let near = weights.len() * SIDE / BLOCK;
        let mut sums = [[0.0; BLOCK]; BLOCK];
        for column in (0..self.attention.head_dim).step_by(BLOCK) {
            let factors = Factors {
                rows: pair(weights, 0, near, 0..near),
                columns: pair(&seen.values, column, depth, before..before + near),
            };
            multiply(factors, &mut sums);
            let width = BLOCK.min(self.attention.head_dim - column);
            for (output, sums) in output.chunks_exact_mut(self.attention.head_dim).zip(&sums) {
                for (output, &sum) in output[column..][..width].iter_mut().zip(sums) {
                    *output = bf16::narrow(sum);
                }
            }
        }
    }
}
