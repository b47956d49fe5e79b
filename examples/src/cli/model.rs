//! The flags that choose a model, a device and a dtype.

use std::path::PathBuf;

use anyhow::{Result, bail};
use burn::prelude::*;
use burn::tensor::DType;
use clap::{Args, ValueEnum};
use pear_core::Profile;
use pear_core::files::{Provenance, SequenceRecord};
use pear_models::{Decoder, ModelDirectory};

use crate::device::DeviceName;
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

    /// Dtype of the weights [default: f32 on the CPU; elsewhere bf16, or f16 or f32 if the device has no bf16]
    #[arg(long, value_name = "TYPE")]
    pub dtype: Option<Dtype>,
}

impl ModelArgs {
    /// Opens and checks the directory or file, without loading weights. One line on standard error names the keys of `config.json` that were
    /// ignored, if there are any.
    ///
    /// # Errors
    /// What is neither a model directory nor a GGUF file, naming the file at fault; ignored keys under `--strict`.
    pub fn open(&self) -> Result<ModelDirectory> {
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
        Ok(directory)
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

    /// Loads the weights onto the device.
    ///
    /// # Errors
    /// A device that the program was built without, or that is not there.
    pub fn load(&self, directory: &ModelDirectory) -> Result<Decoder> {
        self.load_on(directory, &self.device)
    }

    /// Same as [`load`](Self::load), onto another device.
    ///
    /// # Errors
    /// As `load`.
    pub fn load_on(&self, directory: &ModelDirectory, device: &DeviceName) -> Result<Decoder> {
        let mut bar = Progress::new("loading", 1);
        let report = |done: u64, total: u64| bar.set_of(done, total, megabytes(done));
        Ok(directory.load_reporting(&device.open()?, self.dtype()?, report)?)
    }

    /// Dtype of the weights in memory: the one asked for, or else f32 on the CPU and [`half_of`] elsewhere.
    ///
    /// # Errors
    /// A device that is not there, or a dtype that it does not support.
    pub fn dtype(&self) -> Result<DType> {
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
            None if self.device.is_cpu() => Ok(DType::F32),
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
        let mut provenance = directory.provenance(self.dtype()?)?;
        provenance.sequences = Some(sequences);
        Ok(provenance)
    }

    /// Same as [`load`](Self::load), with the coefficients of a profile if there is one.
    ///
    /// # Errors
    /// As `load`.
    pub fn load_with(
        &self,
        directory: &ModelDirectory,
        profile: Option<&Profile>,
    ) -> Result<Decoder> {
        let model = self.load(directory)?;
        Ok(match profile {
            Some(profile) => model.with_profile(profile)?,
            None => model,
        })
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
