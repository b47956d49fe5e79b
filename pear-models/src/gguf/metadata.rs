//! The metadata of a GGUF file: values by key.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::cursor::{Cursor, Result as Parsed};
use super::value::{MetadataValue, ValueType};
use crate::error::Error;

/// The largest metadata that is read: those of the largest vocabularies take a tenth of it.
const LARGEST: usize = 256 << 20;
/// Bytes of the longest key.
const LONGEST_KEY: usize = u16::MAX as usize;

/// The metadata of a GGUF file: values by key, such as `general.architecture` and `llama.block_count`.
///
/// The values stay in the form that they have in the file, whose whole metadata was checked when it was opened, and are decoded when they
/// are asked for.
#[derive(Debug)]
pub struct GgufMetadata {
    path: PathBuf,
    /// The keys and values as they are in the file.
    bytes: Vec<u8>,
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    value_type: ValueType,
    /// Of the value, within `bytes`.
    range: Range<usize>,
}

impl GgufMetadata {
    /// Reads `count` keys with their values.
    pub(super) fn read(path: &Path, cursor: &mut Cursor, count: u64) -> Parsed<Self> {
        let start = cursor.clone();
        let offset = start.position();
        let mut entries = BTreeMap::new();
        for index in 0..count {
            let key = cursor
                .name(LONGEST_KEY)
                .map_err(|problem| format!("metadata key {index} of {count} {problem}"))?;
            let fail = |problem| format!("`{key}` {problem}");
            let value_type = ValueType::read(cursor).map_err(fail)?;
            let first = cursor.position() - offset;
            value_type.skip(cursor).map_err(fail)?;
            let range = first..cursor.position() - offset;
            if range.end > LARGEST {
                return Err(format!("has more than {LARGEST} bytes of metadata"));
            }
            if entries.contains_key(key) {
                return Err(format!("has the metadata key `{key}` twice"));
            }
            entries.insert(key.into(), Entry { value_type, range });
        }
        let len = cursor.position() - offset;
        Ok(Self {
            path: path.into(),
            bytes: start.clone().take(len)?.to_vec(),
            entries,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The keys, in ascending order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The value of a key, if it is there.
    pub fn get(&self, key: &str) -> Option<MetadataValue<'_>> {
        let Entry { value_type, range } = self.entries.get(key)?;
        let mut cursor = Cursor::new(&self.bytes[range.clone()]);
        value_type.decode(&mut cursor).ok()
    }

    /// A text, if it is there.
    ///
    /// # Errors
    /// [`Error::Config`] for a value of another type, as in the other functions that name one.
    pub fn text(&self, key: &str) -> Result<Option<&str>, Error> {
        self.typed(key, "text", |value| value.text())
    }

    /// A whole number, if it is there.
    ///
    /// # Errors
    /// As [`text`](Self::text).
    pub fn integer(&self, key: &str) -> Result<Option<i64>, Error> {
        self.typed(key, "a whole number", |value| value.integer())
    }

    /// A number, whole or not, if it is there.
    ///
    /// # Errors
    /// As [`text`](Self::text).
    pub fn number(&self, key: &str) -> Result<Option<f64>, Error> {
        self.typed(key, "a number", |value| value.number())
    }

    /// True or false, if it is there.
    ///
    /// # Errors
    /// As [`text`](Self::text).
    pub fn flag(&self, key: &str) -> Result<Option<bool>, Error> {
        self.typed(key, "true or false", |value| value.flag())
    }

    /// A list of texts, if it is there.
    ///
    /// # Errors
    /// As [`text`](Self::text).
    pub fn texts(&self, key: &str) -> Result<Option<Vec<&str>>, Error> {
        self.list(key, "a list of texts", |value| value.text())
    }

    /// A list of whole numbers, if it is there.
    ///
    /// # Errors
    /// As [`text`](Self::text).
    pub fn integers(&self, key: &str) -> Result<Option<Vec<i64>>, Error> {
        self.list(key, "a list of whole numbers", |value| value.integer())
    }

    /// A list of numbers, whole or not, if it is there.
    ///
    /// # Errors
    /// As [`text`](Self::text).
    pub fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>, Error> {
        self.list(key, "a list of numbers", |value| value.number())
    }

    /// A list of truth values, if it is there.
    ///
    /// # Errors
    /// As [`text`](Self::text).
    pub fn flags(&self, key: &str) -> Result<Option<Vec<bool>>, Error> {
        self.list(key, "a list of true and false", |value| value.flag())
    }

    /// How many keys there are, and the bytes that hold them and their values, as in the file.
    pub(crate) fn section(&self) -> (usize, &[u8]) {
        (self.entries.len(), &self.bytes)
    }

    /// Fingerprint of all values whose keys begin with `prefix`: BLAKE3 over keys and bytes, in the order of the keys. `None` if there are
    /// none.
    pub(crate) fn fingerprint(&self, prefix: &str) -> Option<String> {
        let mut hasher = blake3::Hasher::new();
        let mut entries = self
            .entries
            .iter()
            .filter(|(key, _)| key.starts_with(prefix))
            .peekable();
        entries.peek()?;
        for (key, entry) in entries {
            let value = &self.bytes[entry.range.clone()];
            for bytes in [key.as_bytes(), value] {
                hasher.update(&(bytes.len() as u64).to_le_bytes());
                hasher.update(bytes);
            }
        }
        Some(hasher.finalize().to_hex().to_string())
    }

    /// An error about `key`.
    pub(crate) fn error(&self, key: &str, problem: impl Into<String>) -> Error {
        Error::Config {
            path: self.path.clone(),
            key: key.into(),
            problem: problem.into(),
        }
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        read: impl Fn(&MetadataValue<'a>) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        self.get(key)
            .map(|value| read(&value).ok_or_else(|| self.mistyped(key, &value, expected)))
            .transpose()
    }

    fn list<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        read: impl Fn(&MetadataValue<'a>) -> Option<T>,
    ) -> Result<Option<Vec<T>>, Error> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let items = match &value {
            MetadataValue::Array(array) => array.iter().map(|item| read(&item)).collect(),
            _ => None,
        };
        let items: Vec<T> = items.ok_or_else(|| self.mistyped(key, &value, expected))?;
        Ok(Some(items))
    }

    fn mistyped(&self, key: &str, value: &MetadataValue, expected: &str) -> Error {
        let found = match value {
            MetadataValue::Unsigned(value) => value.to_string(),
            MetadataValue::Signed(value) => value.to_string(),
            MetadataValue::Float(value) => value.to_string(),
            MetadataValue::Bool(value) => value.to_string(),
            MetadataValue::Text(text) => {
                let start: String = text.chars().take(60).collect();
                format!("{start:?}")
            }
            MetadataValue::Array(array) => format!("a list of {} values", array.len()),
        };
        self.error(key, format!("is {found}: expected {expected}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key and a value of this type.
    fn entry(key: &str, value_type: u32, value: &[u8]) -> Vec<u8> {
        let mut bytes = text(key);
        bytes.extend(value_type.to_le_bytes());
        bytes.extend(value);
        bytes
    }

    fn text(text: &str) -> Vec<u8> {
        [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
    }

    fn list(value_type: u32, len: u64, items: &[u8]) -> Vec<u8> {
        [&value_type.to_le_bytes()[..], &len.to_le_bytes(), items].concat()
    }

    fn read(entries: &[Vec<u8>]) -> Parsed<GgufMetadata> {
        let bytes = entries.concat();
        let mut cursor = Cursor::new(&bytes);
        let metadata = GgufMetadata::read(Path::new("m.gguf"), &mut cursor, entries.len() as u64)?;
        assert_eq!(cursor.position(), bytes.len());
        assert_eq!(metadata.section(), (entries.len(), &bytes[..]));
        Ok(metadata)
    }

    #[test]
    fn values_of_every_type_are_read() {
        let numbers: Vec<u8> = [1e-5f32, -2.5].map(f32::to_le_bytes).concat();
        let nested = [
            list(8, 2, &[text("a"), text("")].concat()),
            list(7, 1, &[1]),
        ];
        let metadata = read(&[
            entry("u8", 0, &[200]),
            entry("i8", 1, &[200]),
            entry("u16", 2, &[1, 2]),
            entry("i16", 3, &[0xff, 0xff]),
            entry("u32", 4, &70_000u32.to_le_bytes()),
            entry("i32", 5, &(-70_000i32).to_le_bytes()),
            entry("f32", 6, &1e-5f32.to_le_bytes()),
            entry("bool", 7, &[1]),
            entry("text", 8, &text("å")),
            entry("list", 9, &list(6, 2, &numbers)),
            entry("u64", 10, &u64::MAX.to_le_bytes()),
            entry("i64", 11, &i64::MIN.to_le_bytes()),
            entry("f64", 12, &0.1f64.to_le_bytes()),
            entry("nested", 9, &list(9, 2, &nested.concat())),
        ])
        .unwrap();
        for (key, value) in [
            ("u8", 200),
            ("i8", -56),
            ("u16", 513),
            ("i16", -1),
            ("u32", 70_000),
            ("i32", -70_000),
            ("i64", i64::MIN),
        ] {
            assert_eq!(metadata.integer(key).unwrap(), Some(value), "{key}");
            assert_eq!(metadata.number(key).unwrap(), Some(value as f64), "{key}");
        }
        assert_eq!(metadata.number("u64").unwrap(), Some(u64::MAX as f64));
        assert_eq!(metadata.number("f32").unwrap(), Some(1e-5));
        assert_eq!(metadata.number("f64").unwrap(), Some(0.1));
        assert_eq!(metadata.flag("bool").unwrap(), Some(true));
        assert_eq!(metadata.text("text").unwrap(), Some("å"));
        assert_eq!(metadata.numbers("list").unwrap(), Some(vec![1e-5, -2.5]));
        assert_eq!(metadata.text("absent").unwrap(), None);
        assert_eq!(metadata.texts("absent").unwrap(), None);
        let Some(MetadataValue::Array(nested)) = metadata.get("nested") else {
            panic!("no list");
        };
        let lens: Vec<_> = nested
            .iter()
            .map(|item| match item {
                MetadataValue::Array(inner) => inner.len(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(lens, [2, 1]);
    }

    #[test]
    fn a_value_of_another_type_is_an_error_that_names_the_key() {
        let metadata = read(&[
            entry("n", 4, &[1, 0, 0, 0]),
            entry("t", 8, &text("x")),
            entry("l", 9, &list(8, 1, &text("x"))),
        ])
        .unwrap();
        let error = metadata.text("n").unwrap_err().to_string();
        assert_eq!(error, "m.gguf: `n`: is 1: expected text");
        let error = metadata.integer("t").unwrap_err().to_string();
        assert_eq!(error, "m.gguf: `t`: is \"x\": expected a whole number");
        let error = metadata.integers("l").unwrap_err().to_string();
        assert!(error.ends_with("is a list of 1 values: expected a list of whole numbers"));
    }

    #[test]
    fn malformed_metadata_is_refused_with_its_key() {
        let deep = |levels: usize| {
            let inner = list(0, 0, &[]);
            (0..levels).fold(inner, |inner, _| list(9, 1, &inner))
        };
        assert!(read(&[entry("k", 9, &deep(3))]).is_ok());
        for (entries, expected) in [
            (
                vec![entry("k", 13, &[])],
                "`k` is of type 13: the types are 0 to 12",
            ),
            (vec![entry("k", 4, &[1, 2, 3])], "`k` ends at byte 16"),
            (vec![entry("", 0, &[1])], "metadata key 0 of 1 has 0 bytes"),
            (
                vec![entry("k", 0, &[1]), entry("k", 0, &[1])],
                "the metadata key `k` twice",
            ),
            (
                vec![entry("k", 8, &u64::MAX.to_le_bytes())],
                "within a value of 18446744073709551615 bytes",
            ),
            (
                vec![entry("k", 9, &list(10, u64::MAX, &[]))],
                "`k` has a list of 18446744073709551615 items",
            ),
            (
                vec![entry("k", 9, &list(8, u64::MAX, &[]))],
                "`k` ends at byte",
            ),
            (
                vec![entry("k", 9, &deep(4))],
                "`k` has lists more than 4 deep",
            ),
            (
                vec![entry("k", 8, &[1, 0, 0, 0, 0, 0, 0, 0, 0xff])],
                "that is not UTF-8",
            ),
        ] {
            let problem = read(&entries).unwrap_err();
            assert!(problem.contains(expected), "{problem}");
        }
    }
}
