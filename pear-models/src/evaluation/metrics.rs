//! Scores of a generated answer against reference answers, by the published rules.
//!
//! - [`best_subspan_em`]: `src/lost_in_the_middle/metrics.py` of *Lost in the Middle*
//!   ([arXiv 2307.03172](https://arxiv.org/abs/2307.03172)), which the paper of PEAR uses too.
//! - [`substring`]: what the published evaluation code of PEAR computes, without normalisation.
//! - [`exact_match`] and [`token_f1`]: those of SQuAD ([arXiv 1606.05250](https://arxiv.org/abs/1606.05250)), F1 as in LongBench
//!   ([arXiv 2308.14508](https://arxiv.org/abs/2308.14508)).
//!
//! Where there are several references, the best match counts.

use std::collections::HashMap;
use std::sync::LazyLock;

use regex::{Captures, Regex};
use serde::{Deserialize, Serialize};

/// All scores of one answer, each between 0 and 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AnswerScores {
    /// [`best_subspan_em`].
    pub best_subspan_em: f64,
    /// [`substring`].
    pub substring: f64,
    /// [`exact_match`].
    pub exact_match: f64,
    /// [`token_f1`].
    pub f1: f64,
}

impl AnswerScores {
    /// Names of the scores, in the order of [`values`](Self::values).
    pub const NAMES: [&str; 4] = ["best_subspan_em", "substring", "exact_match", "f1"];

    /// Scores an answer.
    pub fn of<S: AsRef<str>>(answer: &str, references: &[S]) -> Self {
        Self {
            best_subspan_em: best_subspan_em(answer, references),
            substring: substring(answer, references),
            exact_match: exact_match(answer, references),
            f1: token_f1(answer, references),
        }
    }

    /// The scores in the order of [`NAMES`](Self::NAMES).
    pub fn values(&self) -> [f64; 4] {
        let Self {
            best_subspan_em,
            substring,
            exact_match,
            f1,
        } = *self;
        [best_subspan_em, substring, exact_match, f1]
    }
}

/// Best sub-span exact match: 1 if the normalised answer contains a normalised reference, else 0.
///
/// A reference that normalises to nothing, such as `The`, is contained in any answer: see [`is_empty_reference`].
pub fn best_subspan_em<S: AsRef<str>>(answer: &str, references: &[S]) -> f64 {
    let answer = normalize_answer(answer);
    best(references, |reference| {
        f64::from(answer.contains(&normalize_answer(reference)))
    })
}

/// 1 if the answer contains a reference, both in lower case, else 0.
pub fn substring<S: AsRef<str>>(answer: &str, references: &[S]) -> f64 {
    let answer = answer.to_lowercase();
    best(references, |reference| {
        f64::from(answer.contains(&reference.to_lowercase()))
    })
}

/// 1 if the normalised answer equals a normalised reference, else 0.
pub fn exact_match<S: AsRef<str>>(answer: &str, references: &[S]) -> f64 {
    let answer = normalize_answer(answer);
    best(references, |reference| {
        f64::from(answer == normalize_answer(reference))
    })
}

/// F1 of the words of the answer and those of a reference, both normalised.
pub fn token_f1<S: AsRef<str>>(answer: &str, references: &[S]) -> f64 {
    let answer = normalize(answer, WordCharacters::LettersAndDigits);
    best(references, |reference| {
        f1(
            &answer,
            &normalize(reference, WordCharacters::LettersAndDigits),
        )
    })
}

/// Whether a reference normalises to nothing, so that [`best_subspan_em`] gives 1 to every answer.
pub fn is_empty_reference(reference: &str) -> bool {
    normalize_answer(reference).is_empty()
}

fn best<S: AsRef<str>>(references: &[S], score: impl Fn(&str) -> f64) -> f64 {
    references
        .iter()
        .map(|reference| score(reference.as_ref()))
        .fold(0.0, f64::max)
}

/// The text in lower case, without ASCII punctuation and the articles `a`, `an` and `the`, white space collapsed to single spaces.
///
/// ```
/// # use pear_models::evaluation::metrics::normalize_answer;
/// assert_eq!(normalize_answer("The  Beatles' album, a hit."), "beatles album hit");
/// ```
pub fn normalize_answer(text: &str) -> String {
    normalize(text, WordCharacters::Unicode)
}

/// Which characters belong to a word, when articles are looked for.
#[derive(Clone, Copy)]
enum WordCharacters {
    /// Letters, marks and digits, as in Python's package `regex`, which *Lost in the Middle* uses.
    Unicode,
    /// Letters and digits, as in Python's own `re`, which LongBench uses: it removes the `a` of a decomposed `á`.
    LettersAndDigits,
}

fn normalize(text: &str, characters: WordCharacters) -> String {
    static UNICODE: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\w+").expect("a valid pattern"));
    static LETTERS: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"[\p{L}\p{N}_]+").expect("a valid pattern"));
    let text: String = text
        .to_lowercase()
        .chars()
        .filter(|c| !c.is_ascii_punctuation())
        .collect();
    let pattern = match characters {
        WordCharacters::Unicode => &UNICODE,
        WordCharacters::LettersAndDigits => &LETTERS,
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

/// Where Python's `str.split` splits: Unicode's white space and the four separators of ASCII.
fn is_python_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// F1 of two bags of words, each between single spaces.
fn f1(answer: &str, reference: &str) -> f64 {
    let mut unmatched: HashMap<&str, usize> = HashMap::new();
    let mut in_reference = 0;
    for word in reference.split(' ').filter(|word| !word.is_empty()) {
        *unmatched.entry(word).or_default() += 1;
        in_reference += 1;
    }
    let mut in_answer = 0;
    let mut common = 0;
    for word in answer.split(' ').filter(|word| !word.is_empty()) {
        in_answer += 1;
        if let Some(count) = unmatched.get_mut(word).filter(|count| **count > 0) {
            *count -= 1;
            common += 1;
        }
    }
    if common == 0 {
        return 0.0;
    }
    let precision = f64::from(common) / f64::from(in_answer);
    let recall = f64::from(common) / f64::from(in_reference);
    2.0 * precision * recall / (precision + recall)
}
