//! The lengths that a run of `locate` has finished, kept beside its output file until it is complete.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use pear_core::files::{Provenance, read_json, write_json};
use pear_core::proxy::ProxyBatch;
use pear_core::{LayerRange, ModelShape};
use pear_locate::{LengthReport, LocateOptions, ScoreSettings};
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
            provenance,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Finished {
    format: String,
    version: u32,
    run: Run,
    finished: Vec<LengthReport>,
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

    /// Reads the finished lengths.
    ///
    /// # Errors
    /// A file that is missing, malformed or from another run; what differs is named.
    pub fn read(&self) -> Result<Vec<LengthReport>> {
        let path = self.path.display();
        if !self.path.exists() {
            bail!("--resume: there is no {path} to resume from");
        }
        let Finished { run, finished, .. } = read_json(&self.path, FORMAT)?;
        let here = &self.run;
        let differences = [
            ("model", run.model != here.model),
            ("settings", run.settings != here.settings),
            ("layers", run.layers != here.layers),
            ("lengths", run.lengths != here.lengths),
            ("provenance", run.provenance != here.provenance),
        ];
        match differences.iter().find(|(_, differs)| *differs) {
            Some((field, _)) => {
                bail!("--resume: {path} is from another run: `{field}` is different")
            }
            None => Ok(finished),
        }
    }

    /// Writes the finished lengths atomically.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&self, finished: &[LengthReport]) -> pear_core::Result<()> {
        write_json(
            &self.path,
            &Finished {
                format: FORMAT.into(),
                version: 1,
                run: self.run.clone(),
                finished: finished.to_vec(),
            },
        )
    }

    /// Removes the file, once the scores are written.
    ///
    /// # Errors
    /// A file that cannot be removed.
    pub fn remove(&self) -> Result<()> {
        match fs::remove_file(&self.path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => other.with_context(|| format!("{}: cannot remove", self.path.display())),
        }
    }
}
