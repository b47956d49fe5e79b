//! Which tensor of a checkpoint, or which part of one, a parameter is.
#![allow(
    clippy::single_range_in_vec_init,
    reason = "lists of ranges, some of which hold one"
)]

use std::ops::Range;

/// Where a parameter's numbers come from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Source {
    /// Name of the tensor.
    pub name: String,
    /// Whether a matrix stands `[out, in]` in the file, as PyTorch's `Linear` has it, and is to be turned to burn's `[in, out]`.
    /// Vectors are never turned.
    pub transposed: bool,
    part: Part,
}

/// Which of the tensor's output channels.
#[derive(Clone, Debug, PartialEq)]
enum Part {
    Whole,
    /// All rows but the first few.
    Skipping(usize),
    /// One of `of` equal blocks: queries, keys and values after one another.
    Block {
        index: usize,
        of: usize,
    },
    /// `len` channels from `first` on, and so again every `stride`: queries, keys and values of head 0, then of head 1, …
    Strided {
        first: usize,
        len: usize,
        stride: usize,
    },
}

/// Which output channels of a tensor with `total` of them.
#[derive(Debug, PartialEq)]
pub(crate) struct Channels {
    pub total: usize,
    pub ranges: Vec<Range<usize>>,
}

impl Source {
    /// A tensor that stands as burn wants it: embeddings, norms, GPT-2's `Conv1D`.
    pub fn as_is(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            transposed: false,
            part: Part::Whole,
        }
    }

    /// The weight or bias of a PyTorch `Linear`, or a norm.
    pub fn linear(name: impl Into<String>) -> Self {
        Self {
            transposed: true,
            ..Self::as_is(name)
        }
    }

    /// Without its first `rows`.
    pub fn skipping(self, rows: usize) -> Self {
        Self {
            part: Part::Skipping(rows),
            ..self
        }
    }

    /// Block `index` of `of` equal blocks of output channels.
    pub fn block(self, index: usize, of: usize) -> Self {
        Self {
            part: Part::Block { index, of },
            ..self
        }
    }

    /// `len` output channels from `first` on, and so again every `stride`, which divides the whole.
    pub fn strided(self, first: usize, len: usize, stride: usize) -> Self {
        Self {
            part: Part::Strided { first, len, stride },
            ..self
        }
    }

    /// Part `index` of three that stand in every group of heads after one another: the queries of a group of query heads, its key head, its
    /// value head. `group` is the number of query heads of a key/value head.
    pub fn grouped(self, index: usize, group: usize, head_dim: usize) -> Self {
        let stride = (group + 2) * head_dim;
        match index {
            0 => self.strided(0, group * head_dim, stride),
            _ => self.strided((group + index - 1) * head_dim, head_dim, stride),
        }
    }

    /// Whether the output channels are the first dimension in the file.
    pub fn rows_are_channels(&self, rank: usize) -> bool {
        self.transposed || rank == 1 || matches!(self.part, Part::Skipping(_))
    }

    /// The channels of a parameter that has `wanted` of them.
    pub(crate) fn channels(&self, wanted: usize) -> Channels {
        match self.part {
            Part::Whole => Channels {
                total: wanted,
                ranges: vec![0..wanted],
            },
            Part::Skipping(rows) => Channels {
                total: rows + wanted,
                ranges: vec![rows..rows + wanted],
            },
            Part::Block { index, of } => Channels {
                total: of * wanted,
                ranges: vec![index * wanted..(index + 1) * wanted],
            },
            Part::Strided { first, len, stride } => {
                let pieces = wanted / len.max(1);
                let start = |piece: usize| piece * stride + first;
                Channels {
                    total: pieces * stride,
                    ranges: (0..pieces)
                        .map(|piece| start(piece)..start(piece) + len)
                        .collect(),
                }
            }
        }
    }

    /// The shape the tensor has in the file, for a parameter of shape `shape`.
    pub(crate) fn file_shape(&self, shape: &[usize]) -> Vec<usize> {
        match *shape {
            [channels] => vec![self.channels(channels).total],
            [rows, width] if matches!(self.part, Part::Skipping(_)) => {
                vec![self.channels(rows).total, width]
            }
            [input, output] if self.transposed => vec![self.channels(output).total, input],
            [input, output] => vec![input, self.channels(output).total],
            _ => shape.to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_projections_are_taken_apart_by_block_and_by_head() {
        let block = Source::as_is("c_attn").block(1, 3);
        assert_eq!(
            block.channels(8),
            Channels {
                total: 24,
                ranges: vec![8..16]
            }
        );
        assert_eq!(block.file_shape(&[5, 8]), [5, 24]);
        let by_head = Source::linear("query_key_value").grouped(1, 1, 4);
        assert_eq!(
            by_head.channels(8),
            Channels {
                total: 24,
                ranges: vec![4..8, 16..20]
            }
        );
        assert_eq!(by_head.file_shape(&[5, 8]), [24, 5]);
        assert_eq!(by_head.file_shape(&[8]), [24]);
        let by_group = |index| Source::linear("query_key_value").grouped(index, 2, 4);
        assert_eq!(
            by_group(0).channels(16),
            Channels {
                total: 32,
                ranges: vec![0..8, 16..24]
            }
        );
        assert_eq!(
            by_group(2).channels(8),
            Channels {
                total: 32,
                ranges: vec![12..16, 28..32]
            }
        );
        let unequal = Source::linear("qkv_proj").strided(16, 4, 24);
        assert_eq!(
            unequal.channels(4),
            Channels {
                total: 24,
                ranges: vec![16..20]
            }
        );
    }
}
