//! From tensors in files to a [`Decoder`].

use std::collections::BTreeSet;

use burn::module::{Module, ModuleMapper, Param};
use burn::prelude::*;
use burn::tensor::{DType, Element};
use half::{bf16, f16};
use safetensors::Dtype;

use super::ModelDirectory;
use super::weights::Entry;
use crate::decoder::Decoder;
use crate::error::Error;
use crate::source::Source;

impl ModelDirectory {
    /// Loads the model onto a device, its weights converted to `dtype` (f32, f16 or bf16) one tensor at a time.
    ///
    /// # Errors
    /// [`Error::Input`] for another dtype.
    pub fn load(&self, device: &Device, dtype: DType) -> Result<Decoder, Error> {
        self.load_reporting(device, dtype, |_, _| {})
    }

    /// As [`load`](Self::load); `progress` is told after each tensor how many bytes of the files are read, and how many there are in all.
    ///
    /// In memory are the model, as far as it is loaded, and one tensor more.
    ///
    /// # Errors
    /// As `load`.
    pub fn load_reporting(
        &self,
        device: &Device,
        dtype: DType,
        progress: impl FnMut(u64, u64),
    ) -> Result<Decoder, Error> {
        if !matches!(dtype, DType::F32 | DType::F16 | DType::BF16) {
            return Err(Error::Input(format!(
                "a model in {dtype:?}: expected f32, f16 or bf16"
            )));
        }
        let decoder = self.config.init(device)?;
        let total = self
            .weights
            .tensors
            .values()
            .map(|entry| entry.range.len() as u64)
            .sum();
        let read = BTreeSet::new();
        Ok(decoder.map(&mut Loader {
            directory: self,
            device,
            dtype,
            path: Vec::new(),
            progress,
            read,
            done: 0,
            total,
        }))
    }

    /// # Errors
    /// [`Error::Tensors`] with everything that does not fit.
    pub(super) fn check_tensors(&self) -> Result<(), Error> {
        let tensors = &self.weights.tensors;
        let fail = |problems| {
            Err(Error::Tensors {
                path: self.path.clone(),
                problems,
            })
        };
        if self.config.num_hidden_layers > tensors.len() {
            return fail(vec![format!(
                "{} layers, but only {} tensors",
                self.config.num_hidden_layers,
                tensors.len()
            )]);
        }
        let (mut problems, mut used) = (Vec::new(), BTreeSet::new());
        for (path, shape) in self.config.parameters() {
            let Some(source) = self.source(&path) else {
                problems.push(format!("parameter `{path}` has no tensor in this family"));
                continue;
            };
            let expected = source.file_shape(&shape);
            match tensors.get(&source.name) {
                None => problems.push(format!("`{}` is missing", source.name)),
                Some(entry) if entry.shape != expected => {
                    problems.push(format!(
                        "`{}` is {:?}, expected {expected:?}",
                        source.name, entry.shape
                    ));
                }
                Some(entry) if !matches!(entry.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) => {
                    problems.push(format!(
                        "`{}` is {:?}, expected F32, F16 or BF16",
                        source.name, entry.dtype
                    ));
                }
                Some(_) => {}
            }
            used.insert(source.name);
        }
        for name in tensors.keys() {
            let buffer = self.family.buffers.iter().any(|end| name.ends_with(end));
            let tied = self.config.tie_word_embeddings && name == self.family.lm_head;
            if !used.contains(name) && !buffer && !tied {
                problems.push(format!(
                    "`{name}` has no place in a {} model of this config",
                    self.config.architecture
                ));
            }
        }
        problems.dedup();
        if problems.is_empty() {
            Ok(())
        } else {
            fail(problems)
        }
    }
}

/// Puts the numbers of a checkpoint into a decoder's parameters.
struct Loader<'a, F> {
    directory: &'a ModelDirectory,
    device: &'a Device,
    dtype: DType,
    path: Vec<String>,
    progress: F,
    /// Tensors that were read, some of which hold several parameters; their bytes, and those of all.
    read: BTreeSet<String>,
    done: u64,
    total: u64,
}

impl<F: FnMut(u64, u64)> ModuleMapper for Loader<'_, F> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let path = self.path.join(".");
        let weights = &self.directory.weights;
        let found = self
            .directory
            .source(&path)
            .and_then(|source| Some((weights.tensors.get(&source.name)?, source)));
        // Everything was found when the directory was opened.
        let Some((entry, source)) = found else {
            return param;
        };
        let shape = param.lazy_shape().to_vec();
        let normalize = path == "lm_head" && self.directory.config.normalized_lm_head;
        let read = Read {
            bytes: weights.bytes(entry),
            entry,
            source: &source,
            shape: &shape,
            normalize,
        };
        let data = match self.dtype {
            DType::BF16 => read.data(bf16::from_f32),
            DType::F16 => read.data(f16::from_f32),
            _ => read.data(|x| x),
        };
        weights.release(entry);
        if self.read.insert(source.name.clone()) {
            self.done += entry.range.len() as u64;
            (self.progress)(self.done, self.total);
        }
        Param::initialized(param.id, Tensor::from_data(data, (self.device, self.dtype)))
    }
}

/// One parameter's numbers on their way from a file.
struct Read<'a> {
    bytes: &'a [u8],
    entry: &'a Entry,
    source: &'a Source,
    shape: &'a [usize],
    /// Scale each row to length 1.
    normalize: bool,
}

impl Read<'_> {
    fn data<T: Element>(&self, to: impl Fn(f32) -> T + Copy) -> TensorData {
        let values = match self.entry.dtype {
            Dtype::BF16 => self.gather::<2, T>(|b| bf16::from_le_bytes(b).to_f32(), to),
            Dtype::F16 => self.gather::<2, T>(|b| f16::from_le_bytes(b).to_f32(), to),
            _ => self.gather::<4, T>(f32::from_le_bytes, to),
        };
        TensorData::new(values, self.shape.to_vec())
    }

    fn gather<const BYTES: usize, T: Element>(
        &self,
        from: impl Fn([u8; BYTES]) -> f32 + Copy,
        to: impl Fn(f32) -> T + Copy,
    ) -> Vec<T> {
        let (numbers, _) = self.bytes.as_chunks::<BYTES>();
        let width = self.entry.shape.get(1).copied().unwrap_or(1);
        let rank = self.entry.shape.len();
        let convert = |b: &[u8; BYTES]| to(from(*b));
        // Grown step by step, it would take twice the tensor's memory for a while.
        let mut values = Vec::with_capacity(self.shape.iter().product());
        if !self.source.rows_are_channels(rank) && rank == 2 {
            let channels = self.source.channels(self.shape[1]);
            for row in numbers.chunks_exact(width) {
                if self.normalize {
                    values.extend(unit_length(row, from).map(to));
                } else {
                    channels
                        .ranges
                        .iter()
                        .for_each(|range| values.extend(row[range.clone()].iter().map(convert)));
                }
            }
            return values;
        }
        let transpose = self.source.transposed && rank == 2;
        let channels = self.source.channels(if transpose {
            self.shape[1]
        } else {
            self.shape[0]
        });
        if !transpose {
            for range in &channels.ranges {
                values.extend(
                    numbers[range.start * width..range.end * width]
                        .iter()
                        .map(convert),
                );
            }
            return values;
        }
        let rows: Vec<usize> = channels.ranges.iter().cloned().flatten().collect();
        // Squares that fit the cache: neither the reading nor the writing strides through the whole matrix.
        const SQUARE: usize = 32;
        values.resize(rows.len() * width, to(0.0));
        for (block, band) in rows.chunks(SQUARE).enumerate() {
            for start in (0..width).step_by(SQUARE) {
                for input in start..width.min(start + SQUARE) {
                    let target = &mut values[input * rows.len() + block * SQUARE..][..band.len()];
                    for (value, &index) in target.iter_mut().zip(band) {
                        *value = convert(&numbers[index * width + input]);
                    }
                }
            }
        }
        values
    }
}

/// A row divided by its Euclidean length.
fn unit_length<const BYTES: usize>(
    row: &[[u8; BYTES]],
    from: impl Fn([u8; BYTES]) -> f32 + Copy,
) -> impl Iterator<Item = f32> {
    let length = row
        .iter()
        .map(|&b| from(b).powi(2))
        .sum::<f32>()
        .sqrt()
        .max(1e-12);
    row.iter().map(move |&b| from(b) / length)
}
