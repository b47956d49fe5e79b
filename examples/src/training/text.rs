//! Plain text on which a model's predictions are to stay what they are: from a file, or written by the model itself.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::Args;
use pear_core::files::write_atomic;
use pear_core::{DecoderModel, HeadCoefficients};
use pear_models::evaluation::{TextDivergence, TextWindows, read_text_tokens};
use pear_models::{Decoder, GenerateOptions, ModelDirectory, generate_batch};
use pear_train::PlainText;

use crate::cli;
use crate::progress::Progress;
use crate::random::Random;
use crate::tokens::TokenFile;

/// Samples that are written at once: they share a reading of the weights.
const SAMPLES_AT_ONCE: usize = 16;

/// How a price is put on changes of plain text.
#[derive(Args, Clone, Debug)]
pub struct TextPriceArgs {
    /// Price of changed predictions on plain text, in the objective: a number times the KL divergence from the unmodified model, the mean
    /// over positions. The text is that of --text, of which the last quarter is measured and not learned from; without --text the
    /// model writes one
    #[arg(long, value_name = "WEIGHT", default_value_t = 0.0)]
    pub kl_weight: f64,

    /// Price of each coefficient's distance from 1, in the objective: those that do not gain more stay on exactly 1
    #[arg(long, value_name = "WEIGHT", default_value_t = 0.0)]
    pub sparsity: f64,

    /// Tokens of each piece of plain text [default: 128, or as many as the model reads]
    #[arg(long, value_name = "TOKENS")]
    pub text_length: Option<usize>,

    /// Pieces of plain text in each step
    #[arg(long, value_name = "COUNT", default_value_t = 8)]
    pub text_batch_size: usize,

    /// Pieces that the model writes where there is no --text
    #[arg(long, value_name = "COUNT", default_value_t = 64)]
    pub text_samples: usize,
}

impl TextPriceArgs {
    /// Whether there is a price on changes of plain text.
    pub fn has_price(&self) -> bool {
        self.kl_weight > 0.0
    }

    /// Tokens of each piece.
    ///
    /// # Errors
    /// Too few, or more than the model has positions.
    pub fn length(&self, directory: &ModelDirectory) -> Result<usize> {
        let positions = directory.config().max_positions();
        let length = self
            .text_length
            .unwrap_or(positions.map_or(128, |p| p.min(128)));
        if length < 2 {
            bail!("--text-length {length}: expected at least 2");
        }
        if let Some(positions) = positions.filter(|&positions| length > positions) {
            bail!("--text-length {length}: the model has only {positions} positions");
        }
        if self.text_samples < 4 {
            bail!(
                "--text-samples {}: expected at least 4, of which one is measured and not learned from",
                self.text_samples
            );
        }
        Ok(length)
    }
}

/// Plain text, divided into what is learned from and what is measured.
#[derive(Clone, Debug)]
pub struct TrainingText {
    /// What is learned from.
    pub learned: PlainText,
    /// What is measured.
    pub measured: TextWindows,
}

impl TrainingText {
    /// Of a file: pieces of `length` tokens to be learned from; the last quarter of the file, in windows of `window` tokens, to be
    /// measured.
    ///
    /// # Errors
    /// A file that is no text, or too short to be divided.
    pub fn read(
        path: &Path,
        directory: &ModelDirectory,
        seed: u64,
        length: usize,
        window: usize,
    ) -> Result<Self> {
        let tokens = read_text_tokens(path, directory)?;
        let window = window.min(directory.config().max_positions().unwrap_or(window));
        let bos = directory.config().bos_token;
        Self::divided(&tokens, bos, seed, length, window)
            .with_context(|| format!("--text {}", path.display()))
    }

    /// Written by the model itself: `samples` pieces, each drawn from the model's own predictions after its BOS or, where it has none,
    /// after a random token. With `file` they are kept there, and taken from there with `resume`.
    ///
    /// # Errors
    /// A file that cannot be written, or is not as it was written; a model whose logits are NaN.
    pub fn sampled(
        model: &Decoder,
        directory: &ModelDirectory,
        seed: u64,
        length: usize,
        samples: usize,
        file: Option<(&Path, bool)>,
    ) -> Result<Self> {
        let kept = file.filter(|(path, resume)| *resume && path.is_file());
        let pieces = match kept {
            Some((path, _)) => TokenFile::read(path, directory.config().vocab_size)?.rows,
            None => write_samples(model, directory, seed, length, samples)?,
        };
        if let (Some((path, _)), None) = (file, kept) {
            save(path, &pieces)?;
        }
        let bos = directory.config().bos_token;
        let is_bos = |piece: &Vec<u32>| bos.is_some() && piece.first().copied() == bos;
        let has_bos = pieces.first().is_some_and(is_bos);
        let bodies = pieces.iter().map(|piece| &piece[usize::from(has_bos)..]);
        let bos = bos.filter(|_| has_bos);
        let tokens: Vec<u32> = bos.into_iter().chain(bodies.flatten().copied()).collect();
        Self::divided(&tokens, bos, seed, length, length).context("the model's own text")
    }

    fn divided(
        tokens: &[u32],
        bos: Option<u32>,
        seed: u64,
        length: usize,
        window: usize,
    ) -> Result<Self> {
        let bos = bos.filter(|bos| tokens.first() == Some(bos));
        let body = &tokens[usize::from(bos.is_some())..];
        let piece = length - usize::from(bos.is_some());
        // Whole pieces, so that none is on both sides.
        let pieces = body.len().div_ceil(piece.max(1));
        let (learned, measured) = body.split_at((piece * (pieces * 3).div_ceil(4)).min(body.len()));
        let windows = |body: &[u32], window| {
            let tokens: Vec<u32> = bos.into_iter().chain(body.iter().copied()).collect();
            TextWindows::new(&tokens, bos, window)
        };
        let too_short = "expected at least two pieces of --text-length";
        let measured = windows(measured, window).context(too_short)?;
        let learned = windows(learned, length).context(too_short)?;
        Ok(Self {
            learned: PlainText::new(learned.windows().to_vec(), seed)?,
            measured,
        })
    }

    /// How far predictions on what is measured are from those of the unmodified model.
    ///
    /// # Errors
    /// Coefficients for another shape of model.
    pub fn divergence(
        &self,
        model: &Decoder,
        coefficients: &HeadCoefficients,
    ) -> Result<TextDivergence> {
        let reweighted = model.clone().with_coefficients(coefficients)?;
        Ok(self.measured.divergence(model, &reweighted)?)
    }
}

fn write_samples(
    model: &Decoder,
    directory: &ModelDirectory,
    seed: u64,
    length: usize,
    samples: usize,
) -> Result<Vec<Vec<u32>>> {
    let special = directory.special_tokens()?;
    let ordinary: Vec<u32> = (0..model.vocab_size() as u32)
        .filter(|id| special.binary_search(id).is_err())
        .collect();
    let first = |sample: usize| match directory.config().bos_token {
        Some(bos) => bos,
        None => Random::new(seed, sample as u64).choose(&ordinary),
    };
    let mut bar = Progress::new("writing text", samples as u64);
    let mut pieces = Vec::with_capacity(samples);
    for start in (0..samples).step_by(SAMPLES_AT_ONCE) {
        let end = samples.min(start + SAMPLES_AT_ONCE);
        let prompts: Vec<Vec<u32>> = (start..end).map(|sample| vec![first(sample)]).collect();
        let options = GenerateOptions {
            max_new_tokens: length - 1,
            temperature: 1.0,
            // A seed of its own: prompts are told apart within a call only.
            seed: seed.wrapping_add((start as u64) << 32),
            ..GenerateOptions::default()
        };
        let rest = generate_batch(model, &prompts, &options)?;
        let whole = prompts.into_iter().zip(rest);
        pieces.extend(whole.map(|(prompt, rest)| [prompt, rest].concat()));
        bar.set(end as u64, String::new());
    }
    Ok(pieces)
}

fn save(path: &Path, pieces: &[Vec<u32>]) -> Result<()> {
    let mut lines = String::new();
    for piece in pieces {
        let _ = writeln!(lines, "{}", serde_json::to_string(piece)?);
    }
    cli::check_out("--checkpoint", path)?;
    write_atomic(path, |file| file.write_all(lines.as_bytes()))
        .with_context(|| format!("--checkpoint {}", path.display()))
}
