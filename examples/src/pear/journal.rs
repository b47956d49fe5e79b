//! What a run has finished, on disk: each step's result in a file of its own, written beside and renamed, so that a run that was killed goes
//! on after its last finished step.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use pear_core::files::write_json;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Name of the folder in the output folder.
pub const FOLDER: &str = "journal";
/// Name of the file that says how long each step took.
pub const TIMINGS: &str = "timings.json";

/// What must be equal for a run to be resumed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Version of this program.
    pub pear_version: String,
    /// Fingerprint of the weights.
    pub weights: String,
    /// Fingerprint of the tokenizer.
    pub tokenizer: Option<String>,
    /// The dtype that the model runs in.
    pub dtype: String,
    /// The device that it runs on.
    pub device: String,
    /// Seed of everything that is drawn.
    pub seed: u64,
    /// Hash of the file of `--data`.
    pub data: Option<String>,
    /// Hash of the file of `--text`.
    pub text: Option<String>,
}

impl Identity {
    /// What of another run is not as in this one.
    fn difference(&self, other: &Self) -> Option<&'static str> {
        let differences = [
            ("version", self.pear_version != other.pear_version),
            ("weights", self.weights != other.weights),
            ("tokenizer", self.tokenizer != other.tokenizer),
            ("dtype", self.dtype != other.dtype),
            ("device", self.device != other.device),
            ("--seed", self.seed != other.seed),
            ("--data", self.data != other.data),
            ("--text", self.text != other.text),
        ];
        differences
            .iter()
            .find(|(_, differs)| *differs)
            .map(|(name, _)| *name)
    }
}

/// The finished steps of a run.
#[derive(Debug)]
pub struct Journal {
    out: PathBuf,
    /// Seconds for each step, in this run or an earlier one.
    seconds: RefCell<BTreeMap<String, f64>>,
}

impl Journal {
    /// The journal in an output folder, which is made if there is none.
    ///
    /// # Errors
    /// A folder that cannot be written, that holds something else, or that holds a run of something else; what differs is named.
    pub fn open(out: &Path, identity: &Identity) -> Result<Self> {
        let name = out.display();
        let folder = out.join(FOLDER);
        let is_new = !folder.exists();
        if is_new && out.exists() && fs::read_dir(out).is_ok_and(|mut files| files.next().is_some())
        {
            bail!(
                "--out {name}: holds other files: expected a new or empty folder, or that of an earlier run"
            );
        }
        fs::create_dir_all(&folder)
            .with_context(|| format!("--out {name}: cannot make the folder"))?;
        let journal = Self {
            out: out.into(),
            seconds: RefCell::default(),
        };
        let earlier: Identity = journal.step("run", || Ok(identity.clone()))?;
        if let Some(what) = identity.difference(&earlier) {
            bail!(
                "--out {name}: holds a run with another {what}: expected a new folder, or the same command"
            );
        }
        let timings = out.join(TIMINGS);
        if let Ok(text) = fs::read(&timings) {
            journal
                .seconds
                .replace(serde_json::from_slice(&text).unwrap_or_default());
        }
        Ok(journal)
    }

    /// The output folder.
    pub fn out(&self) -> &Path {
        &self.out
    }

    /// The file of a step.
    pub fn path(&self, step: &str) -> PathBuf {
        self.out.join(FOLDER).join(format!("{step}.json"))
    }

    /// The result of a step: that of an earlier run if there is one, or else what `compute` gives, which is kept.
    ///
    /// # Errors
    /// A result that cannot be read or written, naming the file; what `compute` fails with.
    pub fn step<T: Serialize + DeserializeOwned>(
        &self,
        step: &str,
        compute: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        if let Some(result) = self.read(step)? {
            return Ok(result);
        }
        let since = Instant::now();
        let result = compute()?;
        self.write(step, &result)?;
        self.add_seconds(step, since.elapsed().as_secs_f64())?;
        Ok(result)
    }

    /// What was written for a step, if anything was.
    ///
    /// # Errors
    /// A file that cannot be read or holds something else, naming it.
    pub fn read<T: DeserializeOwned>(&self, step: &str) -> Result<Option<T>> {
        let path = self.path(step);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map(Some).with_context(|| {
                format!(
                    "{}: is not the result of `{step}`: remove it, and it is computed again",
                    path.display()
                )
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("{}: cannot read", path.display())),
        }
    }

    /// Writes what there is of a step, beside the old file first.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write<T: Serialize>(&self, step: &str, result: &T) -> Result<()> {
        Ok(write_json(&self.path(step), result)?)
    }

    /// Removes what a step kept while it was unfinished.
    ///
    /// # Errors
    /// A file that cannot be removed.
    pub fn remove(&self, step: &str) -> Result<()> {
        let path = self.path(step);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("{}: cannot remove", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// Seconds that each finished step took.
    pub fn seconds(&self) -> BTreeMap<String, f64> {
        self.seconds.borrow().clone()
    }

    /// The times are beside the journal, in a file that nothing else depends on: they are never the same twice.
    fn add_seconds(&self, step: &str, seconds: f64) -> Result<()> {
        let mut all = self.seconds.borrow_mut();
        all.insert(step.into(), (seconds * 1000.0).round() / 1000.0);
        Ok(write_json(&self.out.join(TIMINGS), &*all)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(seed: u64) -> Identity {
        Identity {
            pear_version: "1".into(),
            weights: "w".into(),
            tokenizer: None,
            dtype: "f32".into(),
            device: "flex".into(),
            seed,
            data: None,
            text: None,
        }
    }

    #[test]
    fn a_finished_step_is_not_computed_again() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let journal = Journal::open(&out, &identity(0)).unwrap();
        assert_eq!(journal.step("a", || Ok(0.1 + 0.2)).unwrap(), 0.1 + 0.2);
        let again = Journal::open(&out, &identity(0)).unwrap();
        let read: f64 = again.step("a", || bail!("computed again")).unwrap();
        assert_eq!(read, 0.1 + 0.2);
        assert!(again.seconds().contains_key("a"));
    }

    #[test]
    fn the_folder_of_another_run_and_foreign_folders_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        Journal::open(&out, &identity(0)).unwrap();
        let error = Journal::open(&out, &identity(1)).unwrap_err().to_string();
        assert!(error.contains("another --seed"), "{error}");
        fs::write(folder.path().join("x"), "").unwrap();
        let error = Journal::open(folder.path(), &identity(0)).unwrap_err();
        assert!(error.to_string().contains("other files"), "{error}");
    }

    #[test]
    fn a_damaged_result_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path(), &identity(0)).unwrap();
        fs::write(journal.path("a"), "[1,").unwrap();
        let error = journal.step::<f64>("a", || Ok(1.0)).unwrap_err();
        assert!(error.to_string().contains("a.json"), "{error}");
    }
}
