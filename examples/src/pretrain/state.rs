//! Checkpoints of a training run.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use pear_core::files::{read_json, write_json};
use serde::{Deserialize, Serialize};

use super::Pretraining;

const FORMAT: &str = "pear-pretraining";

/// Names the checkpoint that is complete; written last.
#[derive(Serialize, Deserialize)]
struct Latest {
    format: String,
    version: u32,
    training: Pretraining,
    steps: usize,
    /// Hash of each file of the checkpoint, by name.
    files: BTreeMap<String, String>,
}

/// A folder of checkpoints: weights and optimizer in a subfolder for each number of steps. `latest.json` names the latest complete
/// one; earlier ones are removed.
#[derive(Clone, Debug)]
pub struct StateFolder {
    path: PathBuf,
    every: usize,
}

impl StateFolder {
    /// A folder that a checkpoint is written to every so many steps.
    pub fn new(path: &Path, every: usize) -> Self {
        Self {
            path: path.into(),
            every,
        }
    }

    pub(super) fn is_due(&self, steps: usize) -> bool {
        steps.is_multiple_of(self.every)
    }

    /// The number of steps of the latest checkpoint and its folder, if there is one.
    pub(super) fn find(&self, training: &Pretraining) -> Result<Option<(usize, PathBuf)>> {
        let path = self.path.join("latest.json");
        if !path.is_file() {
            return Ok(None);
        }
        let latest: Latest = read_json(&path, FORMAT)?;
        if latest.training != *training {
            bail!(
                "{}: of another training: {:?}, expected {training:?}",
                path.display(),
                latest.training
            );
        }
        if latest.steps > training.steps() {
            bail!(
                "{}: {} steps, but the run has {}",
                path.display(),
                latest.steps,
                training.steps()
            );
        }
        let folder = self.folder(latest.steps);
        if hashes(&folder)? != latest.files {
            bail!(
                "{}: its files are not those that {} names: start again without --resume, in a new folder",
                folder.display(),
                path.display()
            );
        }
        Ok(Some((latest.steps, folder)))
    }

    pub(super) fn save(
        &self,
        training: &Pretraining,
        steps: usize,
        write: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<()> {
        let folder = self.folder(steps);
        fs::create_dir_all(&folder)
            .with_context(|| format!("{}: cannot make the folder", folder.display()))?;
        write(&folder)?;
        let latest = Latest {
            format: FORMAT.into(),
            version: 1,
            training: training.clone(),
            steps,
            files: hashes(&folder)?,
        };
        write_json(&self.path.join("latest.json"), &latest)?;
        let entries = fs::read_dir(&self.path)
            .with_context(|| format!("{}: cannot read", self.path.display()))?;
        for entry in entries.flatten().filter(|entry| entry.path() != folder) {
            let own = entry
                .file_name()
                .to_str()
                .and_then(|name| name.strip_prefix("steps-"))
                .is_some_and(|n| n.parse::<u64>().is_ok());
            if own && entry.path().is_dir() {
                fs::remove_dir_all(entry.path())
                    .with_context(|| format!("{}: cannot remove", entry.path().display()))?;
            }
        }
        Ok(())
    }

    fn folder(&self, steps: usize) -> PathBuf {
        self.path.join(format!("steps-{steps}"))
    }
}

/// The hash of each file of a folder, by name.
fn hashes(folder: &Path) -> Result<BTreeMap<String, String>> {
    let cannot = || format!("{}: cannot read", folder.display());
    let mut hashes = BTreeMap::new();
    for entry in fs::read_dir(folder).with_context(cannot)? {
        let entry = entry.with_context(cannot)?;
        if !entry.file_type().with_context(cannot)?.is_file() {
            bail!("{}: is not a file", entry.path().display());
        }
        let mut hasher = blake3::Hasher::new();
        let file = File::open(entry.path()).with_context(cannot)?;
        hasher.update_reader(file).with_context(cannot)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        hashes.insert(name, hasher.finalize().to_hex().to_string());
    }
    Ok(hashes)
}
