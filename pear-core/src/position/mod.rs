//! Position embeddings behind one interface.
//!
//! A position embedding may act in three places, and attention never asks which kind it has:
//!
//! | place | method | kinds |
//! | --- | --- | --- |
//! | added to the token embeddings | [`PositionEmbedding::add`] | learned, sinusoidal |
//! | rotating queries and keys | [`PositionEmbedding::rotate`] | rotary: full, partial, scaled |
//! | added to the attention scores | [`PositionEmbedding::score_bias`] | ALiBi, T5-style relative bias |
//!
//! Each method leaves its input alone for the other kinds.

mod alibi;
mod relative;
mod rotary;
mod rotary_config;
mod sinusoidal;

use std::ops::Range;
use std::sync::Arc;

use burn::module::{Initializer, Module, Param};
use burn::prelude::*;
use serde::{Deserialize, Serialize};

pub use alibi::alibi_slopes;
pub use relative::{RelativeConfig, relative_bucket};
pub use rotary_config::{RotaryConfig, RotaryLayout, RotaryScaling};
pub use sinusoidal::{SinusoidalConfig, SinusoidalLayout};

use crate::{Error, Result};
use rotary::Rotary;

/// Positions of the tokens at hand within their sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Positions<'a> {
    /// Column of the first token, from 0: its position, where there is no padding.
    pub start: usize,
    /// Length of the whole sequence, as far as it is known: some rotary scalings depend on it.
    pub total: usize,
    /// In a batch of sequences of different lengths, the columns of padding before each: the token in column `c` of row `r` has
    /// position `c - padding[r]`. Empty for sequences of one length.
    pub padding: &'a [usize],
}

impl Positions<'static> {
    /// A whole sequence of `len` tokens.
    pub const fn first(len: usize) -> Self {
        Self::after(0, len)
    }

    /// The next `len` tokens after `start` others.
    pub const fn after(start: usize, len: usize) -> Self {
        Self {
            start,
            total: start + len,
            padding: &[],
        }
    }
}

impl<'a> Positions<'a> {
    /// The same columns, with some empty ones before each row.
    pub const fn padded(self, padding: &'a [usize]) -> Self {
        Self { padding, ..self }
    }

    /// The position of each token, `[batch, seq]`: what a model with a table of learned positions looks up. Padding, which no token
    /// attends to, has position 0.
    ///
    /// ```
    /// use burn::prelude::*;
    /// use pear_core::Positions;
    ///
    /// // Two rows of three columns; the first row starts with two columns of padding.
    /// let ids = Positions::first(3).padded(&[2, 0]).ids(2, 3, &Device::flex());
    /// assert_eq!(ids.into_data().iter::<i64>().collect::<Vec<_>>(), [0, 0, 0, 0, 1, 2]);
    /// ```
    ///
    /// # Panics
    /// If there is padding for another number of rows than `batch`.
    pub fn ids(&self, batch: usize, seq: usize, device: &Device) -> Tensor<2, Int> {
        if self.padding.is_empty() {
            let columns = self.start as i64..(self.start + seq) as i64;
            return Tensor::<1, Int>::arange(columns, device)
                .reshape([1, seq])
                .repeat_dim(0, batch);
        }
        assert_eq!(
            self.padding.len(),
            batch,
            "Positions::ids: padding of {:?} for {batch} rows",
            self.padding
        );
        self.of_rows(seq, 0, device).reshape([batch, seq])
    }

    /// The position of every token of `seq` columns, counted from `first`, row after row; 0 for padding.
    fn of_rows(&self, seq: usize, first: usize, device: &Device) -> Tensor<1, Int> {
        let of_row = |&empty: &usize| {
            (self.start..self.start + seq).map(move |column| column.saturating_sub(empty) - first)
        };
        let positions: Vec<i32> = self
            .padding
            .iter()
            .flat_map(of_row)
            .map(|position| position as i32)
            .collect();
        let len = positions.len();
        Tensor::from_data(TensorData::new(positions, [len]), device)
    }
}

/// Which position embedding a model has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PositionEmbeddingConfig {
    /// None: causal attention alone tells positions apart.
    None,
    /// Queries and keys are rotated by their position ([arXiv 2104.09864](https://arxiv.org/abs/2104.09864)).
    Rotary(RotaryConfig),
    /// The scores fall with distance, by a slope for each head ([arXiv 2108.12409](https://arxiv.org/abs/2108.12409)).
    Alibi {
        /// Query heads (`num_attention_heads`); any number.
        num_heads: usize,
        /// 8 everywhere but in MPT, whose `alibi_bias_max` it is.
        max_bias: f64,
    },
    /// ALiBi as Falcon has it: `slope · key`, rounded to bf16 and divided by `√head_dim`, for that is what its models were trained with.
    FalconAlibi {
        /// Query heads (`num_attention_heads`).
        num_heads: usize,
        /// Channels of a head.
        head_dim: usize,
    },
    /// A trained vector for each position, added to the token embedding.
    Learned {
        /// Number of positions (`max_position_embeddings`, `n_positions`).
        num_positions: usize,
        /// Width of a vector (`hidden_size`).
        width: usize,
    },
    /// Sines and cosines added to the token embedding.
    Sinusoidal(SinusoidalConfig),
    /// A trained bias for each head and bucket of distances ([arXiv 1910.10683](https://arxiv.org/abs/1910.10683), T5).
    Relative(RelativeConfig),
}

impl PositionEmbeddingConfig {
    /// Whether it acts where tokens are embedded (and not within attention).
    pub fn is_absolute(&self) -> bool {
        matches!(self, Self::Learned { .. } | Self::Sinusoidal(_))
    }

    /// Positions that exist, if their number is limited.
    pub fn max_positions(&self) -> Option<usize> {
        match self {
            Self::Learned { num_positions, .. } => Some(*num_positions),
            _ => None,
        }
    }

    /// Whether what it gives a token depends on how long the whole text is (dynamic NTK, LongRoPE), and not on the tokens before it alone.
    pub fn depends_on_length(&self) -> bool {
        match self {
            Self::Rotary(rotary) => rotary.depends_on_length(),
            _ => false,
        }
    }

    /// # Errors
    /// [`Error::Config`] for invalid sizes: an odd rotary dimension, no positions, no heads.
    pub fn validate(&self) -> Result<()> {
        match self {
            Self::None => Ok(()),
            Self::Rotary(rotary) => rotary.validate(),
            Self::Alibi { num_heads: 0, .. } | Self::FalconAlibi { num_heads: 0, .. } => Err(
                Error::config("num_attention_heads", 0, "expected at least 1"),
            ),
            Self::Alibi { max_bias, .. } if !(max_bias.is_finite() && *max_bias > 0.0) => Err(
                Error::config("alibi_bias_max", max_bias, "expected a positive number"),
            ),
            Self::FalconAlibi { head_dim: 0, .. } => {
                Err(Error::config("head_dim", 0, "expected at least 1"))
            }
            Self::Alibi { .. } | Self::FalconAlibi { .. } => Ok(()),
            Self::Learned {
                num_positions: 0, ..
            } => Err(Error::config(
                "max_position_embeddings",
                0,
                "expected at least 1",
            )),
            Self::Learned { .. } => Ok(()),
            Self::Sinusoidal(sinusoidal) => sinusoidal.validate(),
            Self::Relative(relative) => relative.validate(),
        }
    }

    /// The position embedding, its trained table (if it has one) drawn from a normal distribution of deviation 0.02.
    ///
    /// # Errors
    /// As [`validate`](Self::validate).
    pub fn init(&self, device: &Device) -> Result<PositionEmbedding> {
        self.validate()?;
        let init = Initializer::Normal {
            mean: 0.0,
            std: 0.02,
        };
        let (weight, kind) = match self {
            Self::None => (None, Kind::None),
            Self::Rotary(config) => (None, Kind::Rotary(Arc::new(Rotary::new(config.clone())))),
            Self::Alibi {
                num_heads,
                max_bias,
            } => (None, Kind::Alibi(alibi_slopes(*num_heads, *max_bias))),
            Self::FalconAlibi {
                num_heads,
                head_dim,
            } => (
                None,
                Kind::FalconAlibi {
                    slopes: alibi_slopes(*num_heads, 8.0),
                    scale: (*head_dim as f64).sqrt().recip(),
                },
            ),
            Self::Learned {
                num_positions,
                width,
            } => (
                Some(init.init([*num_positions, *width], device)),
                Kind::Learned,
            ),
            Self::Sinusoidal(config) => (None, Kind::Sinusoidal(config.clone())),
            Self::Relative(config) => (
                Some(init.init([config.num_buckets, config.num_heads], device)),
                Kind::Relative(config.clone()),
            ),
        };
        Ok(PositionEmbedding { weight, kind })
    }
}

/// A position embedding, made by [`PositionEmbeddingConfig::init`].
#[derive(Module, Debug)]
pub struct PositionEmbedding {
    /// The trained table: `[num_positions, hidden]` (learned) or `[num_buckets, heads]` (relative).
    weight: Option<Param<Tensor<2>>>,
    #[module(skip)]
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    None,
    Rotary(Arc<Rotary>),
    Alibi(Vec<f32>),
    FalconAlibi { slopes: Vec<f32>, scale: f64 },
    Learned,
    Sinusoidal(SinusoidalConfig),
    Relative(RelativeConfig),
}

impl PositionEmbedding {
    /// Adds the vectors of the positions to token embeddings `[batch, seq, hidden]`.
    ///
    /// # Panics
    /// If the positions reach beyond a learned table; callers check
    /// [`max_positions`](crate::DecoderModel::max_positions) first.
    pub fn add(&self, embeddings: Tensor<3>, positions: Positions) -> Tensor<3> {
        let [batch, seq, width] = embeddings.dims();
        let (first, end) = match positions.padding.is_empty() {
            true => (positions.start, positions.start + seq),
            false => (0, positions.start + seq),
        };
        let table = match (&self.kind, &self.weight) {
            (Kind::Learned, Some(table)) => table.val().narrow(0, first, end - first),
            (Kind::Sinusoidal(config), _) => config
                .table(first..end, width, &embeddings.device())
                .cast(embeddings.dtype()),
            _ => return embeddings,
        };
        if positions.padding.is_empty() {
            return embeddings + table.unsqueeze::<3>();
        }
        let rows = positions.of_rows(seq, 0, &embeddings.device());
        embeddings + table.select(0, rows).reshape([batch, seq, width])
    }

    /// Rotates queries or keys `[batch, heads, seq, head_dim]`.
    pub fn rotate(&self, x: Tensor<4>, positions: Positions) -> Tensor<4> {
        match &self.kind {
            Kind::Rotary(rotary) => rotary.rotate(x, positions),
            _ => x,
        }
    }

    /// What is added to the scores of query positions against key positions, `[1, heads, queries, keys]`, f32.
    pub fn score_bias(
        &self,
        queries: Range<usize>,
        keys: Range<usize>,
        device: &Device,
    ) -> Option<Tensor<4>> {
        match (&self.kind, &self.weight) {
            (Kind::Alibi(slopes), _) => Some(alibi::bias(slopes, queries, keys, device)),
            (Kind::FalconAlibi { slopes, scale }, _) => {
                Some(alibi::rounded_bias(slopes, *scale, keys, device))
            }
            (Kind::Relative(config), Some(table)) => Some(config.bias(table.val(), queries, keys)),
            _ => None,
        }
    }
}

/// The positions of a range as f32, `[range.len()]`.
fn range_tensor(range: Range<usize>, device: &Device) -> Tensor<1> {
    Tensor::<1, Int>::arange(range.start as i64..range.end as i64, device).float()
}
