//! A limit to how much less likely a plain text may become.

use anyhow::Result;
use pear_core::HeadCoefficients;
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
    pub fn is_exceeded(&self, coefficients: &HeadCoefficients) -> Result<bool> {
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
    pub fn limit_text(&self) -> String {
        format!(
            "the perplexity of --text may rise by {} % (--text-limit)",
            100.0 * self.limit
        )
    }
}
