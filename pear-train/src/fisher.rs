//! What small changes of coefficients cost on plain text, all at once: the second derivative of the divergence.

use burn::prelude::*;
use pear_core::kernels::cross_entropy;
use pear_core::{DecoderModel, HeadCoefficients, HeadId, Positions};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::cholesky::Cholesky;
use crate::divergence::{all_pieces, parts, tokens};
use crate::recompute::{Pass, whole_sequences};
use crate::rows::{LOGITS_IN_MEMORY, mean_over_rows};
use crate::sequence_edit::sequence_gradients;
use crate::text::PlainText;
use crate::{Error, Result};

/// The Fisher information of a model's predictions on plain text about the coefficients of its heads, where all are 1:
/// [`text_divergence`](crate::text_divergence) at `α = 1 + δ` is about `½ δᵀ F δ`.
///
/// It may take a while to estimate, and can be written and read with serde.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Record")]
pub struct Fisher {
    heads: Vec<HeadId>,
    /// `[heads, heads]`, symmetric.
    matrix: Vec<f64>,
    samples: usize,
}

/// What is read from a file, unchecked.
#[derive(Deserialize)]
struct Record {
    heads: Vec<HeadId>,
    matrix: Vec<f64>,
    samples: usize,
}

impl TryFrom<Record> for Fisher {
    type Error = String;

    fn try_from(record: Record) -> Result<Self, String> {
        let Record {
            heads,
            matrix,
            samples,
        } = record;
        let size = heads.len();
        if matrix.len() != size * size {
            return Err(format!(
                "a Fisher matrix of {} numbers for {size} heads: expected {}",
                matrix.len(),
                size * size
            ));
        }
        let symmetric = |i: usize, j: usize| matrix[i * size + j] == matrix[j * size + i];
        if !(0..size).all(|i| (0..=i).all(|j| symmetric(i, j))) {
            return Err("a Fisher matrix that is not symmetric, or not of numbers".into());
        }
        Ok(Self {
            heads,
            matrix,
            samples,
        })
    }
}

/// Estimates the [Fisher information](Fisher) about these heads on `text`, in nats a position.
///
/// For each piece, `draws` times, a token is drawn from the model's own prediction at every position, and `g` is the gradient of the
/// sum of their log-probabilities; `F` is the mean of `g gᵀ`, by the number of positions. The tokens of the text itself would give
/// something else ([arXiv 1905.12558](https://arxiv.org/abs/1905.12558)). Draws depend on the seed, the piece and the position alone.
///
/// One pass up and down gives the `g` of `at_once` pieces or draws. There are `pieces · draws` of them, which is also the highest rank
/// that the estimate can have. In a direction that does not depend on the draws, the relative standard error of a quadratic form is
/// about `√(2 / samples)`; in one that was chosen by it, as a [natural step](crate::natural_step) is, it is too low, the more so the more
/// heads there are for each sample.
///
/// # Errors
/// As [`text_divergence`](crate::text_divergence); heads that the model does not have or that are listed twice; no draws.
pub fn fisher<M: DecoderModel>(
    model: &M,
    heads: &[HeadId],
    text: &PlainText,
    draws: usize,
    seed: u64,
    at_once: usize,
) -> Result<Fisher> {
    text.check(model)?;
    if draws == 0 {
        return Err(Error::Option {
            option: "draws",
            value: draws.to_string(),
            expected: "at least 1",
        });
    }
    let ones = HeadCoefficients::ones(heads, &model.shape(), &model.device())?;
    let mut fisher = Fisher::zero(ones.heads());
    // Every piece as often as it is drawn for.
    let repeated: Vec<usize> = all_pieces(text)
        .into_iter()
        .flat_map(|piece| vec![piece; draws])
        .collect();
    let mut drawn = vec![0; text.pieces().len()];
    for part in parts(text, &repeated, at_once) {
        let streams: Vec<u64> = part
            .iter()
            .map(|&piece| {
                drawn[piece] += 1;
                (piece * draws + drawn[piece] - 1) as u64
            })
            .collect();
        let draw = Draw { seed, streams };
        let tokens = tokens(text, &part, &model.device());
        let seq = tokens.dims()[1];
        let pass = Pass {
            input: model.embed(tokens, Positions::first(seq)),
            layer: whole_sequences(model, seq),
            loss: |residual| surprise(model, &draw, residual),
        };
        let (_, gradients) = sequence_gradients(model, &ones, part.len(), pass)?;
        let positions = part.len() * text.pieces()[part[0]].len();
        for gradient in gradients {
            // Of the mean over all positions of the part.
            let sum: Vec<f64> = gradient.iter().map(|g| g * positions as f64).collect();
            fisher.add(&sum);
        }
    }
    fisher.divide_by((draws * text.num_positions()) as f64);
    Ok(fisher.in_order(heads))
}

/// The mean, over all positions of pieces of one length, of `−log p` of the tokens that are drawn from `p`: `[1]`. `residual` is that after the
/// last layer, `[pieces, length, hidden]`.
fn surprise<M: DecoderModel>(model: &M, draw: &Draw, residual: Tensor<3>) -> Tensor<1> {
    let [batch, seq, hidden] = residual.dims();
    let vocab = model.vocab_size();
    let rows_at_once = (LOGITS_IN_MEMORY / vocab.max(1)).max(1);
    let rows = residual.reshape([batch * seq, hidden]);
    mean_over_rows(rows, rows_at_once, |residual, rows| {
        let logits = model.logits(residual.unsqueeze_dim(0));
        let logits = logits.reshape([rows.len(), vocab]);
        let plain = if logits.is_autodiff() {
            logits.clone().inner()
        } else {
            logits.clone()
        };
        let numbers: Vec<f32> = plain.into_data().iter::<f32>().collect();
        let labels: Vec<u32> = rows
            .zip(numbers.chunks_exact(vocab))
            .map(|(row, logits)| draw.token(row / seq, row % seq, logits))
            .collect();
        cross_entropy(logits, &labels)
    })
}

/// Draws tokens that depend on nothing but the seed and their place.
struct Draw {
    seed: u64,
    /// Of each sequence of the part.
    streams: Vec<u64>,
}

impl Draw {
    /// A token from the softmax of these logits.
    fn token(&self, sequence: usize, position: usize, logits: &[f32]) -> u32 {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(self.streams[sequence]);
        // A draw takes two words.
        rng.set_word_pos(2 * position as u128);
        let uniform = (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weights: Vec<f32> = logits.iter().map(|x| (x - highest).exp()).collect();
        let mut left = uniform * weights.iter().map(|&w| f64::from(w)).sum::<f64>();
        let mut likely = 0;
        for (token, &weight) in weights.iter().enumerate() {
            if weight > 0.0 {
                likely = token;
                left -= f64::from(weight);
                if left < 0.0 {
                    break;
                }
            }
        }
        likely as u32
    }
}

impl Fisher {
    fn zero(heads: Vec<HeadId>) -> Self {
        let matrix = vec![0.0; heads.len() * heads.len()];
        Self {
            heads,
            matrix,
            samples: 0,
        }
    }

    /// Adds `g gᵀ`.
    fn add(&mut self, gradient: &[f64]) {
        let rows = self.matrix.chunks_exact_mut(gradient.len());
        for (row, of_row) in rows.zip(gradient) {
            for (place, of_column) in row.iter_mut().zip(gradient) {
                *place += of_row * of_column;
            }
        }
        self.samples += 1;
    }

    fn divide_by(&mut self, by: f64) {
        self.matrix.iter_mut().for_each(|x| *x /= by);
    }

    /// The same with its heads in another order.
    pub(crate) fn in_order(&self, heads: &[HeadId]) -> Self {
        let place = |head: &HeadId| self.heads.iter().position(|other| other == head);
        let places: Vec<usize> = heads.iter().filter_map(place).collect();
        let size = self.heads.len();
        let matrix = places
            .iter()
            .flat_map(|row| places.iter().map(move |column| (row, column)))
            .map(|(row, column)| self.matrix[row * size + column])
            .collect();
        Self {
            heads: heads.to_vec(),
            matrix,
            samples: self.samples,
        }
    }

    /// The heads, in the order of rows and columns.
    pub fn heads(&self) -> &[HeadId] {
        &self.heads
    }

    /// The matrix, `[heads, heads]`, one row after the other.
    pub fn matrix(&self) -> &[f64] {
        &self.matrix
    }

    /// Number of gradients that it is the mean of.
    pub fn samples(&self) -> usize {
        self.samples
    }

    /// `½ δᵀ F δ`: the divergence, in nats a position, that changing coefficients from 1 by `delta` would make if it were quadratic.
    ///
    /// # Panics
    /// If there are not as many changes as heads.
    pub fn divergence(&self, delta: &[f64]) -> f64 {
        assert_eq!(
            delta.len(),
            self.heads.len(),
            "Fisher::divergence: {} changes for {} heads",
            delta.len(),
            self.heads.len()
        );
        let rows = self.matrix.chunks_exact(delta.len().max(1));
        let products = rows.map(|row| row.iter().zip(delta).map(|(a, b)| a * b).sum::<f64>());
        0.5 * products.zip(delta).map(|(a, b)| a * b).sum::<f64>()
    }

    /// What tells it from another one.
    pub(crate) fn fingerprint(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        self.matrix.iter().for_each(|x| {
            hasher.update(&x.to_le_bytes());
        });
        hasher.finalize().to_hex()[..32].to_owned()
    }

    /// The factor of `F + ridge · mean(diagonal) · I`.
    pub(crate) fn factor(&self, ridge: f64) -> Result<Cholesky> {
        self.shrunk_factor(0.0, ridge)
    }

    /// The factor of `(1 − shrinkage) · F + shrinkage · diag(F) + ridge · mean(diagonal) · I`.
    pub(crate) fn shrunk_factor(&self, shrinkage: f64, ridge: f64) -> Result<Cholesky> {
        let size = self.heads.len();
        let diagonal: Vec<f64> = (0..size).map(|i| self.matrix[i * size + i]).collect();
        let add = ridge * diagonal.iter().sum::<f64>() / size.max(1) as f64;
        let mut matrix: Vec<f64> = self.matrix.iter().map(|x| (1.0 - shrinkage) * x).collect();
        for (i, of_head) in diagonal.iter().enumerate() {
            matrix[i * size + i] = of_head + add;
        }
        Cholesky::new(matrix, size).ok_or(Error::Fisher {
            heads: size,
            samples: self.samples,
        })
    }
}
