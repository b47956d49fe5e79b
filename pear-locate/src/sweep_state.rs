//! Where a sweep over layers made on demand is, kept on disk: it goes on at the layer at which it was interrupted.
//!
//! A folder holds `state.json` and, in a folder that it names, a safetensors file for each step that is going up. Both are written anew each
//! time and `state.json` is renamed into place last, so that it always names files that are whole.

use std::borrow::Cow;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use burn::prelude::*;
use burn::tensor::{Bytes, DType};
use pear_core::HeadId;
use pear_core::files::{read_json, write_json};
use safetensors::tensor::View;
use safetensors::{Dtype, SafeTensors, serialize_to_file};
use serde::{Deserialize, Serialize};

use crate::patched::Part;
use crate::readings::Performance;
use crate::{Error, Result, ScoreSettings};

const FORMAT: &str = "pear-sweep-state";

/// Saving may take this share of the time.
const SHARE: u32 = 10;

/// What must be equal for a sweep to go on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub settings: ScoreSettings,
    pub heads: Vec<HeadId>,
    /// For each step: tokens that are repeated, and sequences.
    pub steps: Vec<(usize, usize)>,
}

/// How far a sweep is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Saved {
    format: String,
    version: u32,
    identity: Identity,
    /// Groups of steps that have been through all layers.
    pub groups: usize,
    /// Layers that the steps of the next group have been through.
    pub layers: usize,
    /// For each batch, what is finished.
    pub parts: Vec<(Performance, Vec<Part>)>,
    /// The folder of the steps.
    steps: String,
}

/// The tensors of a step between two layers.
pub(crate) struct StepTensors {
    pub residual: Tensor<3>,
    pub variants: Vec<Tensor<3>>,
}

/// The folder of a sweep.
pub(crate) struct SweepState {
    folder: PathBuf,
    identity: Identity,
    /// When it was saved last, and how long that took.
    last: Option<(Instant, Duration)>,
}

impl SweepState {
    pub(crate) fn new(folder: &Path, identity: Identity) -> Self {
        Self {
            folder: folder.into(),
            identity,
            last: None,
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.join("state.json")
    }

    /// What an earlier run left, if there is anything.
    ///
    /// # Errors
    /// A file that cannot be read, or is of another sweep.
    pub(crate) fn read(&self) -> Result<Option<Saved>> {
        if !self.path().exists() {
            return Ok(None);
        }
        let saved: Saved = read_json(&self.path(), FORMAT)?;
        if saved.identity != self.identity {
            let n = self.identity.steps.first().map_or(0, |&(n, _)| n);
            return Err(Error::Unresumable { n });
        }
        Ok(Some(saved))
    }

    /// The tensors of a step, on `device`.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub(crate) fn read_step(
        &self,
        saved: &Saved,
        step: usize,
        device: &Device,
    ) -> Result<StepTensors> {
        // A name, not a path: it leads nowhere else.
        let name = Path::new(&saved.steps).file_name().unwrap_or_default();
        let path = self.folder.join(name).join(file_name(step));
        let malformed = |problem: String| pear_core::Error::Malformed {
            path: path.clone(),
            problem,
        };
        let bytes = fs::read(&path).map_err(|source| io("read", &path, source))?;
        let file = SafeTensors::deserialize(&bytes).map_err(|e| malformed(e.to_string()))?;
        let tensor = |name: &str| -> Result<Tensor<3>> {
            let view = file.tensor(name).map_err(|e| malformed(e.to_string()))?;
            let dtype = match view.dtype() {
                Dtype::F32 => DType::F32,
                Dtype::F16 => DType::F16,
                Dtype::BF16 => DType::BF16,
                other => return Err(malformed(format!("`{name}` is {other}")).into()),
            };
            let &[a, b, c] = view.shape() else {
                return Err(malformed(format!("`{name}` is {:?}", view.shape())).into());
            };
            let bytes = Bytes::from_bytes_vec(view.data().to_vec());
            let data = TensorData::from_bytes(bytes, [a, b, c], dtype);
            Ok(Tensor::from_data(data, (device, dtype)))
        };
        let count = file.len() - 1;
        Ok(StepTensors {
            residual: tensor("residual")?,
            variants: (0..count)
                .map(|chunk| tensor(&format!("variants.{chunk}")))
                .collect::<Result<_>>()?,
        })
    }

    /// Whether saving again would not take more than its share of the time.
    pub(crate) fn is_due(&self) -> bool {
        self.last
            .is_none_or(|(saved, took)| saved.elapsed() >= SHARE * took)
    }

    /// Saves how far it is.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub(crate) fn save<'a>(
        &mut self,
        groups: usize,
        layers: usize,
        parts: Vec<(Performance, Vec<Part>)>,
        steps: impl IntoIterator<Item = (&'a Tensor<3>, &'a [Tensor<3>])>,
    ) -> Result<()> {
        let since = Instant::now();
        let name = format!("group-{groups}-layers-{layers}");
        let folder = self.folder.join(&name);
        fs::create_dir_all(&folder).map_err(|source| io("create", &folder, source))?;
        for (step, (residual, variants)) in steps.into_iter().enumerate() {
            let path = folder.join(file_name(step));
            let named = variants.iter().enumerate();
            let tensors = named
                .map(|(chunk, rows)| (format!("variants.{chunk}"), Lazy::new(rows)))
                .chain([("residual".into(), Lazy::new(residual))]);
            serialize_to_file(tensors, None, &path).map_err(|e| {
                let source = std::io::Error::other(e);
                io("write", &path, source)
            })?;
        }
        let saved = Saved {
            format: FORMAT.into(),
            version: 1,
            identity: self.identity.clone(),
            groups,
            layers,
            parts,
            steps: name.clone(),
        };
        write_json(&self.path(), &saved)?;
        self.remove_others(&name);
        self.last = Some((Instant::now(), since.elapsed()));
        Ok(())
    }

    /// Removes the steps of earlier states.
    fn remove_others(&self, kept: &str) {
        for folder in step_folders(&self.folder) {
            // What cannot be removed takes space, nothing else.
            if !folder.ends_with(kept)
                && let Err(error) = fs::remove_dir_all(&folder)
            {
                log::debug!("{}: {error}", folder.display());
            }
        }
    }
}

/// The folders of steps, of any state.
fn step_folders(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("group-"))
        .map(|entry| entry.path())
        .collect()
}

/// Removes what a sweep [keeps in a folder](crate::Locator::with_state), if there is anything, and the folder, if nothing else is in it.
///
/// # Errors
/// A file that cannot be removed.
pub fn remove_sweep_state(folder: &Path) -> Result<()> {
    let result = |result: std::io::Result<()>, path: &Path| match result {
        Err(source) if source.kind() != ErrorKind::NotFound => {
            Err(Error::from(io("remove", path, source)))
        }
        _ => Ok(()),
    };
    let state = folder.join("state.json");
    // First: what it names is about to go.
    result(fs::remove_file(&state), &state)?;
    for steps in step_folders(folder) {
        result(fs::remove_dir_all(&steps), &steps)?;
    }
    if let Err(error) = fs::remove_dir(folder) {
        log::debug!("{}: {error}", folder.display());
    }
    Ok(())
}

fn file_name(step: usize) -> String {
    format!("step-{step}.safetensors")
}

fn io(action: &'static str, path: &Path, source: std::io::Error) -> pear_core::Error {
    pear_core::Error::Io {
        action,
        path: path.into(),
        source,
    }
}

/// A tensor whose bytes are read when they are written.
struct Lazy<'a> {
    tensor: &'a Tensor<3>,
    shape: [usize; 3],
}

impl<'a> Lazy<'a> {
    fn new(tensor: &'a Tensor<3>) -> Self {
        Self {
            tensor,
            shape: tensor.dims(),
        }
    }
}

impl View for Lazy<'_> {
    fn dtype(&self) -> Dtype {
        match self.tensor.dtype() {
            DType::BF16 => Dtype::BF16,
            DType::F16 => Dtype::F16,
            _ => Dtype::F32,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(self.tensor.to_data().as_bytes().to_vec())
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * self.tensor.dtype().size()
    }
}
