//! The proxy task: random tokens, then the same tokens again (paper, §3.1).
//!
//! A sequence is `x_0 … x_{n-1} x_0 … x_{n-1}`. A model that uses its context predicts the second half perfectly but for its first
//! token; nothing else helps it.

use std::collections::BTreeSet;
use std::ops::Range;

use burn::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::forward::token_tensor;
use crate::{Error, Result};

/// Draws proxy sequences.
///
/// Sequence `index` of length `n` depends only on the seed, the pool, `n` and `index`, not on batches, threads or platform.
///
/// ```
/// use pear_core::ProxyTask;
/// let task = ProxyTask::new(1000, &[0, 1, 2], 7)?;
/// let batch = task.batch(5, 0..3)?;
/// let row = &batch.sequences()[0];
/// assert_eq!(row.len(), 10);
/// assert_eq!(row[..5], row[5..]);
/// # Ok::<(), pear_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ProxyTask {
    pool: Vec<u32>,
    vocab_size: usize,
    bos: Option<u32>,
    seed: u64,
}

impl ProxyTask {
    /// Draws uniformly from the ids below `vocab_size` without the `special` ones.
    ///
    /// # Errors
    /// [`Error::ProxyTask`] if fewer than two tokens are left.
    pub fn new(vocab_size: usize, special: &[u32], seed: u64) -> Result<Self> {
        let special: BTreeSet<u32> = special.iter().copied().collect();
        let pool: Vec<u32> = (0..vocab_size as u32)
            .filter(|id| !special.contains(id))
            .collect();
        if pool.len() < 2 {
            return Err(Error::ProxyTask(format!(
                "{} of {vocab_size} tokens are left when the special ones are taken out: at least 2 are needed",
                pool.len()
            )));
        }
        Ok(Self {
            pool,
            vocab_size,
            bos: None,
            seed,
        })
    }

    /// Puts this token before every sequence; all positions move by one.
    pub fn with_bos(mut self, bos: Option<u32>) -> Self {
        self.bos = bos;
        self
    }

    /// The seed that sequences are drawn with.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Sequences `indices` of `2n` tokens.
    ///
    /// # Errors
    /// [`Error::ProxyTask`] for `n` below 2, no sequences, or a BOS that is not in the vocabulary.
    pub fn batch(&self, n: usize, indices: Range<usize>) -> Result<ProxyBatch> {
        if n < 2 {
            return Err(Error::ProxyTask(format!(
                "a length of n = {n}: at least 2 tokens must be repeated"
            )));
        }
        if indices.is_empty() {
            return Err(Error::ProxyTask("no sequences asked for".into()));
        }
        if let Some(bos) = self.bos.filter(|&bos| bos as usize >= self.vocab_size) {
            return Err(Error::ProxyTask(format!(
                "the BOS {bos} is beyond the vocabulary of {} tokens",
                self.vocab_size
            )));
        }
        let sequences = indices.map(|index| self.sequence(n, index)).collect();
        Ok(ProxyBatch {
            sequences,
            n,
            bos: self.bos.is_some(),
            seed: Some(self.seed),
        })
    }

    fn sequence(&self, n: usize, index: usize) -> Vec<u32> {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&self.seed.to_le_bytes());
        seed[8..16].copy_from_slice(&(n as u64).to_le_bytes());
        let mut rng = ChaCha8Rng::from_seed(seed);
        rng.set_stream(index as u64);
        // Multiply-shift: the bias is below 2^-32 for any vocabulary, and no release of a library changes it.
        let mut draw =
            || self.pool[((u128::from(rng.next_u64()) * self.pool.len() as u128) >> 64) as usize];
        let half: Vec<u32> = (0..n).map(|_| draw()).collect();
        self.bos
            .into_iter()
            .chain(half.iter().copied())
            .chain(half.iter().copied())
            .collect()
    }
}

/// Proxy sequences of one length.
#[derive(Clone, Debug, PartialEq)]
pub struct ProxyBatch {
    sequences: Vec<Vec<u32>>,
    n: usize,
    bos: bool,
    /// The seed they were drawn with, if they were drawn.
    seed: Option<u64>,
}

impl ProxyBatch {
    /// Sequences that come from elsewhere, all of `2n` tokens without a BOS.
    ///
    /// # Errors
    /// [`Error::ProxySequence`] for one that is shorter than 4 tokens, of odd length, of another length than the first, whose halves differ, or
    /// that holds an id of `vocab_size` or more; [`Error::ProxyTask`] if there is none.
    pub fn from_sequences(sequences: Vec<Vec<u32>>, vocab_size: usize) -> Result<Self> {
        let Some(first) = sequences.first() else {
            return Err(Error::ProxyTask("no sequences given".into()));
        };
        let length = first.len();
        for (index, sequence) in sequences.iter().enumerate() {
            let problem = if sequence.len() < 4 || !sequence.len().is_multiple_of(2) {
                Some(format!(
                    "{} tokens: expected an even number, at least 4",
                    sequence.len()
                ))
            } else if sequence.len() != length {
                Some(format!(
                    "{} tokens where the first has {length}",
                    sequence.len()
                ))
            } else if let Some(problem) = vocabulary_problem(sequence, vocab_size) {
                Some(problem)
            } else if sequence[..length / 2] != sequence[length / 2..] {
                Some("its two halves differ".into())
            } else {
                None
            };
            if let Some(problem) = problem {
                return Err(Error::ProxySequence { index, problem });
            }
        }
        Ok(Self {
            sequences,
            n: length / 2,
            bos: false,
            seed: None,
        })
    }

    /// # Errors
    /// [`Error::ProxySequence`] for the first sequence with an id of `vocab_size` or more.
    pub fn check_vocabulary(&self, vocab_size: usize) -> Result<()> {
        for (index, sequence) in self.sequences.iter().enumerate() {
            if let Some(problem) = vocabulary_problem(sequence, vocab_size) {
                return Err(Error::ProxySequence { index, problem });
            }
        }
        Ok(())
    }

    /// The sequences, both halves, after the BOS if there is one.
    pub fn sequences(&self) -> &[Vec<u32>] {
        &self.sequences
    }

    /// The seed they were drawn with; `None` for sequences that were given.
    pub fn seed(&self) -> Option<u64> {
        self.seed
    }

    /// Tokens that are repeated.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Number of sequences.
    pub fn len(&self) -> usize {
        self.sequences.len()
    }

    /// Whether there are none (which no constructor allows).
    pub fn is_empty(&self) -> bool {
        self.sequences.is_empty()
    }

    /// Tokens in a sequence, the BOS counted in.
    pub fn seq_len(&self) -> usize {
        2 * self.n + usize::from(self.bos)
    }

    /// The last position whose next token can be predicted, `2n − 2` (one more with a BOS): where heads are replaced and logits read.
    pub fn patch_position(&self) -> usize {
        self.seq_len() - 2
    }

    /// The token that follows the patched position, of each sequence: `x_{n-1}`.
    pub fn targets(&self) -> impl Iterator<Item = u32> {
        self.sequences
            .iter()
            .map(|sequence| sequence[sequence.len() - 1])
    }

    /// The positions that predict the second half, `n − 1 ..= 2n − 2` (one more with a BOS): the terms of the loss.
    pub fn predicting(&self) -> Range<usize> {
        let end = self.seq_len() - 1;
        end - self.n..end
    }

    /// Token ids `[batch, seq_len]`.
    pub fn tokens(&self, device: &Device) -> Tensor<2, Int> {
        token_tensor(&self.sequences, device)
    }

    /// The tokens predicted at [`predicting`](Self::predicting): `[batch, n]`.
    pub fn labels(&self, device: &Device) -> Tensor<2, Int> {
        token_tensor(&self.label_rows(), device)
    }

    /// The same as numbers, one sequence after the other: `batch * n`.
    pub fn label_ids(&self) -> Vec<u32> {
        self.label_rows().concat()
    }

    fn label_rows(&self) -> Vec<&[u32]> {
        self.sequences
            .iter()
            .map(|s| &s[s.len() - self.n..])
            .collect()
    }

    /// Part of the sequences.
    ///
    /// # Panics
    /// If `range` is empty or reaches beyond the sequences.
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(!range.is_empty(), "an empty batch");
        Self {
            sequences: self.sequences[range].to_vec(),
            n: self.n,
            bos: self.bos,
            seed: self.seed,
        }
    }
}

fn vocabulary_problem(sequence: &[u32], vocab_size: usize) -> Option<String> {
    let id = sequence.iter().find(|&&id| id as usize >= vocab_size)?;
    Some(format!(
        "token {id} is not in the vocabulary of {vocab_size}"
    ))
}
