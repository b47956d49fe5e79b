//! How tokens are chosen, and when to stop.

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// How tokens are chosen, and when to stop.
///
/// Where several of them are given, they act in the order of transformers: repetition penalty, temperature, top-k, top-p, min-p.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GenerateOptions {
    /// Maximum number of new tokens.
    pub max_new_tokens: usize,
    /// Tokens that end the text; the one that does is part of the result.
    pub eos_tokens: Vec<u32>,
    /// 0: always the likeliest token. Otherwise logits are divided by this before one is drawn.
    pub temperature: f64,
    /// Draw only from the `top_k` likeliest tokens.
    pub top_k: Option<usize>,
    /// Draw only from the likeliest tokens that together reach this probability.
    pub top_p: Option<f64>,
    /// Draw only from tokens at least this share as likely as the likeliest.
    pub min_p: Option<f64>,
    /// Logits of tokens that are in the prompt or were chosen before are divided by this, or multiplied where they are negative
    /// ([arXiv 1909.05858](https://arxiv.org/abs/1909.05858)); 1 changes nothing.
    pub repetition_penalty: f64,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            max_new_tokens: 64,
            eos_tokens: Vec::new(),
            temperature: 0.0,
            top_k: None,
            top_p: None,
            min_p: None,
            repetition_penalty: 1.0,
            seed: 0,
        }
    }
}

impl GenerateOptions {
    /// # Errors
    /// [`Error::Input`] naming the option that is out of range.
    pub fn validate(&self) -> Result<(), Error> {
        let Self {
            temperature,
            repetition_penalty,
            ..
        } = *self;
        let share = |name: &str, value: Option<f64>| match value {
            Some(p) if !(p > 0.0 && p <= 1.0) => Err(Error::Input(format!(
                "a {name} of {p}: expected more than 0, at most 1"
            ))),
            _ => Ok(()),
        };
        if !(temperature.is_finite() && temperature >= 0.0) {
            return Err(Error::Input(format!(
                "a temperature of {temperature}: expected 0 or more"
            )));
        }
        if !(repetition_penalty.is_finite() && repetition_penalty > 0.0) {
            return Err(Error::Input(format!(
                "a repetition penalty of {repetition_penalty}: expected more than 0"
            )));
        }
        if self.top_k == Some(0) {
            return Err(Error::Input("a top-k of 0: expected at least 1".into()));
        }
        share("top-p", self.top_p)?;
        share("min-p", self.min_p)
    }
}
