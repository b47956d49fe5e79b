//! The files of a finished run, with their hashes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use pear_core::files::write_json;
use pear_core::{DecoderModel, HeadId, Profile};
use pear_models::{Decoder, ModelDirectory};
use serde::{Deserialize, Serialize};

use super::journal::{FOLDER, Identity, Journal, TIMINGS};
use super::learning::attached;
use super::report::{Coefficient, FileHash, Settings, Storage};

/// Where the folded model is written before it is renamed.
const UNFINISHED: &str = "unfinished";
/// The file that says how to repeat a run.
const REPRODUCE: &str = "reproduce.json";

/// Writes a profile of coefficients, with the scores of its heads.
///
/// # Errors
/// A file that cannot be written.
pub fn save_profile(
    path: &Path,
    coefficients: &[Coefficient],
    model: &Decoder,
    directory: &ModelDirectory,
    scores: impl IntoIterator<Item = (HeadId, f64)>,
) -> Result<Profile> {
    let attached = attached(coefficients, &model.shape(), &model.device())?;
    let mut profile = Profile::new(&attached, None)?.with_scores(scores);
    profile.provenance = directory.provenance(model.dtype())?;
    profile.write(path)?;
    Ok(profile)
}

/// How a model is stored.
pub fn storage(directory: &ModelDirectory) -> Storage {
    if directory.path().is_file() {
        Storage::Gguf
    } else {
        Storage::HuggingFace
    }
}

/// Writes the model with the coefficients folded into its weights, as it came: `folded/`, or `folded.gguf` or the parts that are named after
/// it. What an interrupted run left is replaced.
///
/// # Errors
/// Files that cannot be written; a GGUF file that coefficients were folded into before.
pub fn save_folded(journal: &Journal, profile: &Profile, directory: &ModelDirectory) -> Result<()> {
    let unfinished = journal.out().join(FOLDER).join(UNFINISHED);
    for folded in folded_files(journal.out())? {
        remove(&folded)?;
    }
    make_empty(&unfinished)?;
    let name = match storage(directory) {
        Storage::HuggingFace => "folded",
        Storage::Gguf => "folded.gguf",
    };
    directory.export(profile, unfinished.join(name))?;
    for file in sorted(&unfinished)? {
        let to = journal.out().join(file.file_name().unwrap_or_default());
        fs::rename(&file, &to).with_context(|| format!("{}: cannot write", to.display()))?;
    }
    remove(&unfinished)
}

/// A new folder, without what an interrupted run left in an older one.
///
/// # Errors
/// A folder that cannot be removed or made.
pub fn make_empty(folder: &Path) -> Result<()> {
    remove(folder)?;
    fs::create_dir_all(folder).with_context(|| format!("{}: cannot write", folder.display()))
}

/// The folded model in an output folder, or the parts of one.
fn folded_files(out: &Path) -> Result<Vec<PathBuf>> {
    let is_folded = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name == "folded" || (name.starts_with("folded") && name.ends_with(".gguf"))
    };
    Ok(sorted(out)?.into_iter().filter(is_folded).collect())
}

fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() {
        fs::remove_dir_all(path)
    } else if path.exists() {
        fs::remove_file(path)
    } else {
        Ok(())
    };
    removed.with_context(|| format!("{}: cannot remove", path.display()))
}

fn sorted(folder: &Path) -> Result<Vec<PathBuf>> {
    let cannot = || format!("{}: cannot read", folder.display());
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).with_context(cannot)? {
        paths.push(entry.with_context(cannot)?.path());
    }
    paths.sort();
    Ok(paths)
}

/// The files in an output folder by name, with their hashes: all but the journal, the times and `reproduce.json`.
///
/// # Errors
/// A file that cannot be read.
pub fn hashes(out: &Path) -> Result<Vec<FileHash>> {
    let mut files = Vec::new();
    for path in sorted(out)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if ![FOLDER, TIMINGS, REPRODUCE].contains(&&*name) {
            add_hashes(&path, &name, &mut files)?;
        }
    }
    Ok(files)
}

fn add_hashes(path: &Path, name: &str, files: &mut Vec<FileHash>) -> Result<()> {
    if path.is_dir() {
        for inner in sorted(path)? {
            let inner_name = inner.file_name().unwrap_or_default().to_string_lossy();
            add_hashes(&inner, &format!("{name}/{inner_name}"), files)?;
        }
        return Ok(());
    }
    files.push(FileHash {
        name: name.into(),
        bytes: fs::metadata(path)
            .with_context(|| format!("{}: cannot read", path.display()))?
            .len(),
        blake3: hash(path)?,
    });
    Ok(())
}

/// BLAKE3 of a file.
///
/// # Errors
/// A file that cannot be read.
pub fn hash(path: &Path) -> Result<String> {
    let cannot = || format!("{}: cannot read", path.display());
    let mut hasher = blake3::Hasher::new();
    let file = File::open(path).with_context(cannot)?;
    hasher.update_reader(file).with_context(cannot)?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// All that is needed to repeat a run, and to check that it was repeated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reproduction {
    /// `pear-reproduce`.
    pub format: String,
    /// 1.
    pub version: u32,
    /// The command and its settings.
    pub settings: Settings,
    /// Fingerprints of everything that the result depends on.
    pub inputs: Identity,
    /// The chosen candidate, which a person may have chosen against the rule; absent if the model was left alone.
    pub chosen: Option<String>,
    /// Every file of the result but this one, the times and the journal.
    pub files: Vec<FileHash>,
}

/// Writes `reproduce.json`, the last of the files.
///
/// # Errors
/// A file that cannot be read or written.
pub fn save_reproduction(
    out: &Path,
    settings: Settings,
    inputs: Identity,
    chosen: Option<String>,
) -> Result<()> {
    let reproduction = Reproduction {
        format: "pear-reproduce".into(),
        version: 1,
        settings,
        inputs,
        chosen,
        files: hashes(out)?,
    };
    Ok(write_json(&out.join(REPRODUCE), &reproduction)?)
}
