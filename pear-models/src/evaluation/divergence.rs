//! How far the predictions of a re-weighted model are from those of the model without coefficients.

use std::cell::OnceCell;

use burn::prelude::*;
use burn::tensor::DType;
use pear_core::forward::{check_length, not_finite, residual, token_tensor};
use pear_core::kernels::kl_divergence;
use pear_core::{DecoderModel, NoEdit};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::score::check_tokens;

/// Logits of one model that are held at once: 16 MiB in f32.
const LOGITS_AT_ONCE: usize = 1 << 22;

/// How two models' predictions of the next token differ at one position.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PositionDivergence {
    /// Kullback–Leibler divergence `Σ p₀ (log p₀ − log p)` over the vocabulary, in nats; `p₀` is the unmodified model.
    pub kl: f64,
    /// Whether both models find the same token most likely.
    pub same_top_token: bool,
}

/// The mean over positions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TextDivergence {
    /// Mean KL divergence, in nats a position.
    pub kl: f64,
    /// Share of positions at which both models find the same token most likely.
    pub same_top_token: f64,
    /// Number of positions.
    pub positions: usize,
}

impl TextDivergence {
    /// The mean; NaN without positions.
    pub fn of(positions: &[PositionDivergence]) -> Self {
        let count = positions.len() as f64;
        let same = positions.iter().filter(|position| position.same_top_token);
        Self {
            kl: positions.iter().map(|position| position.kl).sum::<f64>() / count,
            same_top_token: same.count() as f64 / count,
            positions: positions.len(),
        }
    }
}

/// Compares the predictions of two models at each position of `tokens`, the last one included.
///
/// Logits are computed for some positions at a time: beside the models and their residual streams `[1, seq, hidden]`, memory is
/// bounded by a few buffers of 16 MiB (or of one row of logits, where that is larger). Two equal models have divergences of exactly 0;
/// rounding in f32 leaves errors of about 1e-7 otherwise, so that tiny divergences may come out negative.
///
/// ```
/// use burn::prelude::*;
/// use pear_core::{DecoderModel, HeadCoefficients, HeadId};
/// use pear_models::{DecoderConfig, DecoderSizes};
/// use pear_models::evaluation::{TextDivergence, divergences};
///
/// let device = Device::flex();
/// let sizes = DecoderSizes {
///     vocab_size: 100,
///     hidden_size: 32,
///     intermediate_size: 64,
///     num_hidden_layers: 2,
///     num_attention_heads: 4,
/// };
/// let model = DecoderConfig::llama(sizes).init(&device)?;
/// let coefficients = HeadCoefficients::new(&[(HeadId::new(1, 2), 0.5)], &model.shape(), &device)?;
/// let reweighted = model.clone().with_coefficients(&coefficients)?;
///
/// let positions = divergences(&model, &reweighted, &[5, 7, 11, 13])?;
/// assert_eq!(positions.len(), 4);
/// assert!(TextDivergence::of(&positions).kl > 0.0);
/// assert_eq!(TextDivergence::of(&divergences(&model, &model, &[5, 7, 11, 13])?).kl, 0.0);
/// # Ok::<(), pear_models::Error>(())
/// ```
///
/// # Errors
/// [`Error::Input`] for no tokens, ids outside the vocabulary, or models with different vocabularies; more tokens than a model has
/// positions.
pub fn divergences<M: DecoderModel, N: DecoderModel>(
    original: &M,
    reweighted: &N,
    tokens: &[u32],
) -> Result<Vec<PositionDivergence>, Error> {
    divergences_in_chunks(original, reweighted, tokens, LOGITS_AT_ONCE)
}

/// Holds at most `logits_at_once` logits of each model, but at least those of one position.
fn divergences_in_chunks<M: DecoderModel, N: DecoderModel>(
    original: &M,
    reweighted: &N,
    tokens: &[u32],
    logits_at_once: usize,
) -> Result<Vec<PositionDivergence>, Error> {
    check_vocabularies(original, reweighted)?;
    let residual = read(original, tokens)?;
    from_residual(original, &residual, reweighted, tokens, logits_at_once)
}

/// Pieces of text as the unmodified model reads them: once, however many models are compared with it.
///
/// What is kept of a piece is its last residual stream, `[1, seq, hidden]`, when it is first asked for.
#[derive(Debug)]
pub struct TextReference<'a, M> {
    original: &'a M,
    pieces: &'a [Vec<u32>],
    residuals: Vec<OnceCell<Tensor<3>>>,
}

impl<'a, M: DecoderModel> TextReference<'a, M> {
    /// Pieces that are read on their own. Nothing is computed yet.
    pub fn new(original: &'a M, pieces: &'a [Vec<u32>]) -> Self {
        let residuals = vec![OnceCell::new(); pieces.len()];
        Self {
            original,
            pieces,
            residuals,
        }
    }

    /// How far the predictions of `reweighted` are from those of the unmodified model, over all positions of all pieces.
    ///
    /// # Errors
    /// As [`divergences`].
    pub fn divergence<N: DecoderModel>(&self, reweighted: &N) -> Result<TextDivergence, Error> {
        check_vocabularies(self.original, reweighted)?;
        let mut all = Vec::new();
        for (tokens, residual) in self.pieces.iter().zip(&self.residuals) {
            let residual = match residual.get() {
                Some(residual) => residual,
                None => {
                    let read = read(self.original, tokens)?;
                    residual.get_or_init(|| read)
                }
            };
            all.extend(from_residual(
                self.original,
                residual,
                reweighted,
                tokens,
                LOGITS_AT_ONCE,
            )?);
        }
        Ok(TextDivergence::of(&all))
    }
}

fn check_vocabularies<M: DecoderModel, N: DecoderModel>(
    original: &M,
    reweighted: &N,
) -> Result<(), Error> {
    let [ours, theirs] = [original.vocab_size(), reweighted.vocab_size()];
    if ours == theirs {
        return Ok(());
    }
    Err(Error::Input(format!(
        "vocabularies of {ours} and {theirs} tokens cannot be compared"
    )))
}

/// The divergences from a model whose residual stream after the last layer is known.
fn from_residual<M: DecoderModel, N: DecoderModel>(
    original: &M,
    original_residual: &Tensor<3>,
    reweighted: &N,
    tokens: &[u32],
    logits_at_once: usize,
) -> Result<Vec<PositionDivergence>, Error> {
    let reweighted_residual = read(reweighted, tokens)?;
    let rows = (logits_at_once / original.vocab_size().max(1)).max(1);
    let mut divergences = Vec::with_capacity(tokens.len());
    for start in (0..tokens.len()).step_by(rows) {
        let len = rows.min(tokens.len() - start);
        let chunk = |residual: &Tensor<3>| residual.clone().narrow(1, start, len);
        divergences.extend(compare(
            logits(original, chunk(original_residual)),
            logits(reweighted, chunk(&reweighted_residual)),
        ));
    }
    let is_finite = |divergence: &PositionDivergence| divergence.kl.is_finite();
    if let Some(at) = divergences.iter().position(|it| !is_finite(it)) {
        let kl = divergences[at].kl;
        let found = format!("the divergence after {} tokens is {kl}", at + 1);
        return Err(not_finite(reweighted, tokens, &mut NoEdit, found).into());
    }
    Ok(divergences)
}

/// The residual stream after the last layer: `[1, seq, hidden]`.
fn read<M: DecoderModel>(model: &M, tokens: &[u32]) -> Result<Tensor<3>, Error> {
    check_tokens(model, tokens)?;
    check_length(model, tokens.len())?;
    let tokens = token_tensor(&[tokens], &model.device());
    Ok(residual(model, tokens, &mut NoEdit)?)
}

/// `[1, rows, hidden]` to logits `[rows, vocab]` in f32.
fn logits<M: DecoderModel>(model: &M, residual: Tensor<3>) -> Tensor<2> {
    let logits = model.logits(residual);
    let [_, rows, vocab_size] = logits.dims();
    logits.reshape([rows, vocab_size]).cast(DType::F32)
}

/// One divergence for each row of the logits `[rows, vocab]`.
fn compare(original: Tensor<2>, reweighted: Tensor<2>) -> Vec<PositionDivergence> {
    let reweighted = reweighted.to_device(&original.device());
    let same_top = original
        .clone()
        .argmax(1)
        .equal(reweighted.clone().argmax(1))
        .into_data();
    let kl = kl_divergence(reweighted, original).into_data();
    kl.iter::<f64>()
        .zip(same_top.iter::<bool>())
        .map(|(kl, same_top_token)| PositionDivergence { kl, same_top_token })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use pear_core::position::Positions;
    use pear_core::{HeadCoefficients, HeadId, ModelShape, forward};

    use super::*;
    use crate::{Decoder, DecoderConfig, DecoderSizes};

    const TOKENS: [u32; 9] = [3, 1, 4, 1, 5, 9, 2, 6, 5];

    const SIZES: DecoderSizes = DecoderSizes {
        vocab_size: 37,
        hidden_size: 24,
        intermediate_size: 40,
        num_hidden_layers: 2,
        num_attention_heads: 3,
    };

    fn models() -> (Decoder, Decoder) {
        let device = Device::flex();
        device.seed(11);
        let model = DecoderConfig::llama(SIZES).init(&device).unwrap();
        let values = [(HeadId::new(0, 1), -4.0), (HeadId::new(1, 2), 9.0)];
        let coefficients = HeadCoefficients::new(&values, &model.shape(), &device).unwrap();
        let reweighted = model.clone().with_coefficients(&coefficients).unwrap();
        (model, reweighted)
    }

    fn rows(values: [[f32; 3]; 2]) -> Tensor<2> {
        Tensor::from_data(values, &Device::flex())
    }

    #[test]
    fn divergences_of_given_probabilities_are_those_computed_by_hand() {
        let original = rows([[0.5, 0.25, 0.25], [0.25, 0.75, 0.0]]).log();
        let reweighted = rows([[0.25, 0.5, 0.25], [0.5, 0.5, 0.0]]).log();
        // First row: 0.5 ln 2 + 0.25 ln 0.5 = 0.25 ln 2. Second row, its third token impossible: 0.25 ln 0.5 + 0.75 ln 1.5.
        let expected = [0.25 * 2f64.ln(), 0.25 * 0.5f64.ln() + 0.75 * 1.5f64.ln()];
        let found = compare(original, reweighted);
        for (found, kl) in found.iter().zip(expected) {
            assert!((found.kl - kl).abs() < 1e-6, "{found:?}, expected {kl}");
        }
        let top_tokens = compare(
            rows([[0.5, 0.3, 0.2], [0.2, 0.5, 0.3]]).log(),
            rows([[0.4, 0.3, 0.3], [0.2, 0.3, 0.5]]).log(),
        );
        assert!(top_tokens[0].same_top_token && !top_tokens[1].same_top_token);
    }

    #[test]
    fn divergences_of_models_are_those_of_their_logits_in_double_precision() {
        let (original, reweighted) = models();
        let log_probs = |model: &Decoder| -> Vec<Vec<f64>> {
            let tokens = token_tensor(&[TOKENS], &model.device());
            let logits: Vec<f64> = forward::logits(model, tokens, &mut NoEdit)
                .unwrap()
                .into_data()
                .iter()
                .collect();
            let log_softmax = |row: &[f64]| -> Vec<f64> {
                let total = row.iter().map(|logit| logit.exp()).sum::<f64>().ln();
                row.iter().map(|logit| logit - total).collect()
            };
            logits.chunks(37).map(log_softmax).collect()
        };
        let top =
            |row: &[f64]| (1..row.len()).fold(0, |top, i| if row[i] > row[top] { i } else { top });
        let found = divergences(&original, &reweighted, &TOKENS).unwrap();
        assert_eq!(found.len(), TOKENS.len());
        let pairs = log_probs(&original).into_iter().zip(log_probs(&reweighted));
        for (found, (original, reweighted)) in found.iter().zip(pairs) {
            let terms = original.iter().zip(&reweighted);
            let kl: f64 = terms.map(|(p0, p)| p0.exp() * (p0 - p)).sum();
            assert!((found.kl - kl).abs() < 1e-6, "{found:?}, expected {kl}");
            assert_eq!(found.same_top_token, top(&original) == top(&reweighted));
        }
        let mean = TextDivergence::of(&found);
        let same = found.iter().filter(|position| position.same_top_token);
        assert_eq!(mean.same_top_token, same.count() as f64 / 9.0);
        assert!(mean.kl > 1e-3, "{mean:?}");
    }

    /// A model that remembers the most positions it was asked the logits of at once, and how many pieces it read.
    struct Recording {
        model: Decoder,
        most_rows: Cell<usize>,
        pieces: Cell<usize>,
    }

    impl DecoderModel for Recording {
        type Layer<'a> = <Decoder as DecoderModel>::Layer<'a>;

        fn shape(&self) -> ModelShape {
            self.model.shape()
        }

        fn hidden_size(&self) -> usize {
            self.model.hidden_size()
        }

        fn vocab_size(&self) -> usize {
            self.model.vocab_size()
        }

        fn device(&self) -> Device {
            self.model.device()
        }

        fn max_positions(&self) -> Option<usize> {
            self.model.max_positions()
        }

        fn embed(&self, tokens: Tensor<2, Int>, positions: Positions) -> Tensor<3> {
            self.pieces.set(self.pieces.get() + 1);
            self.model.embed(tokens, positions)
        }

        fn layer(&self, index: usize) -> pear_core::Result<Self::Layer<'_>> {
            self.model.layer(index)
        }

        fn logits(&self, residual: Tensor<3>) -> Tensor<3> {
            let rows = residual.dims()[1];
            self.most_rows.set(self.most_rows.get().max(rows));
            self.model.logits(residual)
        }
    }

    #[test]
    fn no_more_logits_are_held_at_once_than_allowed_and_chunks_change_nothing() {
        let (original, reweighted) = models();
        let whole = divergences(&original, &reweighted, &TOKENS).unwrap();
        // Room for 9 positions, 4, 1, and less than one.
        for (logits_at_once, rows) in [(37 * 9, 9), (37 * 5 - 1, 4), (37, 1), (36, 1)] {
            let record = |model: &Decoder| Recording {
                model: model.clone(),
                most_rows: Cell::new(0),
                pieces: Cell::new(0),
            };
            let (original, reweighted) = (record(&original), record(&reweighted));
            let found =
                divergences_in_chunks(&original, &reweighted, &TOKENS, logits_at_once).unwrap();
            assert_eq!(
                (original.most_rows.get(), reweighted.most_rows.get()),
                (rows, rows)
            );
            assert_eq!(found.len(), whole.len());
            for (found, whole) in found.iter().zip(&whole) {
                assert!((found.kl - whole.kl).abs() < 1e-6, "{found:?}, {whole:?}");
                assert_eq!(found.same_top_token, whole.same_top_token);
            }
        }
    }

    #[test]
    fn a_text_that_the_unmodified_model_reads_once_gives_what_it_gives_each_time() {
        let (original, reweighted) = models();
        let recording = Recording {
            model: original.clone(),
            most_rows: Cell::new(0),
            pieces: Cell::new(0),
        };
        let pieces = [TOKENS.to_vec(), TOKENS[..4].to_vec()];
        let reference = TextReference::new(&recording, &pieces);
        assert_eq!(recording.pieces.get(), 0);
        for model in [&reweighted, &original, &reweighted] {
            let each: Vec<_> = pieces
                .iter()
                .flat_map(|piece| divergences(&original, model, piece).unwrap())
                .collect();
            let found = reference.divergence(model).unwrap();
            assert_eq!(found, TextDivergence::of(&each));
        }
        assert_eq!(recording.pieces.get(), 2);
    }

    #[test]
    fn equal_models_have_no_divergence() {
        let (model, _) = models();
        let divergence = TextDivergence::of(&divergences(&model, &model.clone(), &TOKENS).unwrap());
        assert_eq!(
            divergence,
            TextDivergence {
                kl: 0.0,
                same_top_token: 1.0,
                positions: 9
            }
        );
    }

    #[test]
    fn models_of_other_vocabularies_and_unknown_tokens_are_errors() {
        let (model, _) = models();
        let sizes = DecoderSizes {
            vocab_size: 38,
            ..SIZES
        };
        let other = DecoderConfig::llama(sizes).init(&Device::flex()).unwrap();
        let error = divergences(&model, &other, &TOKENS).unwrap_err();
        assert!(
            error.to_string().contains("vocabularies of 37 and 38"),
            "{error}"
        );
        assert!(divergences(&model, &model, &[37]).is_err());
        assert!(divergences(&model, &model, &[]).is_err());
    }
}
