//! The flags that choose a model, a device and a dtype.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, bail};
use burn::prelude::*;
use burn::tensor::DType;
use clap::{Args, ValueEnum};
use pear_core::files::{Provenance, SequenceRecord};
use pear_core::kernels::multiplies_bf16;
use pear_core::{DecoderModel, Profile};
use pear_models::{Decoder, ModelDirectory};

use crate::device::DeviceName;
use crate::memory::available_memory;
use crate::progress::{Progress, print_above};

/// The model, and the device and dtype that it runs in.
#[derive(Args, Clone, Debug)]
pub struct ModelArgs {
    /// Hugging Face model directory: config.json, model.safetensors or its shards, tokenizer.json if text is involved; or a GGUF file, the
    /// first one of a model that is split; with the feature `hub`, also owner/name on the Hugging Face hub
    #[arg(long, value_name = "DIR|FILE.gguf")]
    pub model: PathBuf,

    /// Refuse a config.json with keys that nothing reads, instead of warning of them
    #[arg(long)]
    pub strict: bool,

    /// Where to compute: flex (the CPU); or wgpu, vulkan, cuda, cuda:1, ws://host:port (see `serve`) if built with that feature
    #[arg(long, value_name = "NAME", default_value = "flex")]
    pub device: DeviceName,

    /// Dtype of the weights [default: on the CPU f32, or bf16 for 50 M parameters and more that are stored in it, if the processor multiplies it;
    /// elsewhere bf16, or f16 or f32 if the device has no bf16]
    #[arg(long, value_name = "TYPE")]
    pub dtype: Option<Dtype>,

    /// Where the layers are.
    #[command(flatten)]
    pub layers: LayerPlace,
}

/// Where the layers of a model are.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct LayerPlace {
    /// Read layers from the files when they are visited, two in memory at a time: for models larger than the memory. Text that is generated
    /// token by token becomes slow [default: where the weights do not fit]
    #[arg(long, conflicts_with = "resident")]
    pub stream: bool,

    /// Keep all layers in memory [default: where the weights fit]
    #[arg(long)]
    pub resident: bool,
}

impl ModelArgs {
    /// Opens and checks the directory or file, without loading weights. One line on standard error names the keys of `config.json` that were
    /// ignored, if there are any.
    ///
    /// # Errors
    /// What is neither a model directory nor a GGUF file, naming the file at fault; ignored keys under `--strict`.
    pub fn open(&self) -> Result<Arc<ModelDirectory>> {
        let directory = ModelDirectory::open(&self.directory()?)?;
        let ignored = directory.ignored_keys();
        if self.strict {
            ignored.refuse()?;
        } else if !ignored.is_empty() {
            print_above(&format!(
                "warning: {}: ignored keys, which change nothing in transformers either: {ignored}",
                ignored.path().display()
            ));
        }
        Ok(Arc::new(directory))
    }

    /// The directory of the model, downloaded if it is on the hub.
    #[cfg(feature = "hub")]
    fn directory(&self) -> Result<PathBuf> {
        let may_be_id = !self.model.exists() && !self.is_gguf();
        let id = self.model.to_str().filter(|_| may_be_id);
        match id.filter(|id| pear_models::hub::is_id(id)) {
            Some(id) => {
                let bar = std::sync::Mutex::new(Progress::new("downloading", 1));
                Ok(pear_models::hub::download(id, move |done, total| {
                    let mut bar = bar
                        .lock()
                        .unwrap_or_else(std::sync::PoisonError::into_inner);
                    bar.set_of(done, total, megabytes(done));
                })?)
            }
            None => Ok(self.model.clone()),
        }
    }

    /// The directory of the model.
    #[cfg(not(feature = "hub"))]
    fn directory(&self) -> Result<PathBuf> {
        let parts: Vec<_> = self.model.components().collect();
        let may_be_id = self.model.is_relative() && parts.len() == 2 && !self.is_gguf();
        if may_be_id && !self.model.exists() {
            bail!(
                "--model {}: no such directory (for a model on the hub of that name, build with --features hub)",
                self.model.display()
            );
        }
        Ok(self.model.clone())
    }

    /// Whether the model has the name of a GGUF file.
    fn is_gguf(&self) -> bool {
        self.model.extension().is_some_and(|end| end == "gguf")
    }

    /// Loads the weights onto the device; or, where they are to be or do not fit, those outside the layers, and says so in one line.
    ///
    /// # Errors
    /// A device that the program was built without, or that is not there.
    pub fn load(&self, directory: &Arc<ModelDirectory>) -> Result<Decoder> {
        self.load_on(directory, &self.device)
    }

    /// Same as [`load`](Self::load), onto another device.
    ///
    /// # Errors
    /// As `load`.
    pub fn load_on(&self, directory: &Arc<ModelDirectory>, device: &DeviceName) -> Result<Decoder> {
        let dtype = self.dtype(Some(directory))?;
        if self.dtype.is_none() && device.is_cpu() && dtype != DType::F32 {
            print_above(&format!(
                "dtype   {}, in which the weights are stored and this processor multiplies; f32 with --dtype f32",
                name_of(dtype)
            ));
        }
        self.load_in(directory, device, dtype)
    }

    /// Same as [`load_on`](Self::load_on), in another dtype.
    ///
    /// # Errors
    /// As `load`.
    pub fn load_in(
        &self,
        directory: &Arc<ModelDirectory>,
        name: &DeviceName,
        dtype: DType,
    ) -> Result<Decoder> {
        let device = name.open()?;
        if let Some(reason) = self.streams(directory, name, dtype) {
            let model = directory.stream(&device, dtype)?;
            print_above(&streaming(directory, &model, &reason)?);
            return Ok(model);
        }
        let mut bar = Progress::new("loading", 1);
        let report = |done: u64, total: u64| bar.set_of(done, total, megabytes(done));
        Ok(directory.load_reporting(&device, dtype, report)?)
    }

    /// Why layers are streamed, if they are.
    fn streams(
        &self,
        directory: &ModelDirectory,
        device: &DeviceName,
        dtype: DType,
    ) -> Option<String> {
        let weights = directory.config().num_parameters() * dtype.size() as u64;
        if self.layers.stream {
            return Some("--stream".into());
        }
        let available = available_memory()
            .filter(|_| !self.layers.resident && device.is_cpu())
            .filter(|&available| weights + WORKING_MEMORY > available)?;
        Some(format!(
            "{} of weights, {} of memory",
            megabytes(weights),
            megabytes(available)
        ))
    }

    /// Dtype of the weights in memory: the one asked for, or else f32 on the CPU and [`half_of`] elsewhere. Weights that are stored in bf16
    /// stay so on a CPU that multiplies it, where that makes a difference: it is faster, and nothing that is loaded is rounded. A config
    /// without weights is taken for one of f32.
    ///
    /// # Errors
    /// A device that is not there, or a dtype that it does not support.
    pub fn dtype(&self, directory: Option<&ModelDirectory>) -> Result<DType> {
        let device = self.device.open()?;
        match self.dtype {
            Some(dtype) if !device.supports_dtype(DType::from(dtype)) => {
                bail!(
                    "--dtype {}: --device {} does not compute in it",
                    name_of(dtype.into()),
                    self.device
                )
            }
            Some(dtype) => Ok(dtype.into()),
            None if self.device.is_cpu() => {
                let stored = directory.and_then(ModelDirectory::stored_dtype);
                let parameters = directory.map_or(0, |model| model.config().num_parameters());
                Ok(default_on_cpu(stored, parameters, multiplies_bf16()))
            }
            None => Ok(half_of(&device).unwrap_or(DType::F32)),
        }
    }

    /// Where results come from, for their files: fingerprints of the model, and the proxy sequences. Reads all weights.
    ///
    /// # Errors
    /// A `tokenizer.json` that cannot be read.
    pub fn provenance(
        &self,
        directory: &ModelDirectory,
        sequences: SequenceRecord,
    ) -> Result<Provenance> {
        let mut provenance = directory.provenance(self.dtype(Some(directory))?)?;
        provenance.sequences = Some(sequences);
        Ok(provenance)
    }

    /// Same as [`load`](Self::load), with the coefficients of a profile if there is one.
    ///
    /// # Errors
    /// As `load`.
    pub fn load_with(
        &self,
        directory: &Arc<ModelDirectory>,
        profile: Option<&Profile>,
    ) -> Result<Decoder> {
        let model = self.load(directory)?;
        Ok(match profile {
            Some(profile) => model.with_profile(profile)?,
            None => model,
        })
    }
}

/// Memory beside the weights that a command needs.
const WORKING_MEMORY: u64 = 1 << 30;

/// What is said of a model whose layers are streamed: why, and how long reading all of them takes, which is measured with one.
fn streaming(directory: &ModelDirectory, model: &Decoder, reason: &str) -> Result<String> {
    let num_layers = directory.config().layers.len();
    let seconds = match num_layers {
        0 => 0.0,
        _ => {
            model.layer(0)?;
            let read = model.stream_statistics().unwrap_or_default().reading;
            read.as_secs_f64() * num_layers as f64
        }
    };
    Ok(format!(
        "layers  read from the files when they are visited ({reason}): a pass over all of them takes at least {}",
        duration(seconds)
    ))
}

/// What reading the layers of a model took; empty where they are in memory.
pub fn stream_summary(model: &Decoder, seconds: f64) -> String {
    let Some(statistics) = model.stream_statistics() else {
        return String::new();
    };
    let num_layers = model.config().layers.len().max(1) as f64;
    format!(
        "layers read {} times, {}; waiting for them took {:.0} % of {}\n",
        (statistics.layers as f64 / num_layers * 10.0).round() / 10.0,
        megabytes(statistics.bytes),
        100.0 * statistics.waiting.as_secs_f64() / seconds.max(1e-9),
        duration(seconds)
    )
}

/// A time in words.
pub fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 90.0 => format!("{s:.1} s"),
        s if s < 90.0 * 60.0 => format!("{:.0} min", s / 60.0),
        s if s < 48.0 * 3600.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.0} days", s / 86400.0),
    }
}

/// Parameters of a model from which on its products take most of the time.
const LARGE: u64 = 50_000_000;

fn default_on_cpu(stored: Option<DType>, parameters: u64, multiplies_bf16: bool) -> DType {
    match stored {
        Some(DType::BF16) if multiplies_bf16 && parameters >= LARGE => DType::BF16,
        _ => DType::F32,
    }
}

/// The half-precision dtype of a device: bf16 if it supports it, else f16, if that.
pub fn half_of(device: &Device) -> Option<DType> {
    [DType::BF16, DType::F16]
        .into_iter()
        .find(|&dtype| device.supports_dtype(dtype))
}

/// The name of a dtype in `--dtype`.
pub fn name_of(dtype: DType) -> String {
    format!("{dtype:?}").to_lowercase()
}

fn megabytes(bytes: u64) -> String {
    format!("{} MB", bytes / 1_000_000)
}

/// Dtype of the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    /// 32 bits
    F32,
    /// 16 bits, with the exponent range of f32
    Bf16,
    /// 16 bits, IEEE 754
    F16,
}

impl Dtype {
    /// The name in `config.json`.
    pub fn torch_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
        }
    }
}

impl From<Dtype> for safetensors::Dtype {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::Bf16 => Self::BF16,
            Dtype::F16 => Self::F16,
        }
    }
}

impl From<Dtype> for DType {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::Bf16 => Self::BF16,
            Dtype::F16 => Self::F16,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_computes_in_bf16_what_is_large_and_stored_so_where_it_multiplies_it() {
        let default = |stored, parameters| {
            [true, false].map(|multiplies| default_on_cpu(stored, parameters, multiplies))
        };
        let in_bf16 = Some(DType::BF16);
        assert_eq!(default(in_bf16, LARGE), [DType::BF16, DType::F32]);
        assert_eq!(default(in_bf16, LARGE - 1), [DType::F32; 2]);
        for stored in [Some(DType::F32), Some(DType::F16), None] {
            assert_eq!(default(stored, LARGE), [DType::F32; 2], "{stored:?}");
        }
    }
}
