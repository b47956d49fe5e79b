//! Checks of the files that commands read and write.

use std::path::Path;

use anyhow::{Context, Result, bail};
use pear_core::Profile;
use pear_core::files::Provenance;
use pear_models::ModelDirectory;

use super::warn;

/// Checks that a file can be written, before any work is done for it.
///
/// # Errors
/// A name that is a folder, or a folder that is missing or cannot be written to; `flag` is named.
pub fn check_out(flag: &str, path: &Path) -> Result<()> {
    if path.is_dir() {
        bail!(
            "{flag} {}: is a folder: expected the name of a file",
            path.display()
        );
    }
    if path.file_name().is_none() {
        bail!("{flag} {}: expected the name of a file", path.display());
    }
    let folder = parent(path);
    if !folder.is_dir() {
        bail!(
            "{flag} {}: the folder {} does not exist",
            path.display(),
            folder.display()
        );
    }
    let test_file = tempfile::Builder::new()
        .prefix(".pear-")
        .tempfile_in(folder);
    test_file
        .map(drop)
        .with_context(|| format!("{flag} {}: cannot write to the folder", path.display()))
}

/// The folder that contains a file.
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Reads a profile and checks that it fits the model, before any weights are loaded.
///
/// # Errors
/// A file that is not a profile, or a profile for another shape of model.
pub fn read_profile(path: &Path, directory: &ModelDirectory) -> Result<Profile> {
    let profile = Profile::read(path)?;
    directory
        .shape()
        .check_same(&profile.model)
        .with_context(|| path.display().to_string())?;
    warn_of_mismatches(path, &profile.provenance, directory)?;
    Ok(profile)
}

/// Warns if a file was made for a model of the same shape with other weights or another tokenizer.
///
/// # Errors
/// A `tokenizer.json` that cannot be read.
pub fn warn_of_mismatches(
    path: &Path,
    made: &Provenance,
    directory: &ModelDirectory,
) -> Result<()> {
    let mismatches = directory.mismatches(made)?;
    if !mismatches.is_empty() {
        let (path, model) = (path.display(), directory.path().display());
        warn(&format!(
            "{path}: was made for another model: its fingerprint of {} is not that of {model}",
            mismatches.join(" and of ")
        ));
    }
    Ok(())
}
