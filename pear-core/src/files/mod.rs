//! Results as JSON files: [`Profile`] (the coefficients of a model's heads) and what all of them share.

mod atomic;
mod profile;
mod provenance;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

use serde::{Serialize, de::DeserializeOwned};

#[doc(hidden)]
pub use atomic::write_atomic;
pub use profile::{Coefficient, Profile, TrainingRecord};
pub use provenance::{Provenance, SequenceRecord};

use crate::{Error, Result};

/// No PEAR JSON file comes near this; a larger one is something else.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// The first two fields of every file.
#[derive(serde::Deserialize)]
struct Header {
    format: String,
    version: u32,
}

/// Reads a PEAR JSON file, which starts with its `format` and `version` 1.
///
/// # Errors
/// [`Error::Io`], or [`Error::Malformed`] for a file of another format or version, or that does not hold a `T`.
#[doc(hidden)]
pub fn read_json<T: DeserializeOwned>(path: &Path, format: &str) -> Result<T> {
    let io = |source| Error::Io {
        action: "read",
        path: path.into(),
        source,
    };
    let malformed = |problem: String| Error::Malformed {
        path: path.into(),
        problem,
    };
    // Before it is opened: opening a pipe waits for someone to write into it.
    let metadata = fs::metadata(path).map_err(io)?;
    if !metadata.is_file() {
        return Err(malformed(format!(
            "is not a file: expected a {format} file"
        )));
    }
    if metadata.len() > MAX_FILE_BYTES {
        let size = metadata.len();
        return Err(malformed(format!("{size} bytes: expected a {format} file")));
    }
    let mut text = Vec::new();
    // What is appended while it is read is left out.
    let file = File::open(path).map_err(io)?;
    file.take(metadata.len())
        .read_to_end(&mut text)
        .map_err(io)?;
    let not_ours = |problem| malformed(format!("not a {format} file: {problem}"));
    let header: Header = serde_json::from_slice(&text).map_err(|e| not_ours(e.to_string()))?;
    if header.format != format {
        return Err(not_ours(format!("its format is `{}`", header.format)));
    }
    if header.version != 1 {
        return Err(malformed(format!(
            "version {} of {format}: this release reads version 1",
            header.version
        )));
    }
    serde_json::from_slice(&text).map_err(|e| malformed(e.to_string()))
}

/// Writes JSON beside `path` and renames it into place, so that no reader ever sees half a file.
///
/// # Errors
/// [`Error::Io`] with the path.
#[doc(hidden)]
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let io = |source| Error::Io {
        action: "write",
        path: path.into(),
        source,
    };
    let text = serde_json::to_vec(value).map_err(|e| io(e.into()))?;
    write_atomic(path, |file| {
        file.write_all(&text)?;
        file.write_all(b"\n")
    })
    .map_err(io)
}
