//! A quantised checkpoint, written again with coefficients folded in: files of weights, their index, and the settings.

use std::fs;
use std::path::{Path, PathBuf};

use pear_core::files::write_json;
use serde_json::{Value, json};

use super::checkpoint::{QuantizedCheckpoint, Weight};
use super::exclusion::exclude;
use super::fold::FoldedWeight;
use super::settings::settings_in;
use super::shard::write_shard;
use crate::checkpoint::fold::{Fold, ScaledBlocks};
use crate::checkpoint::safetensors::INDEX;
use crate::checkpoint::tensor_source::TensorSource;
use crate::error::Error;
use crate::family::read_json;
use crate::fold_plan::FoldPlan;

impl Fold for QuantizedCheckpoint {
    fn weight_files(&self) -> Vec<&Path> {
        let shards = self.files.shards().iter().map(|shard| &*shard.path);
        shards
            .chain(self.texts.iter().map(PathBuf::as_path))
            .collect()
    }

    fn plan_fold(&self, blocks: &ScaledBlocks) -> Result<FoldPlan, Error> {
        self.report(&self.fold(blocks)?)
    }

    fn write_folded(&self, folder: &Path, blocks: &ScaledBlocks) -> Result<FoldPlan, Error> {
        let folded = self.fold(blocks)?;
        let plan = self.report(&folded)?;
        for (index, shard) in self.files.shards().iter().enumerate() {
            write_shard(&self.files, index, &folded, &target(folder, &shard.path))?;
        }
        for text in &self.texts {
            let contents = if text.file_name().is_some_and(|name| name == INDEX) {
                self.new_index(text, &folded)?
            } else {
                self.new_settings(text, &folded)?
            };
            match contents {
                Some(contents) => write_json(&target(folder, text), &contents)?,
                None => {
                    let target = target(folder, text);
                    fs::copy(text, &target).map_err(Error::io("write", &target))?;
                }
            }
        }
        Ok(plan)
    }
}

impl QuantizedCheckpoint {
    /// The weights that change.
    fn fold<'a>(&'a self, blocks: &'a ScaledBlocks) -> Result<Vec<FoldedWeight<'a>>, Error> {
        let plain = self.settings.plain_dtype();
        let folded = blocks
            .iter()
            .map(|(name, blocks)| match self.weights.get(name) {
                Some(Weight { matrix, .. }) => {
                    FoldedWeight::new(&self.files, name, matrix, blocks, plain)
                }
                None => FoldedWeight::plain(&self.files, name, blocks),
            });
        folded.collect()
    }

    fn report(&self, folded: &[FoldedWeight]) -> Result<FoldPlan, Error> {
        let tensors = folded.iter().map(|weight| weight.report(&self.files));
        Ok(FoldPlan::new(tensors.collect::<Result<_, _>>()?))
    }

    /// The index with the tensors that come and go, or `None` where it stays.
    fn new_index(&self, path: &Path, folded: &[FoldedWeight]) -> Result<Option<Value>, Error> {
        let mut index = read_json(path)?;
        let (mut is_same, mut growth) = (true, 0);
        let Some(map) = index.get_mut("weight_map").and_then(Value::as_object_mut) else {
            return Ok(None);
        };
        for weight in folded {
            for name in &weight.removed {
                growth -= self
                    .files
                    .info(name)
                    .map_or(0, |info| info.num_bytes.cast_signed());
            }
            for name in &weight.removed {
                if !weight.added.iter().any(|tensor| tensor.name == *name) {
                    is_same &= map.remove(*name).is_none();
                }
            }
            for tensor in &weight.added {
                growth += (tensor.num_bytes() as u64).cast_signed();
                let shard = self
                    .files
                    .entry(&tensor.beside)
                    .map(|entry| &self.files.shards()[entry.shard]);
                let file = shard.and_then(|shard| shard.path.file_name()?.to_str());
                let file = json!(file.unwrap_or_default());
                is_same &= map.insert(tensor.name.clone(), file.clone()) == Some(file);
            }
        }
        if let Some(total) = index.pointer_mut("/metadata/total_size")
            && let Some(size) = total.as_i64()
            && growth != 0
        {
            *total = json!(size + growth);
            is_same = false;
        }
        Ok((!is_same).then_some(index))
    }

    /// A file of settings that names the modules which are no longer quantised, or `None` where there are none.
    fn new_settings(&self, path: &Path, folded: &[FoldedWeight]) -> Result<Option<Value>, Error> {
        let unquantized = folded.iter().filter(|weight| weight.is_unquantized());
        let modules: Vec<&str> = unquantized
            .map(|weight| weight.name.trim_end_matches(".weight"))
            .collect();
        if modules.is_empty() {
            return Ok(None);
        }
        let mut contents = read_json(path)?;
        let is_config = path.file_name().is_some_and(|name| name == "config.json");
        let Some(settings) = settings_in(&mut contents, is_config) else {
            return Ok(None);
        };
        exclude(self.settings.method, settings, &modules);
        Ok(Some(contents))
    }
}

/// The same file in another folder.
fn target(folder: &Path, file: &Path) -> PathBuf {
    folder.join(file.file_name().unwrap_or_default())
}
