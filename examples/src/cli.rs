//! Arguments that commands share, and what happens around a command: its errors, warnings and exit status.

use std::io::{ErrorKind, Write};
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use burn::prelude::*;
use burn::tensor::DType;
use clap::{Args, Parser, ValueEnum};
use pear_core::files::{Provenance, SequenceRecord};
use pear_core::{HeadId, Profile};
use pear_locate::Scores;
use pear_models::{Decoder, ModelDirectory};

use crate::device::DeviceName;
use crate::progress::{Progress, print_above};

/// Wrong arguments or unusable input.
const UNUSABLE: u8 = 2;

/// The model and where it runs.
#[derive(Args, Clone, Debug)]
pub struct ModelArgs {
    /// Hugging Face model directory: config.json, model.safetensors or its shards, tokenizer.json where text is needed. Built with the
    /// feature `hub`, also owner/name on the hub
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,

    /// Where to compute: flex (the CPU), or wgpu, vulkan, cuda, cuda:1, ws://host:port (see `serve`) where built with the feature of that name
    #[arg(long, value_name = "NAME", default_value = "flex")]
    pub device: DeviceName,

    /// Type of the weights [default: f32 on the CPU, elsewhere bf16, or f16 or f32 where the device has no bf16]
    #[arg(long, value_name = "TYPE")]
    pub dtype: Option<Dtype>,
}

impl ModelArgs {
    /// Opens and checks the directory; no weights are loaded.
    ///
    /// # Errors
    /// A directory that is no model, naming the file at fault.
    pub fn open(&self) -> Result<ModelDirectory> {
        Ok(ModelDirectory::open(&self.directory()?)?)
    }

    /// The directory of the model; one on the hub is downloaded.
    #[cfg(feature = "hub")]
    fn directory(&self) -> Result<PathBuf> {
        match self
            .model
            .to_str()
            .filter(|id| !self.model.exists() && pear_models::hub::is_id(id))
        {
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
        if !self.model.exists() && self.model.is_relative() && parts.len() == 2 {
            bail!(
                "--model {}: no such directory (for a model on the hub of that name, build with --features hub)",
                self.model.display()
            );
        }
        Ok(self.model.clone())
    }

    /// Loads the weights onto the device.
    ///
    /// # Errors
    /// A device that is not built in or not there.
    pub fn load(&self, directory: &ModelDirectory) -> Result<Decoder> {
        self.load_on(directory, &self.device)
    }

    /// As [`load`](Self::load), onto another device.
    ///
    /// # Errors
    /// As `load`.
    pub fn load_on(&self, directory: &ModelDirectory, device: &DeviceName) -> Result<Decoder> {
        let mut bar = Progress::new("loading", 1);
        let report = |done: u64, total: u64| bar.set_of(done, total, megabytes(done));
        Ok(directory.load_reporting(&device.open()?, self.dtype()?, report)?)
    }

    /// Type of the weights in memory: the one asked for, or else f32 on the CPU and [`half_of`] elsewhere.
    ///
    /// # Errors
    /// A device that is not there, a type that it does not compute in.
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

    /// What a file of results says about the model and its proxy sequences. Reads all weights.
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

    /// As [`load`](Self::load), with the coefficients of a profile if there is one.
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

/// The half precision that a device computes in: bf16 where it can, else f16, if that.
pub fn half_of(device: &Device) -> Option<DType> {
    [DType::BF16, DType::F16]
        .into_iter()
        .find(|&dtype| device.supports_dtype(dtype))
}

/// A type as `--dtype` calls it.
pub fn name_of(dtype: DType) -> String {
    format!("{dtype:?}").to_lowercase()
}

fn megabytes(bytes: u64) -> String {
    format!("{} MB", bytes / 1_000_000)
}

/// Type of the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    /// 32 bits.
    F32,
    /// 16 bits, the exponents of f32.
    Bf16,
    /// 16 bits, IEEE.
    F16,
}

impl Dtype {
    /// As `config.json` calls it.
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

/// Runs a command to its exit status: 0, or 2 with one line on standard error that says what was wrong with the input.
pub fn main_with<A: Parser>(command: impl FnOnce(A) -> Result<()>) -> ExitCode {
    crate::allocator::keep_pages();
    set_hook(Box::new(|panic| {
        let place = panic.location().map_or(String::new(), |place| {
            format!(" ({}:{})", place.file(), place.line())
        });
        let message = panic.payload_as_str().unwrap_or("of unknown cause");
        fail(&format!("internal error{place}: {message}"));
    }));
    crate::log::install();
    let arguments = match A::try_parse() {
        Ok(arguments) => arguments,
        Err(error) if !error.use_stderr() => {
            // --help and --version.
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            fail(&usage_line(&error.render().to_string()));
            return ExitCode::from(UNUSABLE);
        }
    };
    match catch_unwind(AssertUnwindSafe(|| command(arguments))) {
        Ok(Ok(())) => return ExitCode::SUCCESS,
        Ok(Err(error)) => fail(&chain(&error)),
        // The hook has told.
        Err(_) => {}
    }
    ExitCode::from(UNUSABLE)
}

/// Prints a warning.
pub fn warn(message: &str) {
    print_above(&format!("warning: {}", one_line(message)));
}

fn fail(message: &str) {
    print_above(&format!("error: {}", one_line(message)));
}

/// What clap says on several lines, without the general advice below it.
fn usage_line(text: &str) -> String {
    let lines = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
    let said = lines
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join(" ");
    said.strip_prefix("error: ")
        .unwrap_or(&said)
        .replace(" tip: ", "; tip: ")
}

/// An error and its causes, except those that it repeats itself.
fn chain(error: &anyhow::Error) -> String {
    error
        .chain()
        .map(ToString::to_string)
        .fold(String::new(), |said, cause| match said.as_str() {
            "" => cause,
            said if said.contains(&cause) => said.into(),
            said => format!("{said}: {cause}"),
        })
}

/// White space of any kind becomes single spaces, control characters vanish, and no line is endless.
fn one_line(message: &str) -> String {
    const LONGEST: usize = 1500;
    let words: Vec<&str> = message.split_whitespace().collect();
    let mut line: String = words
        .join(" ")
        .chars()
        .filter(|c| !c.is_control())
        .take(LONGEST + 1)
        .collect();
    if line.chars().count() > LONGEST {
        line = line.chars().take(LONGEST).chain("…".chars()).collect();
    }
    line
}

/// Prints on standard output. A reader that has gone away is no error.
///
/// # Errors
/// Whatever else the system says.
pub fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other.context("standard output: cannot write"),
    }
}

/// Checks, before the work starts, that a file can be written at its end.
///
/// # Errors
/// A folder of that name, or one that is missing or cannot be written to; `flag` is named.
pub fn check_out(flag: &str, path: &Path) -> Result<()> {
    if path.is_dir() {
        bail!(
            "{flag} {}: is a folder, expected the name of a file",
            path.display()
        );
    }
    if path.file_name().is_none() {
        bail!("{flag} {}: expected the name of a file", path.display());
    }
    let folder = parent(path);
    if !folder.is_dir() {
        bail!(
            "{flag} {}: the folder {} does not exist",
            path.display(),
            folder.display()
        );
    }
    let probe = tempfile::Builder::new()
        .prefix(".pear-")
        .tempfile_in(folder);
    probe
        .map(drop)
        .with_context(|| format!("{flag} {}: cannot write to the folder", path.display()))
}

/// The folder that a file stands in.
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Reads the profile of `--profile` and checks that it is for this model, before any weights are loaded.
///
/// # Errors
/// A file that is no profile or for another shape of model.
pub fn read_profile(path: &Path, directory: &ModelDirectory) -> Result<Profile> {
    let profile = Profile::read(path)?;
    directory
        .shape()
        .check_same(&profile.model)
        .with_context(|| path.display().to_string())?;
    warn_of_mismatches(path, &profile.provenance, directory)?;
    Ok(profile)
}

/// Warns of a file that was made for a model of the same shape with other weights or another tokenizer.
///
/// # Errors
/// A `tokenizer.json` that cannot be read.
pub fn warn_of_mismatches(
    path: &Path,
    made: &Provenance,
    directory: &ModelDirectory,
) -> Result<()> {
    let mismatches = directory.mismatches(made)?;
    if !mismatches.is_empty() {
        let (path, model) = (path.display(), directory.path().display());
        warn(&format!(
            "{path}: was made for another model: its fingerprint of {} is not that of {model}",
            mismatches.join(" and of ")
        ));
    }
    Ok(())
}

/// What `--top-k` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopK {
    /// So many.
    Count(usize),
    /// Every head.
    All,
    /// As many as stand out of the noise: see [`Scores::significant`].
    Auto,
}

impl FromStr for TopK {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            "auto" => Ok(Self::Auto),
            _ => text
                .parse()
                .map(Self::Count)
                .map_err(|_| "expected a number of heads, all, or auto".into()),
        }
    }
}

impl TopK {
    /// What stands out, in a sentence.
    pub const RULE: &str = "auto takes the heads whose score is above zero at 5 % (one-sided, corrected for the number of heads)";

    /// What `--top-k` asks for, or `default`: all heads, with a warning, where it is more than there are.
    ///
    /// # Errors
    /// 0.
    pub fn checked(asked: Option<Self>, default: usize, heads: usize) -> Result<Self> {
        match asked {
            None => Ok(Self::Count(default.min(heads))),
            Some(Self::Count(0)) => bail!("--top-k 0: expected at least 1, all, or auto"),
            Some(Self::Count(k)) if k > heads => {
                warn(&format!(
                    "--top-k {k}: there are {heads} heads, and all of them are taken"
                ));
                Ok(Self::Count(heads))
            }
            Some(asked) => Ok(asked),
        }
    }

    /// The heads.
    ///
    /// # Errors
    /// Scores without standard errors, where they are needed.
    pub fn of(self, scores: &Scores) -> Result<Vec<HeadId>> {
        match self {
            Self::Count(k) => Ok(scores.top(k)),
            Self::All => Ok(scores.top(scores.heads().len())),
            Self::Auto => match scores.significant() {
                Some(heads) => Ok(heads),
                None => bail!(
                    "--top-k auto: the scores have no standard errors: at least 2 sequences of each length are needed"
                ),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_one_line() {
        let text = "error: the following required arguments were not provided:\n  --model <DIR>\n\nUsage: x --model <DIR>\n\nFor more";
        assert_eq!(
            usage_line(text),
            "the following required arguments were not provided: --model <DIR>"
        );
    }

    #[test]
    fn causes_are_told_once() {
        let error = anyhow::anyhow!("no such file")
            .context("a.json: cannot read: no such file")
            .context("profile");
        assert_eq!(chain(&error), "profile: a.json: cannot read: no such file");
    }

    #[test]
    fn lines_have_no_control_characters_and_an_end() {
        assert_eq!(one_line("a\n\tb\u{1b}[2J"), "a b[2J");
        assert_eq!(one_line(&"x".repeat(5000)).chars().count(), 1501);
    }
}
