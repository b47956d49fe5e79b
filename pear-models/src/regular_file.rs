//! Files that may be anything: opened only if they are regular ones.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use crate::error::Error;

/// Bytes of the largest file of settings, such as `config.json`, that is read: published ones have a tenth. As JSON it may take 16 times as
/// much memory.
pub(crate) const SETTINGS: u64 = 16 << 20;
/// Bytes of the largest vocabulary or index of tensors that is read: those of the largest models have a quarter.
pub(crate) const LISTS: u64 = 128 << 20;

/// Opens a file for reading. A link is followed; what is neither a file nor a link to one is refused before it is opened, as opening
/// a pipe waits for someone to write into it.
///
/// # Errors
/// [`Error::Io`] with `action`, or [`Error::Malformed`] for a directory, pipe or device.
pub(crate) fn open(path: &Path, action: &'static str) -> Result<File, Error> {
    let check = |metadata: io::Result<fs::Metadata>| {
        if metadata.map_err(Error::io(action, path))?.is_file() {
            Ok(())
        } else {
            Err(Error::malformed(
                path,
                "is not a file but a directory, pipe or device",
            ))
        }
    };
    check(fs::metadata(path))?;
    let file = File::open(path).map_err(Error::io(action, path))?;
    // Another file may have taken its name in between.
    check(file.metadata())?;
    Ok(file)
}

/// Reads a whole text file of at most `limit` bytes.
///
/// # Errors
/// As [`open`], and [`Error::Malformed`] for a file that is too large to be what its name says.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Vec<u8>, Error> {
    let file = open(path, "read")?;
    let length = file.metadata().map_err(Error::io("read", path))?.len();
    if length > limit {
        return Err(Error::malformed(
            path,
            format!("is {length} bytes long: expected at most {limit}"),
        ));
    }
    let mut bytes = Vec::new();
    // What is appended while it is read is left out.
    file.take(length)
        .read_to_end(&mut bytes)
        .map_err(Error::io("read", path))?;
    Ok(bytes)
}

/// Reads a whole text file, or nothing if it does not exist.
///
/// # Errors
/// As [`read`], except for a missing file.
pub(crate) fn read_if_present(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, Error> {
    match read(path, limit) {
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_up_to_the_limit_is_read_and_a_larger_one_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text");
        fs::write(&path, "12345").unwrap();
        assert_eq!(read(&path, 5).unwrap(), b"12345");
        let error = read(&path, 4).unwrap_err().to_string();
        assert!(
            error.ends_with("text: is 5 bytes long: expected at most 4"),
            "{error}"
        );
    }

    #[test]
    fn only_files_are_opened_and_a_missing_one_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let absent = folder.path().join("absent");
        assert_eq!(read_if_present(&absent, 9).unwrap(), None);
        assert!(matches!(read(&absent, 9), Err(Error::Io { .. })));
        let error = read_if_present(folder.path(), 9).unwrap_err().to_string();
        assert!(error.contains("is not a file"), "{error}");
    }
}
