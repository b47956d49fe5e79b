//! A limit to how much less likely a plain text may become.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use pear_core::{HeadCoefficients, Profile};
use pear_models::Decoder;
use pear_models::evaluation::TextWindows;

use crate::cli;

/// A plain text whose perplexity is to stay.
#[derive(Debug)]
pub struct TextGate<'a> {
    text: &'a TextWindows,
    model: &'a Decoder,
    /// Perplexity without coefficients.
    before: f64,
    limit: f64,
}

impl<'a> TextGate<'a> {
    /// Measures the text without coefficients; it may become less likely by the share `limit`.
    ///
    /// # Errors
    /// As [`TextWindows::perplexity`].
    pub fn new(text: &'a TextWindows, model: &'a Decoder, limit: f64) -> Result<Self> {
        Ok(Self {
            text,
            model,
            before: text.perplexity(model)?,
            limit,
        })
    }

    /// The share by which the perplexity rises with these coefficients.
    fn increase(&self, coefficients: &HeadCoefficients) -> Result<f64> {
        let model = self.model.clone().with_coefficients(coefficients)?;
        Ok(self.text.perplexity(&model)? / self.before - 1.0)
    }

    /// Whether the perplexity rises by more than the limit with these coefficients.
    ///
    /// # Errors
    /// As [`new`](Self::new), and coefficients of another shape of model.
    fn is_exceeded(&self, coefficients: &HeadCoefficients) -> Result<bool> {
        Ok(self.increase(coefficients)? > self.limit)
    }

    /// The perplexities before and after, with a warning if the limit is exceeded.
    ///
    /// # Errors
    /// As [`is_exceeded`](Self::is_exceeded).
    pub fn measure(&self, coefficients: &HeadCoefficients) -> Result<(f64, f64)> {
        let increase = self.increase(coefficients)?;
        if increase > self.limit {
            cli::warn(&format!(
                "{}: it rises by {:.2} %",
                self.limit_text(),
                100.0 * increase
            ));
        }
        Ok((self.before, self.before * (1.0 + increase)))
    }

    /// The limit in words.
    fn limit_text(&self) -> String {
        format!(
            "the perplexity of --text may rise by {} % (--text-limit)",
            100.0 * self.limit
        )
    }
}

/// Name of the file beside a checkpoint with the last coefficients that were within the limit.
const LAST_WITHIN: &str = "text-gate.json";

/// A text that ends training (`--text-gate stop`).
#[derive(Debug)]
pub struct StoppingGate<'a> {
    gate: &'a TextGate<'a>,
    /// The last coefficients measured within the limit.
    last_within: Profile,
    is_closed: bool,
    file: Option<PathBuf>,
}

impl<'a> StoppingGate<'a> {
    /// At the beginning of a run, whose coefficients are `first`. What is within the limit is kept beside `checkpoint`.
    pub fn new(gate: &'a TextGate<'a>, first: Profile, checkpoint: Option<&Path>) -> Self {
        Self {
            gate,
            last_within: first,
            is_closed: false,
            file: checkpoint.map(|path| path.with_file_name(LAST_WITHIN)),
        }
    }

    /// Where a run is resumed from a checkpoint: the coefficients in it may never have been measured.
    ///
    /// # Errors
    /// No file with the last coefficients that were within the limit: the run had no such gate.
    pub fn resumed(gate: &'a TextGate<'a>, checkpoint: &Path) -> Result<Self> {
        let file = checkpoint.with_file_name(LAST_WITHIN);
        let last_within = Profile::read(&file).with_context(|| {
            format!(
                "--text-gate stop --resume: expected {} beside the checkpoint, which a run with --text-gate stop writes",
                file.display()
            )
        })?;
        Ok(Self {
            gate,
            last_within,
            is_closed: false,
            file: Some(file),
        })
    }

    /// Measures coefficients. If they are within the limit, `profile` is what is kept of them.
    ///
    /// # Errors
    /// As [`TextGate::is_exceeded`], and those of `profile`.
    pub fn passes(
        &mut self,
        coefficients: &HeadCoefficients,
        profile: impl FnOnce() -> Result<Profile>,
    ) -> Result<bool> {
        self.is_closed = self.gate.is_exceeded(coefficients)?;
        if !self.is_closed {
            self.last_within = profile()?;
        }
        Ok(!self.is_closed)
    }

    /// Writes what a resumed run needs. Called before each checkpoint: should the run end between the two, the steps up to here are
    /// repeated and pass again.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self) -> Result<()> {
        match &self.file {
            Some(file) => Ok(self.last_within.write(file)?),
            None => Ok(()),
        }
    }

    /// At the end: the coefficients to go back to, with a warning, where the last ones are beyond the limit.
    ///
    /// # Errors
    /// As [`TextGate::is_exceeded`].
    pub fn finish(self, last: &HeadCoefficients) -> Result<Option<Profile>> {
        if !self.is_closed && !self.gate.is_exceeded(last)? {
            return Ok(None);
        }
        let training = self.last_within.training.as_ref();
        cli::warn(&format!(
            "{}: the coefficients are those after step {}",
            self.gate.limit_text(),
            training.map_or(0, |training| training.steps)
        ));
        Ok(Some(self.last_within))
    }
}
