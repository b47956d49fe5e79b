//! Files of token ids: JSON lines, one array on each line.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use pear_core::files::SequenceRecord;
use serde_json::Value;

/// Longest line in bytes.
const MAX_LINE_BYTES: u64 = 16 << 20;
/// Largest file in bytes.
const MAX_FILE_BYTES: u64 = 1 << 30;

/// Sequences of token ids with their places in a file.
#[derive(Clone, Debug)]
pub struct TokenFile {
    path: PathBuf,
    /// The sequences.
    pub rows: Vec<Vec<u32>>,
    /// Line number of each sequence, from 1; blank lines are skipped.
    lines: Vec<usize>,
}

impl TokenFile {
    /// Reads a file whose ids must be below `vocab_size`.
    ///
    /// # Errors
    /// A file that cannot be read, or a line that is not an array of token ids; both are named.
    pub fn read(path: &Path, vocab_size: usize) -> Result<Self> {
        let name = || path.display().to_string();
        let file = File::open(path).with_context(|| format!("{}: cannot read", name()))?;
        let mut reader = BufReader::new(file.take(MAX_FILE_BYTES));
        let mut tokens = Self {
            path: path.into(),
            rows: Vec::new(),
            lines: Vec::new(),
        };
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            let read = (&mut reader)
                .take(MAX_LINE_BYTES)
                .read_until(b'\n', &mut line);
            let read = read.with_context(|| format!("{}: cannot read", name()))? as u64;
            if read == 0 {
                break;
            }
            if read == MAX_LINE_BYTES && !line.ends_with(b"\n") {
                bail!(
                    "{}: line {number}: longer than {} MiB",
                    name(),
                    MAX_LINE_BYTES >> 20
                );
            }
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            tokens.rows.push(
                parse(&line, vocab_size).map_err(|problem| tokens.problem_in(number, &problem))?,
            );
            tokens.lines.push(number);
        }
        if reader.get_ref().limit() == 0 {
            bail!("{}: larger than {} GiB", name(), MAX_FILE_BYTES >> 30);
        }
        if tokens.rows.is_empty() {
            bail!("{}: empty: expected one array of token ids a line", name());
        }
        Ok(tokens)
    }

    /// Reads a file of proxy sequences: tokens repeated once.
    ///
    /// # Errors
    /// As [`read`](Self::read); also a sequence of odd length or with different halves, naming file and line.
    pub fn read_proxy(path: &Path, vocab_size: usize) -> Result<Self> {
        let tokens = Self::read(path, vocab_size)?;
        for (index, row) in tokens.rows.iter().enumerate() {
            let (first, second) = row.split_at(row.len() / 2);
            if row.len() < 4 || !row.len().is_multiple_of(2) {
                let expected =
                    "expected a proxy sequence, n tokens and the same n again, n at least 2";
                return Err(tokens.problem(index, &format!("{} tokens: {expected}", row.len())));
            }
            if let Some(place) = (0..first.len()).find(|&i| first[i] != second[i]) {
                let [a, b] = [first[place], second[place]];
                return Err(tokens.problem(
                    index,
                    &format!(
                        "the halves differ: token {place} of the first is {a}, of the second {b}"
                    ),
                ));
            }
        }
        Ok(tokens)
    }

    /// Description of the sequences in files of results: a fingerprint of the ids, which does not depend on white space.
    pub fn record(&self) -> SequenceRecord {
        let mut hasher = blake3::Hasher::new();
        for row in &self.rows {
            hasher.update(&(row.len() as u64).to_le_bytes());
            row.iter()
                .for_each(|id| _ = hasher.update(&id.to_le_bytes()));
        }
        SequenceRecord::File {
            fingerprint: hasher.finalize().to_hex().to_string(),
        }
    }

    /// An error about the sequence with index `row`.
    pub fn problem(&self, row: usize, problem: &str) -> anyhow::Error {
        self.problem_in(self.lines[row], problem)
    }

    /// Checks that the model has positions for all sequences.
    ///
    /// # Errors
    /// The first sequence that is too long, naming file and line.
    pub fn check_lengths(&self, max_positions: Option<usize>) -> Result<()> {
        let Some(max) = max_positions else {
            return Ok(());
        };
        match self.rows.iter().position(|row| row.len() > max) {
            Some(row) => {
                let length = self.rows[row].len();
                Err(self.problem(
                    row,
                    &format!("{length} tokens, but the model has only {max} positions"),
                ))
            }
            None => Ok(()),
        }
    }

    fn problem_in(&self, line: usize, problem: &str) -> anyhow::Error {
        anyhow::anyhow!("{}: line {line}: {problem}", self.path.display())
    }
}

fn parse(line: &[u8], vocab_size: usize) -> Result<Vec<u32>, String> {
    let value: Value = serde_json::from_slice(line).map_err(|e| {
        let column = e.column();
        format!("not JSON (column {column}): expected an array of token ids, such as [5, 3, 8]")
    })?;
    let Value::Array(ids) = value else {
        return Err("expected an array of token ids, such as [5, 3, 8]".into());
    };
    let id = |value: &Value| match value.as_u64() {
        Some(id) if id < vocab_size as u64 => Ok(id as u32),
        Some(id) => Err(format!(
            "token {id} is not in the vocabulary of {vocab_size}"
        )),
        None => Err(format!(
            "{} is not a token id: expected an integer of 0 or more",
            brief(value)
        )),
    };
    ids.iter().map(id).collect()
}

/// A JSON value as an error message shows it.
fn brief(value: &Value) -> String {
    match value {
        Value::Array(_) => "an array within the array".into(),
        Value::Object(_) => "an object".into(),
        Value::String(_) => "a string".into(),
        simple => format!("`{simple}`"),
    }
}

/// Parses a list of token ids such as `1,2,3`.
///
/// # Errors
/// An empty list, or something other than a token id below `vocab_size`, naming `flag`.
pub fn parse_list(flag: &str, text: &str, vocab_size: usize) -> Result<Vec<u32>> {
    let id = |word: &str| match word.trim().parse::<u32>() {
        Ok(id) if (id as usize) < vocab_size => Ok(id),
        Ok(id) => bail!("{flag}: token {id} is not in the vocabulary of {vocab_size}"),
        Err(_) => bail!(
            "{flag}: `{}` is not a token id: expected a list such as 1,2,3",
            word.trim()
        ),
    };
    text.split(',').map(id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<TokenFile> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.jsonl");
        std::fs::write(&path, text).unwrap();
        TokenFile::read_proxy(&path, 10)
    }

    #[test]
    fn blank_lines_are_skipped() {
        let tokens = read("[1, 2, 1, 2]\n\n  \n[3,4,3,4]").unwrap();
        assert_eq!(tokens.rows, [[1, 2, 1, 2], [3, 4, 3, 4]]);
        assert!(
            tokens
                .problem(1, "x")
                .to_string()
                .ends_with("tokens.jsonl: line 4: x")
        );
    }

    #[test]
    fn the_fingerprint_depends_on_the_ids_alone() {
        let record = |text| read(text).unwrap().record();
        assert_eq!(
            record("[1,2,1,2]\n[3,4,3,4]"),
            record("[1, 2, 1,2]\n\n[ 3,4,3,4 ]\n")
        );
        let others = [
            "[3,4,3,4]\n[1,2,1,2]",
            "[1,2,1,2]",
            "[1,2,3,4,1,2,3,4]",
            "[1,2,1,2]\n[3,5,3,5]",
        ];
        others
            .iter()
            .for_each(|other| assert_ne!(record("[1,2,1,2]\n[3,4,3,4]"), record(other), "{other}"));
    }

    #[test]
    fn errors_name_file_and_line() {
        let bad = [
            ("", "empty"),
            (" \n", "empty"),
            ("[1, 2, 1, 2]\n[1, 2", "line 2: not JSON"),
            ("{}", "line 1: expected an array"),
            ("[1, -2, 1, -2]", "line 1: `-2` is not a token id"),
            ("[1.0, 2, 1.0, 2]", "`1.0` is not a token id"),
            ("[\"a\"]", "a string is not a token id"),
            ("[1, 10, 1, 10]", "token 10 is not in the vocabulary of 10"),
            ("[1, 99999999999999999999]", "is not a token id"),
            ("[1, 2, 3]", "3 tokens"),
            ("[]", "0 tokens"),
            ("[1, 1]", "2 tokens"),
            ("[1, 2, 1, 3]", "token 1 of the first is 2, of the second 3"),
        ];
        for (text, expected) in bad {
            let error = read(text).expect_err(text).to_string();
            assert!(
                error.contains("tokens.jsonl: ") && error.contains(expected),
                "{error}"
            );
        }
        assert!(
            read(&"[".repeat(100_000))
                .unwrap_err()
                .to_string()
                .contains("not JSON")
        );
    }
}
