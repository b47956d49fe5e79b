//! The same model directory with coefficients folded into its output projections.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use pear_core::Profile;
use pear_core::files::Coefficient;

use super::ModelDirectory;
use super::fold::ScaledBlock;
use super::origin::Origin;
use crate::error::Error;
use crate::param::{ModuleId, ParamId};
use crate::tensor_part::MatrixLayout;

impl ModelDirectory {
    /// Writes the directory again as `out`, with the coefficients of a profile multiplied into the input channels of the output
    /// projections.
    ///
    /// Works on the bytes of the files, without a device. Every other tensor and every other file is copied byte for byte; dtypes,
    /// names and shards stay. Products are computed in f32 and rounded once to the dtype of the weight. The files are streamed, and
    /// `out` appears only once it is whole.
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
    /// [`Error::Tensor`] for a product that is no finite number of the weight's dtype; [`Error::Malformed`] for an `out` that exists
    /// and is not an empty directory, or lies within this one; [`Error::Io`].
    pub fn export(&self, profile: &Profile, out: impl AsRef<Path>) -> Result<(), Error> {
        let out = out.as_ref();
        profile.check_for(&self.shape())?;
        if let Origin::Gguf(metadata) = &self.origin {
            return Err(Error::malformed(
                metadata.path(),
                "a GGUF file cannot be exported: expected a model directory",
            ));
        }
        self.check_out(out)?;
        let blocks = self.scaled_blocks(&profile.coefficients)?;
        let parent = match out.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        fs::create_dir_all(parent).map_err(Error::io("write", parent))?;
        let unfinished = tempfile::Builder::new()
            .prefix(".pear-export-")
            .tempdir_in(parent)
            .map_err(Error::io("write", parent))?;
        // The temporary directory is readable to its owner alone; a directory in it has the usual permissions.
        let folder = unfinished.path().join("model");
        self.copy_files(self.path(), &folder)?;
        self.tensors.write_folded(&folder, &blocks)?;
        if out.exists() {
            fs::remove_dir(out).map_err(Error::io("write", out))?;
        }
        fs::rename(&folder, out).map_err(Error::io("write", out))
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
    fn scaled_blocks(
        &self,
        coefficients: &[Coefficient],
    ) -> Result<BTreeMap<String, Vec<ScaledBlock>>, Error> {
        let mut blocks: BTreeMap<String, Vec<ScaledBlock>> = BTreeMap::new();
        for &Coefficient { head, value, .. } in coefficients {
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
            } else if source.is_file() && !self.tensors.holds_weights(&source) {
                fs::copy(&source, &target).map_err(Error::io("write", &target))?;
            }
        }
        Ok(())
    }
}
