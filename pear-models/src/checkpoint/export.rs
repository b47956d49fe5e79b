//! The same model with coefficients folded into its output projections.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use pear_core::Profile;
use pear_core::files::Coefficient;

use super::ModelDirectory;
use super::fold::{ScaledBlock, ScaledBlocks};
use super::origin::Origin;
use crate::error::Error;
use crate::fold_plan::FoldPlan;
use crate::param::{ModuleId, ParamId};
use crate::regular_file;
use crate::tensor_part::MatrixLayout;

impl ModelDirectory {
    /// Writes the model again as `out`, with the coefficients of a profile multiplied into the input channels of the output projections,
    /// and returns what changed.
    ///
    /// Works on the bytes of the files, without a device. Every other tensor and every other file is copied byte for byte, and names stay.
    /// The files are streamed, and `out` appears only once it is whole.
    ///
    /// A directory is written as a directory; its dtypes and shards stay, and products are computed in f32 and rounded once to the dtype of
    /// the weight. A GGUF file is written as a GGUF file, `out` being its name; of a split model, the parts are named after `out`, with
    /// `-00001-of-00003` and so on before `.gguf`. Quantised tensors are not quantised anew: see [`FoldRoute`](crate::FoldRoute). Keys
    /// that begin with `pear.` record the coefficients in the metadata.
    ///
    /// ```no_run
    /// use std::path::Path;
    ///
    /// use pear_core::Profile;
    /// use pear_models::ModelDirectory;
    ///
    /// let directory = ModelDirectory::open(Path::new("Llama-3.2-1B"))?;
    /// let profile = Profile::read(Path::new("profile.json"))?;
    /// directory.export(&profile, "Llama-3.2-1B-pear")?;
    /// # Ok::<(), pear_models::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Core`] for a profile of another shape of model, a head that is listed twice, or a coefficient that is not finite;
    /// [`Error::Tensor`] for a product that is no finite number of the weight's dtype; [`Error::Config`] for a GGUF file that coefficients
    /// were folded into before; [`Error::Malformed`] for an `out` that exists and is not an empty directory, lies within this one, or is
    /// not called `*.gguf` where it is to be a GGUF file; [`Error::Io`].
    pub fn export(&self, profile: &Profile, out: impl AsRef<Path>) -> Result<FoldPlan, Error> {
        let out = out.as_ref();
        let blocks = self.scaled_blocks(profile)?;
        match self.origin {
            Origin::Directory(_) => self.export_directory(&blocks, out),
            Origin::Gguf(_) => self.export_files(&blocks, out),
        }
    }

    /// What [`export`](Self::export) would change. Reads the tensors that it concerns, and writes nothing.
    ///
    /// # Errors
    /// As `export`, but for those about `out`.
    pub fn fold_plan(&self, profile: &Profile) -> Result<FoldPlan, Error> {
        self.tensors.plan_fold(&self.scaled_blocks(profile)?)
    }

    fn export_directory(&self, blocks: &ScaledBlocks, out: &Path) -> Result<FoldPlan, Error> {
        self.check_out(out)?;
        let unfinished = temporary_folder(out)?;
        // The temporary directory is readable to its owner alone; a directory in it has the usual permissions.
        let folder = unfinished.path().join("model");
        self.copy_files(self.path(), &folder)?;
        let plan = self.tensors.write_folded(&folder, blocks)?;
        if out.exists() {
            fs::remove_dir(out).map_err(Error::io("write", out))?;
        }
        fs::rename(&folder, out).map_err(Error::io("write", out))?;
        Ok(plan)
    }

    fn export_files(&self, blocks: &ScaledBlocks, out: &Path) -> Result<FoldPlan, Error> {
        let sources = self.tensors.weight_files();
        let targets = gguf_names(out, sources.len())?;
        if let Some(taken) = targets.iter().find(|target| target.exists()) {
            return Err(Error::malformed(
                taken,
                "exists already: expected the name of a new file",
            ));
        }
        let unfinished = temporary_folder(out)?;
        let plan = self.tensors.write_folded(unfinished.path(), blocks)?;
        // The first part comes last: it is the one that is opened.
        for (source, target) in sources.iter().zip(&targets).rev() {
            let written = unfinished
                .path()
                .join(source.file_name().unwrap_or_default());
            fs::rename(written, target).map_err(Error::io("write", target))?;
        }
        Ok(plan)
    }

    /// Checks that `out` is free: absent or an empty directory, and outside the model directory.
    fn check_out(&self, out: &Path) -> Result<(), Error> {
        let is_taken = out.exists()
            && fs::read_dir(out)
                .map_err(Error::io("write", out))?
                .next()
                .is_some();
        if is_taken {
            return Err(Error::malformed(
                out,
                "exists already: expected a new or empty directory",
            ));
        }
        if self.contains(out) {
            return Err(Error::malformed(
                out,
                "lies within the model directory: expected a place outside it",
            ));
        }
        Ok(())
    }

    /// Whether a path, which need not exist, lies within the directory.
    fn contains(&self, path: &Path) -> bool {
        let here = |path: &Path| {
            if path.as_os_str().is_empty() {
                Path::new(".").canonicalize()
            } else {
                path.canonicalize()
            }
        };
        let Ok(own) = here(self.path()) else {
            return false;
        };
        path.ancestors()
            .find_map(|ancestor| here(ancestor).ok())
            .is_some_and(|nearest| nearest.starts_with(own))
    }

    /// The blocks of the output projections that change, by tensor.
    fn scaled_blocks(&self, profile: &Profile) -> Result<ScaledBlocks, Error> {
        profile.check_for(&self.shape())?;
        let mut blocks = ScaledBlocks::new();
        for &Coefficient { head, value, .. } in &profile.coefficients {
            // Even multiplying by 1 may change bytes: those of a NaN.
            if value == 1.0 {
                continue;
            }
            let id = ParamId::layer_weight(head.layer, ModuleId::OProj);
            let part = self
                .part(id)
                .ok_or_else(|| Error::malformed(self.path(), format!("no tensor for `{id}`")))?;
            let head_dim = self.config.layers[head.layer].attention.head_dim;
            let inputs = head.head * head_dim..(head.head + 1) * head_dim;
            for outputs in part.channels {
                let (rows, columns) = if part.layout == MatrixLayout::InOut {
                    (inputs.clone(), outputs)
                } else {
                    (outputs, inputs.clone())
                };
                blocks
                    .entry(part.name.clone())
                    .or_default()
                    .push(ScaledBlock {
                        rows,
                        columns,
                        factor: value,
                        head,
                    });
            }
        }
        Ok(blocks)
    }

    /// Copies everything but the weights, subdirectories included.
    fn copy_files(&self, from: &Path, to: &Path) -> Result<(), Error> {
        let weights = self.tensors.weight_files();
        fs::create_dir_all(to).map_err(Error::io("write", to))?;
        for item in fs::read_dir(from).map_err(Error::io("read", from))? {
            let item = item.map_err(Error::io("read", from))?;
            let (source, target) = (item.path(), to.join(item.file_name()));
            // A directory, not a link to one: links could lead out of the model directory, or in circles.
            let is_folder = item
                .file_type()
                .map_err(Error::io("read", &source))?
                .is_dir();
            // Links to files are followed, as download caches consist of them.
            if is_folder {
                self.copy_files(&source, &target)?;
            } else if source.is_file() && !weights.contains(&&*source) {
                copy(&source, &target)?;
            }
        }
        Ok(())
    }
}

/// Copies a file, so that an error names the one that could not be read or written.
fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    let mut source = regular_file::open(from, "read")?;
    let mut target = File::create(to).map_err(Error::io("write", to))?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = source.read(&mut buffer).map_err(Error::io("read", from))?;
        if read == 0 {
            return Ok(());
        }
        let write = target.write_all(&buffer[..read]);
        write.map_err(Error::io("write", to))?;
    }
}

/// A temporary directory beside `out`, whose parents are made.
fn temporary_folder(out: &Path) -> Result<tempfile::TempDir, Error> {
    let parent = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent).map_err(Error::io("write", parent))?;
    tempfile::Builder::new()
        .prefix(".pear-export-")
        .tempdir_in(parent)
        .map_err(Error::io("write", parent))
}

/// The names of the files of a model in `count` parts. `out` may be the name of the first part or the name without its number.
fn gguf_names(out: &Path, count: usize) -> Result<Vec<PathBuf>, Error> {
    let name = out.file_name().and_then(|name| name.to_str());
    let Some(stem) = name.and_then(|name| name.strip_suffix(".gguf")) else {
        return Err(Error::malformed(
            out,
            "a GGUF file is exported as a GGUF file: expected a name that ends with .gguf",
        ));
    };
    if count == 1 {
        return Ok(vec![out.into()]);
    }
    let ending = |part: usize| format!("-{part:05}-of-{count:05}");
    let stem = stem.strip_suffix(&ending(1)).unwrap_or(stem);
    let path = |part| out.with_file_name(format!("{stem}{}.gguf", ending(part)));
    Ok((1..=count).map(path).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_named_after_the_file_that_was_asked_for() {
        let names = |out: &str, count| {
            let names = gguf_names(Path::new(out), count).map_err(|e| e.to_string())?;
            let texts = names.iter().map(|name| name.display().to_string());
            Ok::<_, String>(texts.collect::<Vec<_>>())
        };
        assert_eq!(names("a/m.gguf", 1).unwrap(), ["a/m.gguf"]);
        let parts = ["a/m-00001-of-00002.gguf", "a/m-00002-of-00002.gguf"];
        assert_eq!(names("a/m.gguf", 2).unwrap(), parts);
        assert_eq!(names(parts[0], 2).unwrap(), parts);
        let error = names("a/m", 1).unwrap_err();
        assert!(
            error.ends_with("expected a name that ends with .gguf"),
            "{error}"
        );
    }
}
