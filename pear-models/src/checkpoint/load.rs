//! From tensors in files to a [`Decoder`].

use std::collections::BTreeSet;
use std::sync::Arc;

use burn::module::{Module, ModuleMapper, Param};
use burn::prelude::*;
use burn::tensor::DType;

use super::ModelDirectory;
use super::parameter::Parameter;
use super::tensor_source::TensorSource;
use crate::decoder::{Decoder, layer_positions};
use crate::error::Error;
use crate::layer::Layer;
use crate::layer_stream::LayerStream;
use crate::param::{ModuleId, ParamId};

impl ModelDirectory {
    /// The tensors of the checkpoint.
    pub fn tensors(&self) -> &dyn TensorSource {
        self.tensors.as_ref()
    }

    /// Loads the model onto a device, its weights converted to `dtype` (f32, f16 or bf16) one tensor at a time.
    ///
    /// Weights that are of this type in the files are copied bit for bit, others rounded once. In memory are the model, as far as it is
    /// loaded, and one tensor more.
    ///
    /// # Errors
    /// [`Error::Input`] for another dtype; [`Error::Tensor`] or [`Error::Io`] for weights that cannot be read.
    pub fn load(&self, device: &Device, dtype: DType) -> Result<Decoder, Error> {
        self.load_reporting(device, dtype, |_, _| {})
    }

    /// Same as [`load`](Self::load); `progress` is told after each tensor how many bytes of the files have been read, and how many
    /// there are in all.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_reporting(
        &self,
        device: &Device,
        dtype: DType,
        progress: impl FnMut(u64, u64),
    ) -> Result<Decoder, Error> {
        check_dtype(dtype)?;
        let total = self.used_bytes(|_| true);
        let loader = Loader::new(self, device, dtype, progress, total);
        Ok(loader.fill(self.config.init(device)?)?.0)
    }

    /// A decoder whose layers are read from the files each time they are visited: in memory are what is outside the layers, the layer at
    /// hand, and the next one, which a thread reads meanwhile.
    ///
    /// It gives the numbers of [`load`](Self::load). Its speed is that of the files or of the computing, whichever is slower: work that takes
    /// many rows through a layer at once hardly notices, while generating token by token reads all weights for each of them. Weights that
    /// are not finite are found when they are read.
    ///
    /// ```no_run
    /// use std::sync::Arc;
    ///
    /// use burn::prelude::*;
    /// use burn::tensor::DType;
    /// use pear_core::ProxyTask;
    /// use pear_locate::{LocateOptions, locate, proxy_batches};
    /// use pear_models::ModelDirectory;
    ///
    /// let directory = Arc::new(ModelDirectory::open("Llama-3.1-70B")?);
    /// let model = directory.stream(&Device::default(), DType::BF16)?;
    /// let task = ProxyTask::new(model.config().vocab_size, &directory.special_tokens()?, 0)?;
    /// let scores = locate(&model, &proxy_batches(&task, &[(10, 20)])?, &LocateOptions::default())?.scores;
    /// println!("{:?}: {:?}", scores.top(10), model.stream_statistics());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`load`](Self::load), for what is outside the layers.
    pub fn stream(self: &Arc<Self>, device: &Device, dtype: DType) -> Result<Decoder, Error> {
        check_dtype(dtype)?;
        let outside = Decoder::without_layers(&self.config, device)?;
        let total = self.used_bytes(|id| id.layer.is_none());
        let (decoder, _) = Loader::new(self, device, dtype, |_, _| {}, total).fill(outside)?;
        let positions = layer_positions(&self.config.layers, device)?;
        let (directory, device) = (Arc::clone(self), device.clone());
        let read = move |index: usize| {
            let config = &directory.config.layers[index];
            let layer = Layer::new(config, positions[index].clone(), &device)?;
            let mut loader = Loader::new(&directory, &device, dtype, |_, _| {}, 0);
            loader.path = vec!["layers".into(), index.to_string()];
            loader.fill(layer)
        };
        Ok(decoder.streamed(LayerStream::new(self.config.layers.len(), read)))
    }

    /// Bytes of the tensors that hold these parameters.
    fn used_bytes(&self, wanted: impl Fn(ParamId) -> bool) -> u64 {
        let names = self.tensors_of(wanted);
        names.iter().map(|name| self.num_bytes(name)).sum()
    }

    /// Reads the numbers of one parameter of this shape.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub(super) fn read_parameter(
        &self,
        id: ParamId,
        shape: &[usize],
        dtype: DType,
    ) -> Result<TensorData, Error> {
        let part = self
            .part(id)
            .ok_or_else(|| Error::malformed(self.path(), format!("holds no parameter `{id}`")))?;
        let parameter = Parameter {
            path: self.path(),
            tensors: self.tensors(),
            part: &part,
            shape,
            normalize: self.config.normalized_lm_head
                && id == ParamId::model_weight(ModuleId::LmHead),
        };
        let data = parameter.read(dtype)?;
        self.tensors.release(&part.name);
        Ok(data)
    }

    /// The names of the tensors that the model uses, in ascending order.
    pub(super) fn used_tensors(&self) -> BTreeSet<String> {
        self.tensors_of(|_| true)
    }

    /// The names of the tensors that hold these parameters.
    fn tensors_of(&self, wanted: impl Fn(ParamId) -> bool) -> BTreeSet<String> {
        self.config
            .parameters()
            .filter(|&(id, _)| wanted(id))
            .filter_map(|(id, _)| Some(self.part(id)?.name))
            .collect()
    }

    fn num_bytes(&self, tensor: &str) -> u64 {
        self.tensors.info(tensor).map_or(0, |info| info.num_bytes)
    }

    /// # Errors
    /// [`Error::Tensors`] with everything that does not fit.
    pub(super) fn check_tensors(&self) -> Result<(), Error> {
        let fail = |problems| {
            Err(Error::Tensors {
                path: self.path().into(),
                problems,
            })
        };
        // Every layer has tensors of its own: a larger number is refused before its parameters are listed.
        let num_layers = self.config.layers.len();
        let num_tensors = self.tensors.names().count();
        if num_layers > num_tensors {
            return fail(vec![format!(
                "{num_layers} layers, but only {num_tensors} tensors"
            )]);
        }
        let mut problems = Vec::new();
        let mut used = BTreeSet::new();
        for (id, shape) in self.config.parameters() {
            // Routers, whose shapes say how many experts there are, come before experts: a larger number is refused before they are listed.
            if id.expert.is_some() && !problems.is_empty() {
                return fail(problems);
            }
            let Some(part) = self.part(id) else {
                problems.push(format!("parameter `{id}` has no tensor in this family"));
                continue;
            };
            // A tensor that holds several parameters is checked with the first of them.
            if used.contains(&part.name) {
                continue;
            }
            let expected = part.file_shape(&shape);
            if let Some(problem) = self.tensor_problem(&part.name, &expected) {
                problems.push(format!("`{}` {problem}", part.name));
            }
            used.insert(part.name);
        }
        for name in self.tensors.names() {
            if !used.contains(name) && !self.names().is_superfluous(&self.config, name) {
                problems.push(format!(
                    "`{name}` has no place in a {} model of this config",
                    self.config.architecture
                ));
            }
        }
        if problems.is_empty() {
            Ok(())
        } else {
            fail(problems)
        }
    }

    /// What keeps a tensor from being read as one of this shape.
    fn tensor_problem(&self, name: &str, expected: &[usize]) -> Option<String> {
        let Some(info) = self.tensors.info(name) else {
            return Some("is missing".into());
        };
        if info.shape != expected && info.shape != without_leading_ones(expected) {
            return Some(format!("is {:?}, expected {expected:?}", info.shape));
        }
        if !info.dtype.is_readable() {
            return Some(format!("is {}, expected F32, F16 or BF16", info.dtype));
        }
        None
    }
}

/// # Errors
/// [`Error::Input`] for a dtype that models do not compute in.
fn check_dtype(dtype: DType) -> Result<(), Error> {
    if matches!(dtype, DType::F32 | DType::F16 | DType::BF16) {
        return Ok(());
    }
    Err(Error::Input(format!(
        "a model in {dtype:?}: expected f32, f16 or bf16"
    )))
}

/// A shape as files may also have it whose format leaves sizes of 1 in front out, as that of GGUF does.
fn without_leading_ones(shape: &[usize]) -> &[usize] {
    let num_ones = shape.iter().take_while(|&&size| size == 1).count();
    &shape[num_ones..]
}

/// Puts the numbers of a checkpoint into the parameters of a decoder, or of the module at a path in it.
struct Loader<'a, F> {
    directory: &'a ModelDirectory,
    device: &'a Device,
    dtype: DType,
    path: Vec<String>,
    progress: F,
    /// Tensors that were read, some of which hold several parameters.
    read: BTreeSet<String>,
    bytes_read: u64,
    bytes_total: u64,
    /// The first error: no parameter is read after it.
    error: Option<Error>,
}

impl<'a, F: FnMut(u64, u64)> Loader<'a, F> {
    fn new(
        directory: &'a ModelDirectory,
        device: &'a Device,
        dtype: DType,
        progress: F,
        bytes_total: u64,
    ) -> Self {
        Self {
            directory,
            device,
            dtype,
            path: Vec::new(),
            progress,
            read: BTreeSet::new(),
            bytes_read: 0,
            bytes_total,
            error: None,
        }
    }

    /// The module with the numbers of the checkpoint, and the bytes of the tensors that hold them.
    fn fill<M: Module>(mut self, module: M) -> Result<(M, u64), Error> {
        let module = module.map(&mut self);
        match self.error {
            None => Ok((module, self.bytes_read)),
            Some(error) => Err(error),
        }
    }

    /// The parameter at the current path, on the device.
    fn load<const D: usize>(&mut self, shape: &[usize]) -> Result<Tensor<D>, Error> {
        let path = self.path.join(".");
        let id = ParamId::from_path(&path).ok_or_else(|| {
            Error::malformed(
                self.directory.path(),
                format!("holds no parameter `{path}`"),
            )
        })?;
        let data = self.directory.read_parameter(id, shape, self.dtype)?;
        let tensor = Tensor::from_data(data, (self.device, self.dtype));
        self.report(id);
        Ok(tensor)
    }

    /// Counts the tensor of a parameter as read, unless another parameter was in it.
    fn report(&mut self, id: ParamId) {
        let Some(part) = self.directory.part(id) else {
            return;
        };
        let num_bytes = self.directory.num_bytes(&part.name);
        if self.read.insert(part.name) {
            self.bytes_read += num_bytes;
            (self.progress)(self.bytes_read, self.bytes_total);
        }
    }
}

impl<F: FnMut(u64, u64)> ModuleMapper for Loader<'_, F> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.error.is_some() {
            return param;
        }
        let shape = param.lazy_shape().to_vec();
        match self.load(&shape) {
            Ok(tensor) => Param::initialized(param.id, tensor),
            Err(error) => {
                self.error = Some(error);
                param
            }
        }
    }
}
