//! Tokens that are found in a text before it is divided into words.

use std::sync::Arc;

use super::kind::Kind;
use super::metadata::PRE;
use super::vocabulary::Vocabulary;
use crate::error::Error;
use crate::gguf::metadata::GgufMetadata;

/// Control tokens, user-defined ones and the unknown token: each is one token wherever its text stands.
#[derive(Debug)]
pub(super) struct SpecialTokens {
    /// Those with the longest texts first.
    tokens: Vec<Special>,
}

#[derive(Debug)]
struct Special {
    id: u32,
    text: Arc<str>,
    /// Whether it takes the white space before it with it.
    strips_before: bool,
    /// Whether it takes the white space behind it with it.
    strips_behind: bool,
}

/// A part of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fragment<'t> {
    Text(&'t str),
    Token(u32),
}

impl SpecialTokens {
    /// # Errors
    /// [`Error::Config`] for metadata of another type.
    pub fn new(metadata: &GgufMetadata, vocabulary: &Vocabulary) -> Result<Self, Error> {
        let strips = Strips::of_model(metadata)?;
        let is_special =
            |kind: &Kind| matches!(kind, Kind::Control | Kind::UserDefined | Kind::Unknown);
        let special = vocabulary.iter().filter(|(_, _, kind)| is_special(kind));
        let mut tokens: Vec<_> = special
            .map(|(id, text, _)| Special {
                id,
                text: text.clone(),
                strips_before: strips == Strips::BeforeMask
                    && ["<mask>", "[MASK]"].contains(&&**text),
                strips_behind: strips == Strips::Behind
                    && !["<unk>", "<s>", "<|endoftext|>"].contains(&&**text),
            })
            .collect();
        tokens.sort_by_key(|token| std::cmp::Reverse(token.text.len()));
        Ok(Self { tokens })
    }

    /// The parts of a text, in their order: the longest tokens are found first, and the leftmost of the same one.
    pub fn partition<'t>(&self, text: &'t str) -> Vec<Fragment<'t>> {
        let mut fragments = Vec::new();
        if !text.is_empty() {
            fragments.push(Fragment::Text(text));
        }
        for token in &self.tokens {
            if text.contains(&*token.text) {
                let parts = std::mem::take(&mut fragments);
                for part in parts {
                    match part {
                        Fragment::Text(text) => token.split(text, &mut fragments),
                        Fragment::Token(_) => fragments.push(part),
                    }
                }
            }
        }
        fragments
    }
}

impl Special {
    /// Divides a text where this token stands.
    fn split<'t>(&self, text: &'t str, fragments: &mut Vec<Fragment<'t>>) {
        let mut rest = text;
        while let Some((mut before, mut behind)) = rest.split_once(&*self.text) {
            if self.strips_before {
                before = before.trim_end_matches(is_space);
            }
            if self.strips_behind {
                behind = behind.trim_start_matches(is_space);
            }
            if !before.is_empty() {
                fragments.push(Fragment::Text(before));
            }
            fragments.push(Fragment::Token(self.id));
            rest = behind;
        }
        if !rest.is_empty() {
            fragments.push(Fragment::Text(rest));
        }
    }
}

fn is_space(letter: char) -> bool {
    matches!(letter, '\t'..='\r' | ' ')
}

/// Which tokens take white space beside them with them: the format has no key for that, and llama.cpp goes by the model's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Strips {
    None,
    /// The mask token, the white space before it.
    BeforeMask,
    /// All but a few, the white space behind them.
    Behind,
}

impl Strips {
    fn of_model(metadata: &GgufMetadata) -> Result<Self, Error> {
        let name = metadata.text("general.name")?.unwrap_or_default();
        let name = name.to_ascii_lowercase();
        let pre = metadata.text(PRE)?.unwrap_or_default();
        Ok(if pre.starts_with("jina-v2-") {
            Self::BeforeMask
        } else if name.contains("phi-3") || name.contains("phi3") {
            Self::Behind
        } else if name.contains("modern-bert") {
            Self::BeforeMask
        } else {
            Self::None
        })
    }
}
