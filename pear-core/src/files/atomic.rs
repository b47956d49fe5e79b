//! Files that appear whole or not at all.

use std::fs::{self, File};
use std::io::{self, Error, ErrorKind};
use std::path::Path;

use tempfile::NamedTempFile;

/// What the names of unfinished files begin with.
const PREFIX: &str = ".pear-";

/// Lets `fill` write a new file beside `path`, then renames it there. What earlier runs left unfinished beside it is removed.
///
/// # Errors
/// [`ErrorKind::InvalidInput`] where `path` is something else than a file: renaming would replace a device, pipe or link. Whatever else the
/// file system or `fill` says. `path` is then as it was.
pub fn write_atomic(path: &Path, fill: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    check_replaceable(path)?;
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    remove_unfinished(folder);
    let mut file = unfinished(folder)?;
    fill(file.as_file_mut())?;
    file.as_file_mut().sync_all()?;
    file.persist(path).map_err(|e| e.error)?;
    Ok(())
}

fn check_replaceable(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.is_file() => Err(Error::new(
            ErrorKind::InvalidInput,
            "it is a link, folder, device or pipe: expected a file, or a name that is free",
        )),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// A new file, locked as long as it is open: so others see that it is being written.
fn unfinished(folder: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(PREFIX);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // What a plain `File::create` asks for; the umask takes its share.
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    loop {
        let file = builder.tempfile_in(folder)?;
        // A file system without locks has its leftovers removed by hand.
        if let Err(error) = file.as_file().lock() {
            log::debug!("{}: {error}", file.path().display());
        }
        // Otherwise another run has taken it for a leftover before it was locked.
        if file.path().exists() {
            return Ok(file);
        }
    }
}

/// Removes what runs that were killed have left: unfinished files that nobody holds.
fn remove_unfinished(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if !is_ours || !is_file {
            continue;
        }
        let is_left = File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok());
        if is_left && let Err(error) = fs::remove_file(entry.path()) {
            log::debug!("{}: {error}", entry.path().display());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
        let mut names: Vec<String> = entries
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn leftovers_are_removed_but_not_what_is_being_written() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(".pear-left"), "half").unwrap();
        fs::write(folder.path().join("other"), "").unwrap();
        let held = unfinished(folder.path()).unwrap();
        write_atomic(&folder.path().join("out"), |file| file.write_all(b"whole")).unwrap();
        let held = held
            .path()
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        assert_eq!(names(folder.path()), [held.as_str(), "other", "out"]);
    }

    #[cfg(unix)]
    #[test]
    fn links_and_folders_are_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (target, link) = (folder.path().join("target"), folder.path().join("link"));
        fs::write(&target, "kept").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        for path in [&link, folder.path(), Path::new("/dev/null")] {
            let error = write_atomic(path, |file| file.write_all(b"new")).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{path:?}");
        }
        assert_eq!(fs::read(&target).unwrap(), b"kept");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }
}
