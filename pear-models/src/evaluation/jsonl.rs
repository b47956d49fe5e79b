//! Files of JSON lines, plain or gzip-compressed.

use std::io::{BufRead, BufReader, Read};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use serde::de::DeserializeOwned;

use super::EvaluationError;
use crate::{Error, regular_file};

/// The records of a `.jsonl` or `.jsonl.gz` file, read one line at a time.
///
/// Memory is bounded by the longest line allowed, whatever the size of the file. Blank lines are skipped; the iterator ends after the
/// first error.
///
/// ```
/// use pear_models::evaluation::JsonLines;
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("pairs.jsonl");
/// std::fs::write(&path, "[1, 2]\n\n[3, 4]\n")?;
/// let pairs: Vec<[u32; 2]> = JsonLines::open(&path)?.collect::<Result<_, _>>()?;
/// assert_eq!(pairs, [[1, 2], [3, 4]]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct JsonLines<T> {
    path: PathBuf,
    /// Empty after an error.
    reader: Box<dyn BufRead + Send>,
    line: Vec<u8>,
    line_number: usize,
    max_line_bytes: u64,
    record: PhantomData<fn() -> T>,
}

/// What `read` makes of the records of a file, which has one at least.
///
/// # Errors
/// As [`JsonLines::open`]; [`EvaluationError::NoRecords`]; those of `read`.
pub(super) fn read_records<T: DeserializeOwned, R>(
    path: &Path,
    read: impl FnOnce(&mut dyn Iterator<Item = Result<T, Error>>) -> Result<R, Error>,
) -> Result<R, Error> {
    let mut is_empty = true;
    let mut records = JsonLines::open(path)?.inspect(|_| is_empty = false);
    let found = read(&mut records)?;
    if is_empty {
        return Err(EvaluationError::NoRecords { path: path.into() }.into());
    }
    Ok(found)
}

impl<T: DeserializeOwned> JsonLines<T> {
    /// The longest line that is read unless [`with_max_line_bytes`](Self::with_max_line_bytes) says otherwise: 16 MiB.
    pub const DEFAULT_MAX_LINE_BYTES: u64 = 16 << 20;

    /// Opens a file; it is decompressed if its name ends in `.gz`.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be opened, [`Error::Malformed`] if it is a directory, pipe or device. Each item is an error where a line cannot be read, is too long or is not a `T`:
    /// [`EvaluationError::Line`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let file = regular_file::open(path, "open")?;
        let reader: Box<dyn BufRead + Send> =
            if path.extension().is_some_and(|extension| extension == "gz") {
                Box::new(BufReader::new(MultiGzDecoder::new(file)))
            } else {
                Box::new(BufReader::new(file))
            };
        Ok(Self {
            path: path.into(),
            reader,
            line: Vec::new(),
            line_number: 0,
            max_line_bytes: Self::DEFAULT_MAX_LINE_BYTES,
            record: PhantomData,
        })
    }

    /// With another bound on the length of a line, its line break included.
    pub fn with_max_line_bytes(mut self, bytes: u64) -> Self {
        self.max_line_bytes = bytes;
        self
    }

    /// The next line that is not blank is in `self.line`, unless the file has ended.
    fn read_line(&mut self) -> Result<bool, String> {
        loop {
            self.line.clear();
            self.line_number += 1;
            // One byte more than allowed tells a line that is too long from one that just fits.
            let length = (&mut self.reader)
                .take(self.max_line_bytes.saturating_add(1))
                .read_until(b'\n', &mut self.line)
                .map_err(|e| format!("cannot read: {e}"))?;
            if length == 0 {
                return Ok(false);
            }
            if length as u64 > self.max_line_bytes {
                return Err(format!(
                    "longer than {} bytes: expected one record of JSON",
                    self.max_line_bytes
                ));
            }
            if !self.line.iter().all(u8::is_ascii_whitespace) {
                return Ok(true);
            }
        }
    }

    fn next_record(&mut self) -> Result<Option<T>, String> {
        if !self.read_line()? {
            return Ok(None);
        }
        serde_json::from_slice(&self.line)
            .map(Some)
            .map_err(|e| format!("not a valid record (column {}): {}", e.column(), reason(&e)))
    }
}

/// What serde_json says, without its count of lines, which starts anew in each line of the file.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" at line ") {
        Some((reason, _)) => reason.to_owned(),
        None => text,
    }
}

impl<T: DeserializeOwned> Iterator for JsonLines<T> {
    type Item = Result<T, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let problem = match self.next_record() {
            Ok(record) => return record.map(Ok),
            Err(problem) => problem,
        };
        self.reader = Box::new(std::io::empty());
        Some(Err(EvaluationError::Line {
            path: self.path.clone(),
            line: self.line_number,
            problem,
        }
        .into()))
    }
}

impl<T> std::fmt::Debug for JsonLines<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JsonLines")
            .field("path", &self.path)
            .field("line_number", &self.line_number)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str, max_line_bytes: u64) -> Vec<Result<u32, String>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("numbers.jsonl");
        std::fs::write(&path, text).unwrap();
        let lines = JsonLines::open(&path).unwrap();
        lines
            .with_max_line_bytes(max_line_bytes)
            .map(|record| record.map_err(|e| e.to_string()))
            .collect()
    }

    #[test]
    fn a_line_of_exactly_the_bound_is_read_and_a_longer_one_is_an_error() {
        assert_eq!(lines("1234\n5\n", 5), [Ok(1234), Ok(5)]);
        assert_eq!(lines("12345", 5), [Ok(12345)]);
        for text in ["7\n12345\n8\n", "7\n123456"] {
            let found = lines(text, 5);
            assert_eq!((found.len(), &found[0]), (2, &Ok(7)), "{text:?}");
            let error = found[1].as_ref().unwrap_err();
            assert!(
                error.contains("numbers.jsonl, line 2: longer than 5 bytes"),
                "{error}"
            );
        }
    }

    #[test]
    fn blank_lines_are_skipped_but_counted_and_reading_ends_at_the_first_error() {
        let found = lines("1\n\n  \t\n[2]\n3\n", 100);
        assert_eq!((found.len(), &found[0]), (2, &Ok(1)));
        let error = found[1].as_ref().unwrap_err();
        assert!(
            error.ends_with("numbers.jsonl, line 4: not a valid record (column 0): invalid type: sequence, expected u32"),
            "{error}"
        );
    }
}
