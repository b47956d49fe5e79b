//! A checkpoint some of whose weights are quantised, and which those are.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::matrix::Matrix;
use super::module::Module;
use super::settings::{Method, SETTINGS_FILES, Settings};
use super::{awq, bitsandbytes, compressed, float8, gptq};
use crate::checkpoint::safetensors::{INDEX, SafetensorsCheckpoint};
use crate::checkpoint::tensor_source::{FloatsMut, StoredDtype, TensorInfo, TensorSource};
use crate::error::Error;

/// Ends of the names of scales for quantised keys, values, queries and attention weights, which stay in the type of the model.
const CACHE_SCALES: [&str; 5] = [
    ".k_scale",
    ".v_scale",
    ".kv_scale",
    ".q_scale",
    ".prob_scale",
];

/// A checkpoint some of whose weights are quantised. They are presented as matrices `[out, in]` named `….weight`; the tensors that hold
/// them are not presented, all others are as they are.
#[derive(Debug)]
pub(crate) struct QuantizedCheckpoint {
    pub(super) files: SafetensorsCheckpoint,
    pub(super) settings: Settings,
    pub(super) weights: BTreeMap<String, Weight>,
    /// The names of all tensors that are presented.
    names: BTreeSet<String>,
    /// The files beside those of weights that say what is in them: the index and the settings.
    pub(super) texts: Vec<PathBuf>,
}

/// A quantised weight.
#[derive(Debug)]
pub(super) struct Weight {
    info: TensorInfo,
    pub matrix: Matrix,
}

impl QuantizedCheckpoint {
    /// Opens the files of a directory whose settings have been read, and checks the tensors of every quantised weight.
    ///
    /// # Errors
    /// Those of [`SafetensorsCheckpoint::open`]; [`Error::Config`] for settings of a variant that cannot be read, and for
    /// those in `config.json` where no weight is quantised; [`Error::Tensor`] for
    /// tensors that are missing, or whose shapes, types or indices do not fit.
    pub(crate) fn open(directory: &Path, settings: Settings) -> Result<Self, Error> {
        let files = SafetensorsCheckpoint::open(directory)?;
        let weights = find(&files, &settings)?;
        if weights.is_empty() && !settings.is_in_old_file() {
            return Err(settings.contradicted(directory));
        }
        let hidden: BTreeSet<&String> = weights.values().flat_map(|w| &w.matrix.parts).collect();
        let is_cache_scale = |name: &str| CACHE_SCALES.iter().any(|end| name.ends_with(end));
        let mut names: BTreeSet<String> = files
            .names()
            .filter(|name| !is_cache_scale(name))
            .map(Into::into)
            .filter(|name| !hidden.contains(name))
            .collect();
        names.extend(weights.keys().cloned());
        let texts = SETTINGS_FILES.iter().chain([&INDEX]);
        let texts = texts
            .map(|name| directory.join(name))
            .filter(|path| path.is_file());
        Ok(Self {
            files,
            settings,
            weights,
            names,
            texts: texts.collect(),
        })
    }

    /// The tensors that hold what is presented as one tensor.
    fn parts<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let weight = self.weights.get(name);
        let parts = weight.into_iter().flat_map(|weight| &weight.matrix.parts);
        let itself = weight.is_none().then_some(name);
        parts.map(String::as_str).chain(itself)
    }
}

/// Reads the matrix of a module.
type ReadMatrix<'a> = Box<dyn Fn(Module) -> Result<Matrix, Error> + 'a>;

/// The quantised weights, by name.
fn find(
    files: &SafetensorsCheckpoint,
    settings: &Settings,
) -> Result<BTreeMap<String, Weight>, Error> {
    let read: ReadMatrix = match settings.method {
        Method::Gptq => {
            let gptq = gptq::Gptq::new(settings)?;
            Box::new(move |module| gptq.matrix(module))
        }
        Method::Awq => {
            let awq = awq::Awq::new(settings)?;
            Box::new(move |module| awq.matrix(module))
        }
        Method::CompressedTensors => {
            let compressed = compressed::CompressedTensors::new(settings)?;
            Box::new(move |module| compressed.matrix(module))
        }
        Method::Fp8 => {
            let fp8 = float8::Fp8::new(settings)?;
            Box::new(move |module| fp8.matrix(module))
        }
        Method::BitsAndBytes => Box::new(bitsandbytes::matrix),
    };
    let mut weights = BTreeMap::new();
    for name in files.names() {
        let Some(module) = module_of(files, settings.method, name) else {
            continue;
        };
        let matrix = read(Module {
            files,
            name: module,
        })?;
        let parts = matrix.parts.iter().filter_map(|part| files.info(part));
        let info = TensorInfo {
            shape: matrix.shape.into(),
            dtype: StoredDtype::Quantized(matrix.format.clone()),
            num_bytes: parts.map(|part| part.num_bytes).sum(),
        };
        weights.insert(format!("{module}.weight"), Weight { info, matrix });
    }
    Ok(weights)
}

/// The module whose quantised weight a tensor of this name holds; `None` for tensors of other kinds.
fn module_of<'a>(files: &SafetensorsCheckpoint, method: Method, name: &'a str) -> Option<&'a str> {
    let is = |dtype: &str| {
        files
            .info(name)
            .is_some_and(|info| info.dtype.to_string() == dtype)
    };
    let has = |module: &str, part: &str| files.info(&format!("{module}.{part}")).is_some();
    match method {
        Method::Gptq | Method::Awq => name.strip_suffix(".qweight"),
        Method::CompressedTensors => {
            let packed = name.strip_suffix(".weight_packed");
            let weight = name.strip_suffix(".weight");
            packed.or(weight
                .filter(|module| is("I8") || is(float8::DTYPE) || has(module, "weight_scale")))
        }
        Method::Fp8 => name.strip_suffix(".weight").filter(|_| is(float8::DTYPE)),
        Method::BitsAndBytes => name.strip_suffix(".weight").filter(|module| {
            let mut states = bitsandbytes::STATES.iter();
            is("I8") || states.any(|state| has(module, state))
        }),
    }
}

impl TensorSource for QuantizedCheckpoint {
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.names.iter().map(String::as_str))
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        if !self.names.contains(name) {
            return None;
        }
        match self.weights.get(name) {
            Some(weight) => Some(&weight.info),
            None => self.files.info(name),
        }
    }

    fn read(&self, name: &str, range: Range<usize>, into: FloatsMut<'_>) -> Result<(), Error> {
        let Some(weight) = self.weights.get(name) else {
            return self.files.read(name, range, into);
        };
        weight
            .info
            .check_range(&range, into.len())
            .map_err(|problem| self.files.error(name, problem))?;
        weight.matrix.read(&self.files, range, into);
        Ok(())
    }

    fn raw(&self, name: &str) -> Vec<&[u8]> {
        self.parts(name)
            .flat_map(|part| self.files.raw(part))
            .collect()
    }

    fn release(&self, name: &str) {
        self.parts(name).for_each(|part| self.files.release(part));
    }
}
