//! Scores of an answer, by the published rules.
//!
//! - [`best_subspan_em`]: `src/lost_in_the_middle/metrics.py` of *Lost in the Middle* (arXiv 2307.03172), which the paper uses too.
//! - [`substring`]: what PEAR's own evaluation computes, without any normalisation.
//! - [`exact_match`] and [`token_f1`]: SQuAD's, the latter as LongBench (arXiv 2308.14508) has it.
//!
//! All references count: the best of them is taken.

use std::collections::HashMap;
use std::sync::LazyLock;

use regex::{Captures, Regex};
use serde::{Deserialize, Serialize};

/// The scores of one answer, each between 0 and 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// A normalised reference stands in the normalised answer.
    pub best_subspan_em: f64,
    /// A reference stands in the answer, in lower case.
    pub substring: f64,
    /// The normalised answer is a normalised reference.
    pub exact_match: f64,
    /// Overlap of words with a reference.
    pub f1: f64,
}

impl Scores {
    /// Names of the scores, in the order of [`values`](Self::values).
    pub const NAMES: [&str; 4] = ["best_subspan_em", "substring", "exact_match", "f1"];

    /// Of an answer.
    pub fn of(answer: &str, references: &[String]) -> Self {
        Self {
            best_subspan_em: best_subspan_em(answer, references),
            substring: substring(answer, references),
            exact_match: exact_match(answer, references),
            f1: token_f1(answer, references),
        }
    }

    /// As numbers.
    pub fn values(&self) -> [f64; 4] {
        [
            self.best_subspan_em,
            self.substring,
            self.exact_match,
            self.f1,
        ]
    }
}

/// 1 if a normalised reference stands in the normalised answer, else 0. A reference that normalises to nothing, such as `The`, stands
/// in any: see [`is_empty_reference`].
pub fn best_subspan_em(answer: &str, references: &[String]) -> f64 {
    let answer = normalize_answer(answer);
    score(
        references
            .iter()
            .any(|reference| answer.contains(&normalize_answer(reference))),
    )
}

/// 1 if a reference stands in the answer, both in lower case, else 0.
pub fn substring(answer: &str, references: &[String]) -> f64 {
    let answer = answer.to_lowercase();
    score(
        references
            .iter()
            .any(|reference| answer.contains(&reference.to_lowercase())),
    )
}

/// 1 if the normalised answer is a normalised reference, else 0.
pub fn exact_match(answer: &str, references: &[String]) -> f64 {
    let answer = normalize_answer(answer);
    score(
        references
            .iter()
            .any(|reference| answer == normalize_answer(reference)),
    )
}

/// The best F1 of the words of the answer and those of a reference, both normalised.
pub fn token_f1(answer: &str, references: &[String]) -> f64 {
    let answer = normalized(answer, Words::Letters);
    references
        .iter()
        .map(|reference| f1(&answer, &normalized(reference, Words::Letters)))
        .fold(0.0, f64::max)
}

/// Whether a reference normalises to nothing, so that [`best_subspan_em`] gives 1 for whatever is answered.
pub fn is_empty_reference(reference: &str) -> bool {
    normalize_answer(reference).is_empty()
}

/// Lower case, no ASCII punctuation, no articles, single spaces.
pub fn normalize_answer(text: &str) -> String {
    normalized(text, Words::Unicode)
}

/// What a word is made of, for an article to be one.
#[derive(Clone, Copy)]
enum Words {
    /// Letters, marks and digits: Python's package `regex`, which Lost in the Middle uses.
    Unicode,
    /// Letters and digits: Python's own `re`, which LongBench uses. It takes the `a` out of a decomposed `á`.
    Letters,
}

fn normalized(text: &str, words: Words) -> String {
    static UNICODE: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\w+").expect("a valid pattern"));
    static LETTERS: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"[\p{L}\p{N}_]+").expect("a valid pattern"));
    let text: String = text
        .to_lowercase()
        .chars()
        .filter(|c| !c.is_ascii_punctuation())
        .collect();
    let pattern = match words {
        Words::Unicode => &UNICODE,
        Words::Letters => &LETTERS,
    };
    let text = pattern.replace_all(&text, |word: &Captures| match &word[0] {
        "a" | "an" | "the" => " ".to_owned(),
        other => other.to_owned(),
    });
    text.split(is_python_space)
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

/// What Python's `str.split` splits at: Unicode's white space and the four separators of ASCII.
fn is_python_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

fn f1(answer: &str, reference: &str) -> f64 {
    let mut left: HashMap<&str, usize> = HashMap::new();
    let (mut answered, mut wanted, mut common) = (0, 0, 0);
    for word in reference.split(' ').filter(|word| !word.is_empty()) {
        *left.entry(word).or_default() += 1;
        wanted += 1;
    }
    for word in answer.split(' ').filter(|word| !word.is_empty()) {
        answered += 1;
        if let Some(count) = left.get_mut(word).filter(|count| **count > 0) {
            *count -= 1;
            common += 1;
        }
    }
    if common == 0 {
        return 0.0;
    }
    let (precision, recall) = (
        f64::from(common) / f64::from(answered),
        f64::from(common) / f64::from(wanted),
    );
    2.0 * precision * recall / (precision + recall)
}

fn score(right: bool) -> f64 {
    if right { 1.0 } else { 0.0 }
}
