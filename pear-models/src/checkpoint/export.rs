//! The same model directory with coefficients folded into its output projections.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use half::{bf16, f16};
use pear_core::{HeadCoefficients, HeadId};
use safetensors::Dtype;

use super::ModelDirectory;
use super::weights::Entry;
use crate::error::Error;

impl ModelDirectory {
    /// Writes the directory again as `out`, with the coefficients multiplied into the input channels of the output projections.
    ///
    /// Every other tensor and every other file is copied byte for byte; dtypes, names and shards stay. The files are streamed, and
    /// `out` appears only once it is whole. Folding is computed in f32 and rounded once to the dtype of the weight.
    ///
    /// # Errors
    /// Heads that the model has not; an `out` that exists and is not an empty directory; whatever the file system says.
    pub fn export(&self, coefficients: &HeadCoefficients, out: &Path) -> Result<(), Error> {
        coefficients.check_shape(&self.shape())?;
        let is_free = !out.exists()
            || fs::read_dir(out)
                .map_err(Error::io("write", out))?
                .next()
                .is_none();
        if !is_free {
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
        let parent = match out.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        fs::create_dir_all(parent).map_err(Error::io("write", parent))?;
        let scales = self.scales(coefficients)?;
        let beside = tempfile::Builder::new()
            .prefix(".pear-export-")
            .tempdir_in(parent)
            .map_err(Error::io("write", parent))?;
        let folder = beside.path().join("model");
        self.copy_files(&self.path, &folder)?;
        for (shard, file) in self.weights.shards.iter().enumerate() {
            let name = file.path.strip_prefix(&self.path).unwrap_or(&file.path);
            let scaled: BTreeMap<_, _> = scales
                .iter()
                .filter(|(_, (entry, _))| entry.shard == shard)
                .collect();
            self.write_shard(shard, &folder.join(name), scaled.into_values())?;
        }
        if out.exists() {
            fs::remove_dir(out).map_err(Error::io("write", out))?;
        }
        fs::rename(&folder, out).map_err(Error::io("write", out))
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
        let Ok(own) = here(&self.path) else {
            return false;
        };
        path.ancestors()
            .find_map(|ancestor| here(ancestor).ok())
            .is_some_and(|nearest| nearest.starts_with(own))
    }

    /// For each output projection that changes, the factor of every input channel.
    fn scales(
        &self,
        coefficients: &HeadCoefficients,
    ) -> Result<BTreeMap<String, (Entry, Fold)>, Error> {
        let head_dim = self.config.attention.head_dim;
        let mut scales = BTreeMap::new();
        for (HeadId { layer, head }, value) in
            coefficients.heads().into_iter().zip(coefficients.values())
        {
            let path = format!("layers.{layer}.self_attn.o_proj.weight");
            let found = self
                .source(&path)
                .and_then(|s| Some((self.weights.tensors.get(&s.name)?.clone(), s)));
            let Some((entry, source)) = found else {
                return Err(Error::malformed(
                    &self.path,
                    format!("no tensor for `{path}`"),
                ));
            };
            let inputs = self.config.attention.num_attention_heads * head_dim;
            let (_, fold) = scales.entry(source.name).or_insert_with(|| {
                (
                    entry,
                    Fold {
                        factors: vec![1.0; inputs],
                        inputs_are_rows: !source.transposed,
                    },
                )
            });
            fold.factors[head * head_dim..(head + 1) * head_dim].fill(value);
        }
        Ok(scales)
    }

    /// Everything but the weights, folders within folders included.
    fn copy_files(&self, from: &Path, to: &Path) -> Result<(), Error> {
        fs::create_dir_all(to).map_err(Error::io("write", to))?;
        for item in fs::read_dir(from).map_err(Error::io("read", from))? {
            let item = item.map_err(Error::io("read", from))?;
            let (source, target) = (item.path(), to.join(item.file_name()));
            let is_weights = self.weights.shards.iter().any(|shard| shard.path == source);
            // Links to files are followed, as a download cache is made of them; links to folders are not.
            let is_folder = item
                .file_type()
                .map_err(Error::io("read", &source))?
                .is_dir();
            if is_folder {
                self.copy_files(&source, &target)?;
            } else if !is_weights && source.is_file() {
                fs::copy(&source, &target).map_err(Error::io("write", &target))?;
            }
        }
        Ok(())
    }

    fn write_shard<'a>(
        &self,
        shard: usize,
        target: &Path,
        scaled: impl Iterator<Item = &'a (Entry, Fold)>,
    ) -> Result<(), Error> {
        let bytes = self.weights.shards[shard].bytes();
        let mut scaled: Vec<_> = scaled.collect();
        scaled.sort_by_key(|(entry, _)| entry.range.start);
        let mut file = File::create(target).map_err(Error::io("write", target))?;
        let mut write = |bytes: &[u8]| file.write_all(bytes).map_err(Error::io("write", target));
        let mut written = 0;
        for (entry, fold) in scaled {
            write(&bytes[written..entry.range.start])?;
            write(&fold.apply(&bytes[entry.range.clone()], entry))?;
            written = entry.range.end;
        }
        write(&bytes[written..])?;
        file.sync_all().map_err(Error::io("write", target))
    }
}

/// How an output projection changes.
struct Fold {
    /// One for each input channel.
    factors: Vec<f32>,
    /// Whether the matrix stands `[in, out]`.
    inputs_are_rows: bool,
}

impl Fold {
    fn apply(&self, bytes: &[u8], entry: &Entry) -> Vec<u8> {
        let width = entry.shape.get(1).copied().unwrap_or(1);
        let factor = |index: usize| {
            self.factors[if self.inputs_are_rows {
                index / width
            } else {
                index % width
            }]
        };
        match entry.dtype {
            Dtype::BF16 => scale(
                bytes,
                factor,
                |b| bf16::from_le_bytes(b).to_f32(),
                |x| bf16::from_f32(x).to_le_bytes(),
            ),
            Dtype::F16 => scale(
                bytes,
                factor,
                |b| f16::from_le_bytes(b).to_f32(),
                |x| f16::from_f32(x).to_le_bytes(),
            ),
            _ => scale(bytes, factor, f32::from_le_bytes, f32::to_le_bytes),
        }
    }
}

fn scale<const BYTES: usize>(
    bytes: &[u8],
    factor: impl Fn(usize) -> f32,
    from: impl Fn([u8; BYTES]) -> f32,
    to: impl Fn(f32) -> [u8; BYTES],
) -> Vec<u8> {
    let (numbers, _) = bytes.as_chunks::<BYTES>();
    let scaled = |(index, &number): (usize, &[u8; BYTES])| match factor(index) {
        // Untouched heads keep their very bytes.
        1.0 => number,
        factor => to(from(number) * factor),
    };
    numbers.iter().enumerate().flat_map(scaled).collect()
}
