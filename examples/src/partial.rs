//! What a run of `locate` has finished, kept beside its output until it is done.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use pear_core::files::{Provenance, read_json, write_json};
use pear_core::proxy::ProxyBatch;
use pear_core::{LayerRange, ModelShape};
use pear_locate::{LengthReport, LocateOptions, ScoreSettings};
use serde::{Deserialize, Serialize};

const FORMAT: &str = "pear-scores-partial";

/// What makes one run the same as another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    model: ModelShape,
    settings: ScoreSettings,
    layers: Option<LayerRange>,
    /// n and number of sequences.
    lengths: Vec<(usize, usize)>,
    provenance: Provenance,
}

impl Run {
    /// Locating with these options on these sequences.
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

/// The file beside `--out`: its name with `.partial` behind.
#[derive(Clone, Debug)]
pub struct PartialFile {
    path: PathBuf,
    run: Run,
}

impl PartialFile {
    /// For a run that writes its scores to `out`.
    pub fn beside(out: &Path, run: Run) -> Self {
        let mut path = out.as_os_str().to_owned();
        path.push(".partial");
        Self {
            path: path.into(),
            run,
        }
    }

    /// The lengths that are finished.
    ///
    /// # Errors
    /// A file that is missing, broken or of another run, naming what differs.
    pub fn read(&self) -> Result<Vec<LengthReport>> {
        let path = self.path.display();
        if !self.path.exists() {
            bail!("--resume: there is no {path} to go on from");
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
            Some((field, _)) => bail!("--resume: {path} is of another run: its `{field}` differ"),
            None => Ok(finished),
        }
    }

    /// Writes the lengths that are finished, all of them or, should it fail, those of before.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn write(&self, finished: &[LengthReport]) -> pear_core::Result<()> {
        let (format, run, finished) = (FORMAT.into(), self.run.clone(), finished.to_vec());
        write_json(
            &self.path,
            &Finished {
                format,
                version: 1,
                run,
                finished,
            },
        )
    }

    /// The scores are written: nothing is left to go on from.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn remove(&self) -> Result<()> {
        match fs::remove_file(&self.path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => other.with_context(|| format!("{}: cannot remove", self.path.display())),
        }
    }
}
