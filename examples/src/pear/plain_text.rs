//! The plain text on which it is measured how far a re-weighted model is from the unmodified one.

use std::path::Path;

use anyhow::{Result, bail};
use pear_models::evaluation::{TextDivergence, TextReference, read_text_tokens};
use pear_models::{Decoder, GenerateOptions, ModelDirectory, generate_batch};
use serde::{Deserialize, Serialize};

use super::encoder::Encoder;
use super::source::is_tiny_world;
use crate::random::Random;
use crate::tiny_world::World;

/// Tokens of a file that are read on their own.
const WINDOW: usize = 256;
/// Which part a piece belongs to, in turn: what is learned from, development, held out.
const PARTS: [usize; 4] = [0, 1, 0, 2];
/// Tokens of each part that are used at most.
const MOST_TOKENS: [usize; 3] = [8192, 1536, 1536];
/// New tokens of each of the model's own samples, and how often each opening is continued at most.
const SAMPLE_TOKENS: usize = 112;
const MOST_ROUNDS: u64 = 8;
/// Rows of the tiny world's sentences, of 65 tokens.
const TINY_ROWS: usize = 48;

/// What the model's own samples begin with.
const OPENINGS: &str = include_str!("openings.txt");

/// A text in three parts, pieces of tokens that are read on their own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlainText {
    /// Where it comes from.
    pub source: String,
    /// What is learned from: half of it.
    pub learning: Vec<Vec<u32>>,
    /// What candidates are compared on.
    pub development: Vec<Vec<u32>>,
    /// What the choice is judged on.
    pub held_out: Vec<Vec<u32>>,
}

impl PlainText {
    /// Reads a text file. Its pieces go to the parts in turn.
    ///
    /// # Errors
    /// A file that cannot be read or is too short, naming it.
    pub fn read(path: &Path, directory: &ModelDirectory) -> Result<Self> {
        let tokens = read_text_tokens(path, directory)?;
        let window = directory
            .config()
            .max_positions()
            .map_or(WINDOW, |most| most.min(WINDOW));
        let pieces: Vec<Vec<u32>> = tokens
            .chunks(window)
            .filter(|piece| piece.len() >= 2)
            .map(<[u32]>::to_vec)
            .collect();
        if pieces.len() < PARTS.len() {
            bail!(
                "--text {}: {} tokens: expected more than {}, for {} pieces",
                path.display(),
                tokens.len(),
                (PARTS.len() - 1) * window,
                PARTS.len()
            );
        }
        let name = path.file_name().unwrap_or(path.as_os_str());
        Ok(Self::divided(name.to_string_lossy().into_owned(), pieces))
    }

    /// A text for a model that comes with none: sentences of the tiny world for a model of it, the model's own samples for others.
    ///
    /// # Errors
    /// A tokenizer that cannot read the openings of the samples.
    pub fn made(
        model: &Decoder,
        directory: &ModelDirectory,
        encoder: &Encoder,
        seed: u64,
    ) -> Result<Self> {
        if is_tiny_world(directory, encoder)? {
            let rows = World::new(0).sentences(TINY_ROWS, 65, &mut Random::new(seed, 300));
            return Ok(Self::divided("sentences of the tiny world".into(), rows));
        }
        let openings: Vec<Vec<u32>> = OPENINGS
            .lines()
            .map(|opening| encoder.encode(opening))
            .collect::<Result<_>>()?;
        // Samples may end early: as many rounds as give enough.
        let enough = 2 * MOST_TOKENS[0];
        let mut pieces = Vec::new();
        for round in 0..MOST_ROUNDS {
            let options = GenerateOptions {
                max_new_tokens: SAMPLE_TOKENS,
                eos_tokens: directory.eos_tokens()?,
                temperature: 1.0,
                seed: seed.wrapping_mul(MOST_ROUNDS).wrapping_add(round),
                ..GenerateOptions::default()
            };
            let continued = generate_batch(model, &openings, &options)?;
            let samples = openings.iter().zip(continued);
            pieces.extend(samples.map(|(opening, new)| [&opening[..], &new].concat()));
            if num_tokens(&pieces) >= enough {
                break;
            }
        }
        Ok(Self::divided("the model's own samples".into(), pieces))
    }

    fn divided(source: String, pieces: Vec<Vec<u32>>) -> Self {
        let mut parts = [Vec::new(), Vec::new(), Vec::new()];
        let mut tokens = [0; 3];
        for (piece, part) in pieces.into_iter().zip(PARTS.into_iter().cycle()) {
            if tokens[part] < MOST_TOKENS[part] {
                tokens[part] += piece.len();
                parts[part].push(piece);
            }
        }
        let [learning, development, held_out] = parts;
        Self {
            source,
            learning,
            development,
            held_out,
        }
    }
}

/// How far the predictions of `reweighted` are from those of the unmodified model.
///
/// # Errors
/// A divergence that is not finite: the coefficients break the model's arithmetic.
pub fn divergence(
    reference: &TextReference<'_, Decoder>,
    reweighted: &Decoder,
) -> Result<TextDivergence> {
    let divergence = reference.divergence(reweighted)?;
    if !divergence.kl.is_finite() {
        bail!("the divergence from the unmodified model is not a number");
    }
    Ok(divergence)
}

/// Tokens of all pieces.
pub fn num_tokens(pieces: &[Vec<u32>]) -> usize {
    pieces.iter().map(Vec::len).sum()
}
