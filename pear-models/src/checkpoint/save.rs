//! Saving a decoder as a model directory.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::prelude::*;
use burn::tensor::DType;
use pear_core::DecoderModel;
use pear_core::files::write_json;
use safetensors::Dtype;
use safetensors::tensor::{TensorView, serialize_to_file};
use serde_json::Value;

use crate::config::DecoderConfig;
use crate::decoder::Decoder;
use crate::error::Error;
use crate::family::{ModelConfig, TensorNames, config_of};
use crate::param::ParamId;
use crate::tensor_part::{MatrixLayout, TensorPart};

impl Decoder {
    /// Writes `config.json` and `model.safetensors` into a directory, which is created if it does not exist. The weights are rounded to
    /// `dtype` (f32, f16 or bf16) and named as in transformers. While they are written they are in memory a second time, in that type.
    ///
    /// `config` is what `config.json` will hold: [`DecoderConfig::from_json`] must make this model's config of it.
    ///
    /// # Errors
    /// [`Error::Input`] for a config of another model, another dtype, coefficients that are not [folded](Self::fold), or a decoder whose
    /// layers are not in memory; [`Error::Io`].
    pub fn save(
        &self,
        config: &Value,
        dtype: DType,
        directory: impl AsRef<Path>,
    ) -> Result<(), Error> {
        if self.layers_on_demand() {
            return Err(Error::Input(
                "layers that are streamed cannot be saved: export folds coefficients into the files".into(),
            ));
        }
        let directory = directory.as_ref();
        let config_path = directory.join("config.json");
        let ModelConfig {
            family,
            config: read,
            ..
        } = config_of(&config_path, config.clone())?;
        // Which other tokens are special, the tokenizer says.
        let wanted = DecoderConfig {
            special_tokens: read.special_tokens.clone(),
            ..self.config().clone()
        };
        if read != wanted {
            return Err(Error::Input(
                "a config.json of another model than the one that is to be saved".into(),
            ));
        }
        let file_dtype = stored_dtype(dtype)?;
        let mut gathered = Gathered {
            names: (family.names)(&read),
            config: &read,
            dtype,
            tensors: BTreeMap::new(),
            path: Vec::new(),
            unmapped: None,
        };
        self.visit(&mut gathered);
        if let Some(path) = gathered.unmapped {
            return Err(Error::Input(format!(
                "the parameter `{path}` has no tensor in a checkpoint: fold coefficients first"
            )));
        }
        fs::create_dir_all(directory).map_err(Error::io("create", directory))?;
        write_json(&config_path, config)?;
        write_tensors(&gathered.tensors, file_dtype, directory)
    }
}

/// A type of weights as safetensors calls it.
fn stored_dtype(dtype: DType) -> Result<Dtype, Error> {
    match dtype {
        DType::F32 => Ok(Dtype::F32),
        DType::F16 => Ok(Dtype::F16),
        DType::BF16 => Ok(Dtype::BF16),
        other => Err(Error::Input(format!(
            "a checkpoint in {other:?}: expected f32, f16 or bf16"
        ))),
    }
}

/// Shapes and bytes of tensors, by name.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<u8>)>;

/// Writes `model.safetensors`, with the permissions of the `config.json` beside it.
fn write_tensors(tensors: &Tensors, dtype: Dtype, directory: &Path) -> Result<(), Error> {
    let views: Vec<(&String, TensorView)> = tensors
        .iter()
        .map(|(name, (shape, bytes))| Ok((name, TensorView::new(dtype, shape.clone(), bytes)?)))
        .collect::<Result<_, safetensors::SafeTensorError>>()
        .map_err(|e| Error::malformed(directory, e))?;
    let path = directory.join("model.safetensors");
    // Written under another name and renamed, so that the file is never there in part.
    let unfinished = directory.join(".model.safetensors.unfinished");
    let metadata = HashMap::from([("format".into(), "pt".into())]);
    serialize_to_file(views, Some(metadata), &unfinished)
        .map_err(|e| Error::malformed(&unfinished, e))?;
    // It is created readable by its owner only.
    let config_path = directory.join("config.json");
    let permissions = fs::metadata(&config_path)
        .map_err(Error::io("read", &config_path))?
        .permissions();
    fs::set_permissions(&unfinished, permissions).map_err(Error::io("write", &unfinished))?;
    fs::rename(&unfinished, &path).map_err(Error::io("write", &path))
}

/// The tensors of a checkpoint, put together from the parameters that they hold.
struct Gathered<'a> {
    names: &'static TensorNames,
    config: &'a DecoderConfig,
    dtype: DType,
    tensors: Tensors,
    path: Vec<String>,
    /// The path of a parameter that no tensor holds.
    unmapped: Option<String>,
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
        let prefix = self.names.prefixes[0];
        let part =
            ParamId::from_path(&path).and_then(|id| self.names.part(self.config, prefix, id));
        let Some(part) = part else {
            self.unmapped = Some(path);
            return;
        };
        let shape = param.lazy_shape().to_vec();
        let data = param.val().cast(self.dtype).into_data();
        let file_shape = part.file_shape(&shape);
        let size = self.dtype.size();
        let bytes = file_shape.iter().product::<usize>() * size;
        let (_, tensor) = self
            .tensors
            .entry(part.name.clone())
            .or_insert_with(|| (file_shape, vec![0; bytes]));
        let tensor = &mut tensor[part.numbers_before(&shape) * size..];
        match size {
            2 => place::<2>(&part, &shape, data.as_bytes(), tensor),
            _ => place::<4>(&part, &shape, data.as_bytes(), tensor),
        }
    }
}

/// Puts the numbers of a parameter, `BYTES` each, where they belong in its tensor, which begins with the matrix that the parameter is in.
fn place<const BYTES: usize>(part: &TensorPart, shape: &[usize], values: &[u8], tensor: &mut [u8]) {
    let (values, _) = values.as_chunks::<BYTES>();
    let (tensor, _) = tensor.as_chunks_mut::<BYTES>();
    let channels = part.indices().enumerate();
    match (shape, part.layout) {
        (&[input, output], MatrixLayout::OutIn) => {
            for (column, channel) in channels {
                for row in 0..input {
                    tensor[channel * input + row] = values[row * output + column];
                }
            }
        }
        (&[input, output], MatrixLayout::InOut) => {
            for (column, channel) in channels {
                for row in 0..input {
                    tensor[row * part.total + channel] = values[row * output + column];
                }
            }
        }
        (&[_, width], MatrixLayout::Table) => {
            for (row, channel) in channels {
                tensor[channel * width..][..width].copy_from_slice(&values[row * width..][..width]);
            }
        }
        _ => channels.for_each(|(index, channel)| tensor[channel] = values[index]),
    }
}
