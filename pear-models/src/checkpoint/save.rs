//! A decoder in memory as a model directory.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::prelude::*;
use burn::tensor::DType;
use pear_core::files::write_json;
use safetensors::Dtype;
use safetensors::tensor::{TensorView, serialize_to_file};
use serde_json::Value;

use super::source_of;
use crate::config::DecoderConfig;
use crate::decoder::Decoder;
use crate::error::Error;
use crate::family::{Family, config_of};
use crate::source::Source;

impl DecoderConfig {
    /// What the contents of a `config.json` say.
    ///
    /// ```
    /// use pear_models::DecoderConfig;
    ///
    /// let config = DecoderConfig::from_json(&serde_json::json!({
    ///     "model_type": "mpt", "vocab_size": 100, "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64,
    /// }))?;
    /// assert_eq!(config.intermediate_size, 128);
    /// # Ok::<(), pear_models::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Config`] for a key that is missing, unknown, or holds something impossible.
    pub fn from_json(config: &Value) -> Result<Self, Error> {
        Ok(config_of(Path::new("config.json"), config.clone())?.1)
    }
}

impl Decoder {
    /// Writes `config.json` and `model.safetensors`, the weights rounded to `dtype` (f32, f16 or bf16) and named as transformers names
    /// them, into a directory, which is made if need be. Holds the weights a second time, in that type.
    ///
    /// `config` is what `config.json` will hold: the very model that [`DecoderConfig::from_json`] makes of it.
    ///
    /// # Errors
    /// [`Error::Input`] for a config of another model, another dtype, or coefficients that are not [folded](Self::fold);
    /// [`Error::Io`].
    pub fn save(&self, config: &Value, dtype: DType, directory: &Path) -> Result<(), Error> {
        let (family, read) = config_of(&directory.join("config.json"), config.clone())?;
        if read != *self.config() {
            return Err(Error::Input(
                "a config.json of another model than the one that is to be saved".into(),
            ));
        }
        let file_dtype = match dtype {
            DType::F32 => Dtype::F32,
            DType::F16 => Dtype::F16,
            DType::BF16 => Dtype::BF16,
            other => {
                return Err(Error::Input(format!(
                    "a checkpoint in {other:?}: expected f32, f16 or bf16"
                )));
            }
        };
        let known = read
            .parameters()
            .into_iter()
            .map(|(path, _)| path)
            .collect();
        let mut gathered = Gathered {
            family,
            config: &read,
            known,
            dtype,
            tensors: BTreeMap::new(),
            path: Vec::new(),
            homeless: None,
        };
        self.visit(&mut gathered);
        if let Some(path) = gathered.homeless {
            return Err(Error::Input(format!(
                "the parameter `{path}` has no place in a checkpoint: fold coefficients first"
            )));
        }
        fs::create_dir_all(directory).map_err(Error::io("make", directory))?;
        let views: Vec<(&String, TensorView)> = gathered
            .tensors
            .iter()
            .map(|(name, (shape, bytes))| {
                Ok((name, TensorView::new(file_dtype, shape.clone(), bytes)?))
            })
            .collect::<Result<_, safetensors::SafeTensorError>>()
            .map_err(|e| Error::malformed(directory, e))?;
        let config_path = directory.join("config.json");
        write_json(&config_path, config)?;
        // Beside, then renamed: what is there is whole at any moment.
        let (beside, path) = (
            directory.join(".pear-model.safetensors"),
            directory.join("model.safetensors"),
        );
        serialize_to_file(
            views,
            Some(HashMap::from([("format".into(), "pt".into())])),
            &beside,
        )
        .map_err(|e| Error::malformed(&beside, e))?;
        // It comes readable to its owner alone.
        let permissions = fs::metadata(&config_path)
            .map_err(Error::io("read", &config_path))?
            .permissions();
        fs::set_permissions(&beside, permissions).map_err(Error::io("write", &beside))?;
        fs::rename(&beside, &path).map_err(Error::io("write", &path))
    }
}

/// Every tensor of a checkpoint, put together from the parameters that it holds.
struct Gathered<'a> {
    family: &'static Family,
    config: &'a DecoderConfig,
    /// Paths of the parameters that a checkpoint has.
    known: BTreeSet<String>,
    dtype: DType,
    /// Shape and bytes, by name.
    tensors: BTreeMap<String, (Vec<usize>, Vec<u8>)>,
    path: Vec<String>,
    /// A parameter that no tensor holds.
    homeless: Option<String>,
}

impl ModuleVisitor for Gathered<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let path = self.path.join(".");
        let source = source_of(self.family, self.config, self.family.prefixes[0], &path);
        let Some(source) = source.filter(|_| self.known.contains(&path)) else {
            self.homeless = Some(path);
            return;
        };
        let shape = param.lazy_shape().to_vec();
        let data = param.val().cast(self.dtype).into_data();
        let file_shape = source.file_shape(&shape);
        let size = data.as_bytes().len() / shape.iter().product::<usize>().max(1);
        let bytes = file_shape.iter().product::<usize>() * size;
        let (_, tensor) = self
            .tensors
            .entry(source.name.clone())
            .or_insert_with(|| (file_shape, vec![0; bytes]));
        match size {
            2 => place::<2>(&source, &shape, data.as_bytes(), tensor),
            _ => place::<4>(&source, &shape, data.as_bytes(), tensor),
        }
    }
}

/// Puts the numbers of a parameter, `BYTES` each, where they stand in its tensor.
fn place<const BYTES: usize>(source: &Source, shape: &[usize], values: &[u8], tensor: &mut [u8]) {
    let (values, _) = values.as_chunks::<BYTES>();
    let (tensor, _) = tensor.as_chunks_mut::<BYTES>();
    let channels = |wanted: usize| source.channels(wanted).ranges.into_iter().flatten();
    match *shape {
        [input, output] if source.transposed => {
            for (column, channel) in channels(output).enumerate() {
                (0..input)
                    .for_each(|row| tensor[channel * input + row] = values[row * output + column]);
            }
        }
        [rows, width] if source.rows_are_channels(2) => {
            for (row, channel) in channels(rows).enumerate() {
                tensor[channel * width..][..width].copy_from_slice(&values[row * width..][..width]);
            }
        }
        [input, output] => {
            let total = source.channels(output).total;
            for (column, channel) in channels(output).enumerate() {
                (0..input)
                    .for_each(|row| tensor[row * total + channel] = values[row * output + column]);
            }
        }
        _ => channels(values.len())
            .zip(values)
            .for_each(|(channel, value)| tensor[channel] = *value),
    }
}
