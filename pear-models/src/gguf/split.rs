//! Models whose tensors are divided among several GGUF files: `NAME-00001-of-00003.gguf` and its siblings.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::file::GgufFile;
use super::metadata::GgufMetadata;
use crate::error::Error;

const COUNT: &str = "split.count";
const NUMBER: &str = "split.no";
const NUM_TENSORS: &str = "split.tensors.count";
/// More parts than any model has: the number of a part has five digits.
const MAX_PARTS: i64 = 99_999;

/// Opens a file and, if it is the first part of several, the others, which lie in the same directory. The first part holds the metadata of
/// the model.
///
/// # Errors
/// [`Error::Io`], [`Error::Malformed`] or [`Error::Config`] for a part that is missing, is not whole, or belongs to another model.
pub(crate) fn open_all(path: &Path) -> Result<Vec<GgufFile>, Error> {
    let first = GgufFile::open(path)?;
    let (number, count) = part_of(first.metadata())?;
    if number != 0 {
        let problem = match part_name(path, count, 0, number) {
            Some(name) => format!("give the first one, {}", name.display()),
            None => "give the first one".into(),
        };
        let problem = format!("is part {} of {count}: {problem}", number + 1);
        return Err(Error::malformed(path, problem));
    }
    let expected = first.metadata().integer(NUM_TENSORS)?;
    let mut files = vec![first];
    for number in 1..count {
        let Some(part) = part_name(path, count, number, 0) else {
            let problem = format!(
                "is the first of {count} parts: expected a name that ends with -00001-of-{count:05}.gguf"
            );
            return Err(Error::malformed(path, problem));
        };
        let file = GgufFile::open(&part)?;
        if part_of(file.metadata())? != (number, count) {
            let problem = format!("is not part {} of {count}, as its name says", number + 1);
            return Err(Error::malformed(&part, problem));
        }
        files.push(file);
    }
    check_tensors(&files, expected)?;
    Ok(files)
}

/// The number of a part, from 0, and how many parts there are.
fn part_of(metadata: &GgufMetadata) -> Result<(i64, i64), Error> {
    let count = metadata.integer(COUNT)?.unwrap_or(1);
    // A file that is not split may say that it has no parts.
    let count = if count == 0 { 1 } else { count };
    if !(1..=MAX_PARTS).contains(&count) {
        let problem = format!("is {count}: expected 1 to {MAX_PARTS} parts");
        return Err(metadata.error(COUNT, problem));
    }
    let number = metadata.integer(NUMBER)?.unwrap_or(0);
    if !(0..count).contains(&number) {
        let problem = format!("is {number}: expected a part from 0 to before {count}");
        return Err(metadata.error(NUMBER, problem));
    }
    Ok((number, count))
}

/// The path of a part, from that of part `known`.
fn part_name(path: &Path, count: i64, number: i64, known: i64) -> Option<PathBuf> {
    let ending = |number: i64| format!("-{:05}-of-{count:05}.gguf", number + 1);
    let prefix = path.file_name()?.to_str()?.strip_suffix(&ending(known))?;
    Some(path.with_file_name(format!("{prefix}{}", ending(number))))
}

/// Checks that no tensor is in two files, and that all files together have as many as the first one says.
fn check_tensors(files: &[GgufFile], expected: Option<i64>) -> Result<(), Error> {
    let mut names = BTreeSet::new();
    for file in files {
        for tensor in file.tensors() {
            if !names.insert(&tensor.name) {
                let problem = format!("has the tensor `{}`, as another part", tensor.name);
                return Err(Error::malformed(file.path(), problem));
            }
        }
    }
    match (expected, files) {
        (Some(expected), [first, _, ..]) if expected != names.len() as i64 => {
            let problem = format!("is {expected}, but the parts have {} tensors", names.len());
            Err(first.metadata().error(NUM_TENSORS, problem))
        }
        _ => Ok(()),
    }
}
