//! Plain text on which the predictions of a model are to stay what they are.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use burn::prelude::*;
use pear_core::forward::{check_length, check_vocabulary, residual, token_tensor};
use pear_core::{DecoderModel, NoEdit};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::{Error, Result};

/// Numbers of the unmodified model's residual streams that are kept for later steps: 256 MiB in f32.
const KEPT_NUMBERS: usize = 1 << 26;

/// Plain text in pieces, each of which is read on its own, and the order in which a run reads them.
///
/// Which pieces a step reads depends on the seed and the step alone: every piece once, in random order, then every piece again in
/// another order. That makes a resumed run read what the interrupted one would have read.
///
/// ```
/// use pear_train::PlainText;
/// let text = PlainText::new(vec![vec![5, 7, 11], vec![13, 17], vec![19]], 3)?;
/// assert_eq!(text.num_positions(), 6);
/// let mut first_step = text.drawn(0, 3);
/// first_step.sort();
/// assert_eq!(first_step, [0, 1, 2]);
/// assert!(PlainText::new(vec![vec![5], vec![]], 3).is_err());
/// # Ok::<(), pear_train::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlainText {
    pieces: Vec<Vec<u32>>,
    seed: u64,
}

impl PlainText {
    /// Pieces of token ids, drawn in the order of `seed`. They may be of different lengths; pieces of one length run together.
    ///
    /// # Errors
    /// [`Error::Text`] for no pieces, or one without tokens.
    pub fn new(pieces: Vec<Vec<u32>>, seed: u64) -> Result<Self> {
        if pieces.is_empty() {
            return Err(Error::Text("no pieces: expected at least one".into()));
        }
        if let Some(index) = pieces.iter().position(Vec::is_empty) {
            return Err(Error::Text(format!(
                "piece {index} has no tokens: expected at least one"
            )));
        }
        Ok(Self { pieces, seed })
    }

    /// The pieces.
    pub fn pieces(&self) -> &[Vec<u32>] {
        &self.pieces
    }

    /// The seed of their order.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Tokens of all pieces together: positions over which a divergence is averaged.
    pub fn num_positions(&self) -> usize {
        self.pieces.iter().map(Vec::len).sum()
    }

    /// The indices of the `count` pieces that step `step`, counted from 0, reads. Where the pieces come to an end, they begin again.
    pub fn drawn(&self, step: usize, count: usize) -> Vec<usize> {
        let mut order = (usize::MAX, Vec::new());
        let mut draw = |place: usize| {
            let epoch = place / self.pieces.len();
            if order.0 != epoch {
                order = (epoch, self.order(epoch));
            }
            order.1[place % self.pieces.len()]
        };
        let start = step * count;
        (start..start + count).map(&mut draw).collect()
    }

    /// A permutation of the pieces.
    fn order(&self, epoch: usize) -> Vec<usize> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(epoch as u64);
        let mut order: Vec<usize> = (0..self.pieces.len()).collect();
        for last in (1..order.len()).rev() {
            // Multiply-shift, as for proxy sequences: no release of a library changes it.
            let other = (u128::from(rng.next_u64()) * (last as u128 + 1)) >> 64;
            order.swap(last, other as usize);
        }
        order
    }

    /// Whether a model can read every piece.
    pub(crate) fn check<M: DecoderModel>(&self, model: &M) -> Result<()> {
        for piece in &self.pieces {
            check_length(model, piece.len())?;
            check_vocabulary(model, piece.iter().map(|&id| i64::from(id)))?;
        }
        Ok(())
    }

    /// What tells this text from another one.
    pub(crate) fn fingerprint(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.seed.to_le_bytes());
        for piece in &self.pieces {
            hasher.update(&(piece.len() as u64).to_le_bytes());
            piece.iter().for_each(|id| {
                hasher.update(&id.to_le_bytes());
            });
        }
        hasher.finalize().to_hex()[..32].to_owned()
    }
}

/// The residual streams that the unmodified model, on one device, ends with: `[positions, hidden]` for each piece that was read.
///
/// They take little room beside the logits that they stand for. Each is computed for its piece alone, so that it does not depend on
/// which pieces a step reads together or on whether it has been kept.
#[derive(Debug, Default)]
pub(crate) struct References {
    kept: Mutex<BTreeMap<usize, Tensor<2>>>,
}

impl References {
    /// Of piece `index`, `[positions, hidden]`.
    pub(crate) fn of<M: DecoderModel>(
        &self,
        model: &M,
        text: &PlainText,
        index: usize,
    ) -> Result<Tensor<2>> {
        if let Some(kept) = self.kept().get(&index) {
            return Ok(kept.clone());
        }
        let tokens = token_tensor(&[&text.pieces[index]], &model.device());
        let residual = residual(model, tokens, &mut NoEdit)?.squeeze_dim::<2>(0);
        let mut kept = self.kept();
        // Of pieces of one length, at least nearly, as pieces of a text are.
        let numbers: usize = residual.dims().iter().product();
        if (kept.len() + 1) * numbers <= KEPT_NUMBERS {
            kept.insert(index, residual.clone());
        }
        Ok(residual)
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<usize, Tensor<2>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_is_read_once_before_any_is_read_again() {
        let text = PlainText::new(vec![vec![1]; 7], 5).unwrap();
        let drawn: Vec<usize> = (0..14).flat_map(|step| text.drawn(step, 3)).collect();
        for epoch in drawn.chunks(7) {
            let mut sorted = epoch.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2, 3, 4, 5, 6]);
        }
        assert_ne!(drawn[..7], drawn[7..14]);
        let other = PlainText::new(vec![vec![1]; 7], 6).unwrap();
        assert_ne!(text.drawn(0, 7), other.drawn(0, 7));
    }

    #[test]
    fn the_fingerprint_tells_pieces_and_seeds_apart() {
        let print = |pieces: &[&[u32]], seed| {
            let pieces = pieces.iter().map(|piece| piece.to_vec()).collect();
            PlainText::new(pieces, seed).unwrap().fingerprint()
        };
        let one = print(&[&[1, 2], &[3]], 0);
        assert_eq!(one, print(&[&[1, 2], &[3]], 0));
        for other in [
            print(&[&[1, 2], &[3]], 1),
            print(&[&[1], &[2, 3]], 0),
            print(&[&[1, 2, 3]], 0),
            print(&[&[3], &[1, 2]], 0),
        ] {
            assert_ne!(one, other);
        }
    }

    #[test]
    fn text_without_tokens_is_refused() {
        for (pieces, expected) in [(vec![], "no pieces"), (vec![vec![1], vec![]], "piece 1")] {
            let error = PlainText::new(pieces, 0).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
