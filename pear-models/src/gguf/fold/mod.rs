//! Coefficients folded into GGUF files, without quantising anything anew.
//!
//! A head owns some of the inputs of its layer's output projection, and rows of a tensor run along the inputs. Where no block of numbers
//! belongs to two heads with different coefficients, the block's scales in half precision are multiplied. A superblock of 256 numbers that
//! does is divided: its codes go to a type with a scale for every 32 numbers as they are. What remains is stored unquantised.

mod codes;
mod record;
mod row;
mod scales;
mod tensor;
#[cfg(test)]
mod tests;
mod write;

use std::collections::BTreeMap;
use std::path::Path;

use pear_core::HeadId;

use super::file::GgufFile;
use crate::error::Error;
use crate::fold_plan::FoldPlan;
pub(crate) use tensor::HeadColumns;
use tensor::TensorFold;

/// The files of a model, and how each of the tensors that change is folded.
#[derive(Debug)]
pub(crate) struct GgufFold<'a> {
    files: &'a [GgufFile],
    folds: BTreeMap<&'a str, TensorFold<'a>>,
    /// The heads that are re-weighted.
    heads: Vec<(HeadId, f32)>,
}

impl<'a> GgufFold<'a> {
    /// Chooses a route for each of the tensors that `columns` names. Reads these tensors.
    ///
    /// # Errors
    /// [`Error::Config`] for a file that coefficients were folded into before; [`Error::Tensor`] for a tensor that is not there, or that
    /// takes its coefficients in no way.
    pub fn plan(
        files: &'a [GgufFile],
        columns: &BTreeMap<String, Vec<HeadColumns>>,
    ) -> Result<Self, Error> {
        for file in files {
            record::check_not_folded(file.metadata())?;
        }
        let mut fold = Self {
            files,
            folds: BTreeMap::new(),
            heads: Vec::new(),
        };
        for (name, columns) in columns {
            let found = files.iter().find_map(|file| {
                let tensor = file.tensors().iter().find(|tensor| tensor.name == *name)?;
                Some((file, tensor))
            });
            let fail = |path: &Path, problem: String| Error::Tensor {
                path: path.into(),
                name: name.clone(),
                problem,
            };
            let Some((file, tensor)) = found else {
                let path = files.first().map_or(Path::new(""), GgufFile::path);
                return Err(fail(path, "is not in the file".into()));
            };
            let chosen = TensorFold::choose(file, tensor, columns)
                .map_err(|problem| fail(file.path(), problem))?;
            fold.folds.insert(&tensor.name, chosen);
            let heads = columns.iter().map(|columns| (columns.head, columns.factor));
            fold.heads.extend(heads);
        }
        fold.heads.sort_by_key(|(head, _)| *head);
        Ok(fold)
    }

    /// What changes.
    pub fn summary(&self) -> FoldPlan {
        FoldPlan::new(self.folds.values().map(TensorFold::summary).collect())
    }

    /// Writes the files as `targets`, one for each.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, targets: &[impl AsRef<Path>]) -> Result<(), Error> {
        let (num_keys, keys) = record::record(&self.heads);
        for (index, (file, target)) in self.files.iter().zip(targets).enumerate() {
            // The first file holds the metadata of the model.
            let added = if index == 0 {
                (num_keys, &keys[..])
            } else {
                (0, &[][..])
            };
            write::write(file, &self.folds, added, target.as_ref())?;
        }
        Ok(())
    }
}
