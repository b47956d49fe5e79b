//! Checks of the files that commands read and write.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use pear_core::Profile;
use pear_core::files::Provenance;
use pear_models::ModelDirectory;

use super::warn;

/// What the names of a model's files end with, beside its configuration.
const OF_MODELS: [&str; 8] = [
    ".safetensors",
    ".index.json",
    ".gguf",
    ".bin",
    ".jinja",
    ".model",
    "merges.txt",
    "vocab.txt",
];
const CONFIGURATION: [&str; 7] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
];

/// The files that a command writes, checked before any work is done for them.
#[derive(Debug, Default)]
pub struct Outputs {
    /// Files that are read.
    inputs: Vec<PathBuf>,
    /// Flags, and the files that they name.
    outputs: Vec<(String, PathBuf)>,
}

impl Outputs {
    /// Of a command that reads these files, as far as they are given, and the files of these model directories.
    pub fn beside<'a>(inputs: impl IntoIterator<Item = Option<&'a PathBuf>>) -> Self {
        let is_of_model = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            CONFIGURATION.contains(&&*name) || OF_MODELS.iter().any(|end| name.ends_with(end))
        };
        let mut files = Vec::new();
        for input in inputs.into_iter().flatten() {
            match fs::read_dir(input) {
                Ok(entries) => {
                    let paths = entries.flatten().map(|entry| entry.path());
                    files.extend(paths.filter(is_of_model));
                }
                Err(_) => files.push(input.into()),
            }
        }
        Self {
            inputs: files,
            outputs: Vec::new(),
        }
    }

    /// Checks the file that a flag names, if it is given.
    ///
    /// # Errors
    /// As [`check_out`]; a file that is read, or that another flag names.
    pub fn add(&mut self, flag: &str, path: Option<&Path>) -> Result<()> {
        let Some(path) = path else {
            return Ok(());
        };
        check_out(flag, path)?;
        if let Some(input) = self.inputs.iter().find(|input| is_same(input, path)) {
            bail!(
                "{flag} {}: would replace {}, which is read",
                path.display(),
                input.display()
            );
        }
        let same = self.outputs.iter().find(|(_, other)| is_same(other, path));
        if let Some((other, _)) = same {
            bail!("{flag} {}: is the file of {other}", path.display());
        }
        self.outputs.push((flag.into(), path.into()));
        Ok(())
    }
}

/// Whether two names are those of one file, which may not exist yet.
fn is_same(a: &Path, b: &Path) -> bool {
    let place = |path: &Path| {
        let folder = parent(path).canonicalize().ok()?;
        Some(folder.join(path.file_name()?))
    };
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        if let (Ok(a), Ok(b)) = (fs::metadata(a), fs::metadata(b)) {
            return (a.dev(), a.ino()) == (b.dev(), b.ino());
        }
    }
    place(a).is_some_and(|a| place(b) == Some(a))
}

/// Checks that a file can be written, before any work is done for it.
///
/// # Errors
/// A name that is taken by something else than a file, or too long; a folder that is missing or cannot be written to; `flag` is named.
pub fn check_out(flag: &str, path: &Path) -> Result<()> {
    let is_folder = || {
        format!(
            "{flag} {}: is a folder: expected the name of a file",
            path.display()
        )
    };
    if path.file_name().is_none() {
        bail!(is_folder());
    }
    let folder = parent(path);
    if !folder.is_dir() {
        bail!(
            "{flag} {}: the folder {} does not exist",
            path.display(),
            folder.display()
        );
    }
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => bail!(is_folder()),
        Ok(metadata) if !metadata.is_file() => bail!(
            "{flag} {}: is a link, device or pipe, which writing would replace: expected a file, or a name that is free",
            path.display()
        ),
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("{flag} {}: cannot write", path.display()));
        }
        _ => {}
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

#[cfg(test)]
mod tests {
    use super::*;

    fn message(result: Result<()>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn outputs_are_neither_inputs_nor_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["config.json", "model.safetensors", "scores.json"] {
            fs::write(path(name), "{}").unwrap();
        }
        let (model, scores) = (folder.path().to_owned(), path("scores.json"));
        let mut outputs = Outputs::beside([Some(&model), Some(&scores)]);
        outputs.add("--out", None).unwrap();
        outputs.add("--out", Some(&path("new.json"))).unwrap();
        for read in ["model.safetensors", "scores.json"] {
            let again = path("../").join(model.file_name().unwrap()).join(read);
            let error = message(outputs.add("--log", Some(&again)));
            assert!(
                error.contains("--log") && error.contains("which is read"),
                "{error}"
            );
        }
        let error = message(outputs.add("--log", Some(&path("./new.json"))));
        assert!(error.contains("is the file of --out"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn an_output_is_a_file_or_a_name_that_is_free() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        for (taken, expected) in [
            (link.as_path(), "is a link, device or pipe"),
            (Path::new("/dev/null"), "is a link, device or pipe"),
            (folder.path(), "is a folder"),
            (&folder.path().join("x".repeat(300)), "cannot write"),
            (&folder.path().join("no/file"), "does not exist"),
        ] {
            let error = message(check_out("--out", taken));
            assert!(
                error.starts_with("--out") && error.contains(expected),
                "{error}"
            );
        }
    }
}
