//! Byte-pair encoding as in SentencePiece: of two neighbours, those are merged whose result has the highest score.

use std::cmp::Ordering;
use std::ops::Range;

use super::byte_level;
use super::merge::merge;
use super::metadata::{BosRule, Defaults};
use super::vocabulary::Vocabulary;
use crate::error::Error;
use crate::gguf::metadata::GgufMetadata;

const SCORES: &str = "tokenizer.ggml.scores";
const SPACE_PREFIX: &str = "tokenizer.ggml.add_space_prefix";
const UNKNOWN: &str = "tokenizer.ggml.unknown_token_id";

pub(super) const DEFAULTS: Defaults = Defaults {
    bos_rule: BosRule::UnlessSaid(true),
    bos: Some(1),
    eos: Some(2),
};

/// Stands for a space.
const SPACE: &str = "▁";

/// A text with its spaces written as SentencePiece does.
pub(super) fn without_spaces(text: &str) -> String {
    text.replace(' ', SPACE)
}

/// The text of a token with spaces again.
pub(super) fn with_spaces(text: &str) -> String {
    text.replace(SPACE, " ")
}

/// The model.
#[derive(Debug)]
pub(super) struct SentencePiece {
    /// Of each token, as a rank.
    ranks: Vec<Rank>,
    /// Whether text at the start and behind special tokens gets a space before it.
    space_prefix: bool,
    /// Tokens of the bytes of letters that have no token.
    bytes: Vec<Option<u32>>,
}

/// A score, the highest first.
#[derive(Clone, Copy, Debug)]
struct Rank(f64);

impl Ord for Rank {
    fn cmp(&self, other: &Self) -> Ordering {
        other.0.total_cmp(&self.0)
    }
}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Rank {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Rank {}

impl SentencePiece {
    /// # Errors
    /// [`Error::Config`] for fewer scores than tokens.
    pub fn from_metadata(metadata: &GgufMetadata, vocabulary: &Vocabulary) -> Result<Self, Error> {
        let len = vocabulary.len();
        let scores = metadata.numbers(SCORES)?.unwrap_or_else(|| vec![0.0; len]);
        if scores.len() < len {
            let problem = format!("has {} values for {len} tokens", scores.len());
            return Err(metadata.error(SCORES, problem));
        }
        let unknown = metadata.integer(UNKNOWN)?.unwrap_or(0);
        let unknown = u32::try_from(unknown).ok();
        let unknown = unknown.filter(|&id| (id as usize) < len);
        let byte = |byte: u8| {
            let letter = byte.is_ascii().then(|| char::from(byte).to_string());
            (vocabulary.id(&byte_level::name(byte)))
                .or_else(|| vocabulary.id(&letter?))
                .or(unknown)
        };
        Ok(Self {
            // The sum makes -0 and 0 one score.
            ranks: scores.into_iter().map(|score| Rank(score + 0.0)).collect(),
            space_prefix: metadata.flag(SPACE_PREFIX)?.unwrap_or(true),
            bytes: (0..=u8::MAX).map(byte).collect(),
        })
    }

    /// Appends the tokens of a text without special tokens; `after_special` says whether one stands before it, or nothing.
    pub fn encode(
        &self,
        vocabulary: &Vocabulary,
        text: &str,
        after_special: bool,
        ids: &mut Vec<u32>,
    ) {
        let mut escaped = without_spaces(text);
        if self.space_prefix && after_special {
            escaped.insert_str(0, SPACE);
        }
        let token = |range: Range<usize>| vocabulary.id(&escaped[range]);
        let symbols = merge(
            &escaped,
            |letter| vocabulary.id(letter),
            |left, right| {
                let id = token(left.range.start..right.range.end)?;
                Some((self.ranks[id as usize], id))
            },
        );
        for symbol in symbols {
            match symbol.id {
                Some(id) => ids.push(id),
                None => {
                    let bytes = escaped[symbol.range].bytes();
                    ids.extend(bytes.filter_map(|byte| self.bytes[byte as usize]));
                }
            }
        }
    }

    /// Text without the space that was put before it.
    pub fn without_prefix<'t>(&self, text: &'t str) -> &'t str {
        match text.strip_prefix(' ') {
            Some(rest) if self.space_prefix => rest,
            _ => text,
        }
    }
}
