//! The log of a training run: one line of CSV for each step, written as the step is taken.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use pear_core::HeadId;
use pear_core::files::write_atomic;
use pear_train::StepReport;

/// A log with the columns `step,loss,learning_rate,gradient_norm,held_out_loss,held_out_accuracy`, then `kl,distance_from_one,at_one`
/// where the objective has prices, and one for each head. The held-out columns are empty in steps without a measurement.
#[derive(Debug)]
pub struct TrainingLog {
    path: PathBuf,
    file: File,
    has_prices: bool,
}

const COLUMNS: &str = "step,loss,learning_rate,gradient_norm,held_out_loss,held_out_accuracy";
const PRICE_COLUMNS: &str = ",kl,distance_from_one,at_one";

impl TrainingLog {
    /// Starts a new log, or continues the one of an interrupted run after its first `steps_done` steps: lines after its last checkpoint
    /// are removed, as is an incomplete last line. `has_prices` says whether the objective has prices.
    ///
    /// # Errors
    /// A file that cannot be written, or that is not a log of at least `steps_done` steps with these heads.
    pub fn open(
        path: &Path,
        heads: &[HeadId],
        steps_done: usize,
        has_prices: bool,
    ) -> Result<Self> {
        let context = || format!("--log {}", path.display());
        let mut text = heads.iter().fold(columns(has_prices), |text, head| {
            text + "," + &head.to_string()
        }) + "\n";
        if steps_done > 0 {
            let earlier = fs::read_to_string(path).with_context(context)?;
            let mut lines = earlier.split_inclusive('\n');
            if lines.next() != Some(&text) {
                bail!("--log {}: not a log with these heads", path.display());
            }
            let kept: Vec<&str> = lines
                .take(steps_done)
                .filter(|line| line.ends_with('\n'))
                .collect();
            if kept.len() < steps_done {
                bail!(
                    "--log {}: {} complete lines, expected the {steps_done} steps of the checkpoint",
                    path.display(),
                    kept.len()
                );
            }
            text.extend(kept);
        }
        write_atomic(path, |file| file.write_all(text.as_bytes())).with_context(context)?;
        let file = OpenOptions::new()
            .append(true)
            .open(path)
            .with_context(context)?;
        Ok(Self {
            path: path.into(),
            file,
            has_prices,
        })
    }

    /// Adds a step, in a single write.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn add(&mut self, step: &StepReport) -> Result<()> {
        let StepReport {
            step: index,
            loss: before,
            learning_rate,
            gradient_norm,
            coefficients,
            held_out,
            kl,
            distance_from_one,
            at_one,
        } = step;
        let (loss, accuracy) = held_out.map_or_else(Default::default, |m| {
            (m.loss.to_string(), m.accuracy.to_string())
        });
        let mut line = format!(
            "{},{before},{learning_rate},{gradient_norm},{loss},{accuracy}",
            index + 1
        );
        if self.has_prices {
            let kl = kl.map_or_else(String::new, |kl| kl.to_string());
            let _ = write!(line, ",{kl},{distance_from_one},{at_one}");
        }
        for value in coefficients {
            let _ = write!(line, ",{value}");
        }
        line.push('\n');
        self.file
            .write_all(line.as_bytes())
            .with_context(|| format!("--log {}", self.path.display()))
    }

    /// For each head, its coefficients after each step.
    ///
    /// # Errors
    /// A file that cannot be read, or a value that is not a number.
    pub fn coefficients(&self) -> Result<Vec<Vec<f64>>> {
        let text = fs::read_to_string(&self.path)
            .with_context(|| format!("--log {}", self.path.display()))?;
        let others = columns(self.has_prices).split(',').count();
        let header = text.lines().next();
        let heads = header.map_or(0, |header| header.split(',').count().saturating_sub(others));
        let mut columns = vec![Vec::new(); heads];
        for line in text.lines().skip(1) {
            for (column, value) in columns.iter_mut().zip(line.split(',').skip(others)) {
                column.push(
                    value
                        .parse()
                        .with_context(|| format!("--log {}: `{value}`", self.path.display()))?,
                );
            }
        }
        Ok(columns)
    }
}

/// The names of the columns before those of the heads.
fn columns(has_prices: bool) -> String {
    COLUMNS.to_owned() + if has_prices { PRICE_COLUMNS } else { "" }
}
