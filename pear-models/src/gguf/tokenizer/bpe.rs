//! Byte-pair encoding by a list of merges, word by word.

use std::borrow::Cow;
use std::collections::HashMap;

use super::byte_level;
use super::merge::merge;
use super::pre_tokenizer::{Letters, PreTokenizer, WholeWords};
use super::sentencepiece;
use super::vocabulary::Vocabulary;
use crate::error::Error;
use crate::gguf::metadata::GgufMetadata;

const MERGES: &str = "tokenizer.ggml.merges";

/// Byte-pair encoding by a list of merges.
#[derive(Debug)]
pub(super) struct Bpe {
    pre_tokenizer: PreTokenizer,
    /// Rank and result of a merge.
    merges: HashMap<(u32, u32), (u32, u32)>,
    /// Ids beyond the vocabulary of what merges name and the vocabulary lacks.
    others: HashMap<String, u32>,
    letters: [char; 256],
}

impl Bpe {
    /// # Errors
    /// [`Error::Config`] without a list of merges.
    pub fn from_metadata(
        metadata: &GgufMetadata,
        vocabulary: &Vocabulary,
        pre_tokenizer: PreTokenizer,
    ) -> Result<Self, Error> {
        let Some(list) = metadata.texts(MERGES)? else {
            return Err(metadata.error(MERGES, "is missing"));
        };
        let mut others = HashMap::new();
        let mut id = |text: &str| {
            vocabulary.id(text).unwrap_or_else(|| {
                let next = (vocabulary.len() + others.len()) as u32;
                *others.entry(text.to_owned()).or_insert(next)
            })
        };
        let mut merges = HashMap::with_capacity(list.len());
        for (rank, text) in (0..).zip(list) {
            // A first letter that is a space belongs to the left part.
            let start = text.chars().next().map_or(0, char::len_utf8);
            let Some(space) = text[start..].find(' ').map(|at| at + start) else {
                let problem = format!("has {text:?} at {rank}: expected two parts");
                return Err(metadata.error(MERGES, problem));
            };
            let (left, right) = (&text[..space], &text[space + 1..]);
            let pair = (id(left), id(right));
            let merged = id(&[left, right].concat());
            merges.entry(pair).or_insert((rank, merged));
        }
        Ok(Self {
            pre_tokenizer,
            merges,
            others,
            letters: byte_level::letters(),
        })
    }

    /// Appends the tokens of a text without special tokens.
    pub fn encode(&self, vocabulary: &Vocabulary, text: &str, ids: &mut Vec<u32>) {
        let letters = self.pre_tokenizer.letters();
        let escaped = match letters {
            Letters::Text => sentencepiece::without_spaces(text).into(),
            Letters::Bytes => Cow::from(text),
        };
        for word in self.pre_tokenizer.words(&escaped) {
            match letters {
                Letters::Bytes => {
                    let word: String = word
                        .bytes()
                        .map(|byte| self.letters[byte as usize])
                        .collect();
                    self.encode_word(vocabulary, &word, ids);
                }
                Letters::Text => self.encode_word(vocabulary, word, ids),
            }
        }
    }

    fn encode_word(&self, vocabulary: &Vocabulary, word: &str, ids: &mut Vec<u32>) {
        let is_whole = match self.pre_tokenizer.whole_words() {
            WholeWords::No => false,
            WholeWords::All => true,
            WholeWords::Newlines => word.bytes().all(|byte| byte == b'\n'),
        };
        if let Some(id) = vocabulary.id(word).filter(|_| is_whole) {
            ids.push(id);
            return;
        }
        let symbols = merge(
            word,
            |letter| (vocabulary.id(letter)).or_else(|| self.others.get(letter).copied()),
            |left, right| self.merges.get(&(left.id?, right.id?)).copied(),
        );
        for symbol in symbols {
            match symbol.id.filter(|&id| (id as usize) < vocabulary.len()) {
                Some(id) => ids.push(id),
                None => self.encode_bytes(vocabulary, &word[symbol.range], ids),
            }
        }
    }

    /// Appends the bytes of what has no token, those that have one.
    fn encode_bytes(&self, vocabulary: &Vocabulary, text: &str, ids: &mut Vec<u32>) {
        let names = text.bytes().map(|byte| match self.pre_tokenizer.letters() {
            // Only letters below U+0080 are one byte.
            Letters::Bytes if byte.is_ascii() => char::from(byte).to_string(),
            Letters::Bytes => String::new(),
            Letters::Text => byte_level::name(byte),
        });
        ids.extend(names.filter_map(|name| vocabulary.id(&name)));
    }

    /// Appends the bytes of a token's text.
    pub fn decode(&self, text: &str, bytes: &mut Vec<u8>) {
        match self.pre_tokenizer.letters() {
            Letters::Bytes => {
                for letter in text.chars() {
                    match byte_level::of_letter(letter) {
                        Some(byte) => bytes.push(byte),
                        None => bytes.extend(letter.encode_utf8(&mut [0; 4]).bytes()),
                    }
                }
            }
            Letters::Text => bytes.extend(sentencepiece::with_spaces(text).bytes()),
        }
    }
}
