//! What a run of `locate` has finished, kept beside its output file until it is complete: lengths, or rounds within a budget.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use pear_core::files::{Provenance, read_json, write_json};
use pear_core::proxy::ProxyBatch;
use pear_core::{LayerRange, ModelShape};
use pear_locate::{Budget, LocateOptions, ScoreSettings, remove_sweep_state};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

const FORMAT: &str = "pear-scores-partial";

/// What must be equal for a run to be resumed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    model: ModelShape,
    settings: ScoreSettings,
    layers: Option<LayerRange>,
    /// For each length n: n and the number of sequences.
    lengths: Vec<(usize, usize)>,
    /// Heads to be found, and row passes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    budget: Option<(usize, u64)>,
    provenance: Provenance,
}

impl Run {
    /// The run with these options on these sequences.
    pub fn new(
        model: ModelShape,
        options: &LocateOptions,
        batches: &[ProxyBatch],
        provenance: Provenance,
    ) -> Self {
        let lengths = batches
            .iter()
            .map(|batch| (batch.n(), batch.len()))
            .collect();
        Self {
            model,
            settings: options.settings(batches.first().and_then(ProxyBatch::seed)),
            layers: options.layers,
            lengths,
            budget: None,
            provenance,
        }
    }

    /// The same within a budget.
    pub fn within(mut self, budget: &Budget) -> Self {
        self.budget = Some((budget.top_k, budget.row_passes));
        self
    }
}

#[derive(Serialize, Deserialize)]
struct Finished<T> {
    format: String,
    version: u32,
    run: Run,
    finished: T,
}

/// The partial file: the name of `--out` followed by `.partial`.
#[derive(Clone, Debug)]
pub struct PartialFile {
    path: PathBuf,
    run: Run,
}

impl PartialFile {
    /// The partial file of a run that writes its scores to `out`.
    pub fn beside(out: &Path, run: Run) -> Self {
        let mut path = out.as_os_str().to_owned();
        path.push(".partial");
        Self {
            path: path.into(),
            run,
        }
    }

    /// Reads what is finished.
    ///
    /// # Errors
    /// A file that is missing, malformed or from another run; what differs is named.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T> {
        let path = self.path.display();
        if !self.path.exists() {
            bail!("--resume: there is no {path} to resume from");
        }
        // What is finished has the shape that the run says, which is compared first.
        let Finished { run, finished, .. } =
            read_json::<Finished<serde_json::Value>>(&self.path, FORMAT)?;
        let here = &self.run;
        let differences = [
            ("model", run.model != here.model),
            ("settings", run.settings != here.settings),
            ("layers", run.layers != here.layers),
            ("lengths", run.lengths != here.lengths),
            ("budget", run.budget != here.budget),
            ("provenance", run.provenance != here.provenance),
        ];
        match differences.iter().find(|(_, differs)| *differs) {
            Some((field, _)) => {
                bail!("--resume: {path} is from another run: `{field}` is different")
            }
            None => serde_json::from_value(finished)
                .with_context(|| format!("{path}: `finished` is malformed")),
        }
    }

    /// Writes what is finished atomically.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&self, finished: &(impl Serialize + ?Sized)) -> pear_core::Result<()> {
        write_json(
            &self.path,
            &Finished {
                format: FORMAT.into(),
                version: 1,
                run: self.run.clone(),
                finished,
            },
        )
    }

    /// The folder in which a sweep over streamed layers keeps how far it is: the name of the file followed by `-state`.
    pub fn state(&self) -> PathBuf {
        let mut path = self.path.as_os_str().to_owned();
        path.push("-state");
        path.into()
    }

    /// Removes the file, and the state of a sweep, once the scores are written.
    ///
    /// # Errors
    /// A file that cannot be removed.
    pub fn remove(&self) -> Result<()> {
        remove_sweep_state(&self.state())?;
        match fs::remove_file(&self.path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => other.with_context(|| format!("{}: cannot remove", self.path.display())),
        }
    }
}
