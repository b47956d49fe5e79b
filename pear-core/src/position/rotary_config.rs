//! Configuration of rotary position embeddings: layouts, scalings and the frequencies that they give.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Which two channels are rotated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RotaryLayout {
    /// Channel `i` with channel `i + rotary_dim / 2`: Llama, Qwen, GPT-NeoX and every other checkpoint with `rotate_half`.
    HalfSplit,
    /// Channel `2i` with channel `2i + 1`: GPT-J, the original Llama release, burn's own `RotaryEncoding`.
    Interleaved,
}

/// How the frequencies are stretched for contexts longer than the pre-training's (`rope_scaling`, `rope_parameters`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RotaryScaling {
    /// Not at all (`default`).
    None,
    /// Every position divided by `factor` (`linear`).
    Linear {
        /// `factor`.
        factor: f64,
    },
    /// The base grows with the sequence once it is longer than `original_max_position_embeddings` (`dynamic`).
    DynamicNtk {
        /// `factor`.
        factor: f64,
        /// `max_position_embeddings` of the checkpoint.
        original_max_position_embeddings: usize,
    },
    /// YaRN ([arXiv 2309.00071](https://arxiv.org/abs/2309.00071)).
    Yarn {
        /// `factor`.
        factor: f64,
        /// Context of the pre-training.
        original_max_position_embeddings: usize,
        /// Rotations above which a frequency is kept, 32 by default.
        beta_fast: f64,
        /// Rotations below which a frequency is divided by `factor`, 1 by default.
        beta_slow: f64,
        /// What the cosines and sines are multiplied by; see [`RotaryScaling::yarn_attention_factor`].
        attention_factor: f64,
        /// Whether the bounds of the ramp are rounded outwards to whole dimensions, which is the default.
        truncate: bool,
    },
    /// LongRoPE ([arXiv 2402.13753](https://arxiv.org/abs/2402.13753)): a divisor for each frequency, of two sets (Phi-3).
    LongRope {
        /// `short_factor`, one for each pair of channels: up to the context of the pre-training.
        short_factor: Vec<f64>,
        /// `long_factor`: beyond it.
        long_factor: Vec<f64>,
        /// Context of the pre-training.
        original_max_position_embeddings: usize,
        /// What the cosines and sines are multiplied by; see [`RotaryScaling::longrope_attention_factor`].
        attention_factor: f64,
    },
    /// Llama 3.1 (`llama3`).
    Llama3 {
        /// `factor`.
        factor: f64,
        /// `low_freq_factor`.
        low_freq_factor: f64,
        /// `high_freq_factor`.
        high_freq_factor: f64,
        /// Context of the pre-training.
        original_max_position_embeddings: usize,
    },
}

impl RotaryScaling {
    /// YaRN's attention factor where the config gives none, from `mscale` and `mscale_all_dim` if it has these.
    pub fn yarn_attention_factor(
        factor: f64,
        mscale: Option<f64>,
        mscale_all_dim: Option<f64>,
    ) -> f64 {
        let scale = |mscale: f64| {
            if factor <= 1.0 {
                1.0
            } else {
                0.1 * mscale * factor.ln() + 1.0
            }
        };
        match (
            mscale.filter(|&m| m != 0.0),
            mscale_all_dim.filter(|&m| m != 0.0),
        ) {
            (Some(mscale), Some(all_dim)) => scale(mscale) / scale(all_dim),
            _ => scale(1.0),
        }
    }

    /// LongRoPE's attention factor where the config gives none: `√(1 + ln factor / ln original)` for a `factor` above 1.
    pub fn longrope_attention_factor(factor: f64, original_max_position_embeddings: usize) -> f64 {
        if factor <= 1.0 {
            1.0
        } else {
            (1.0 + factor.ln() / (original_max_position_embeddings as f64).ln()).sqrt()
        }
    }
}

/// A rotary position embedding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RotaryConfig {
    /// Channels that are rotated, the first ones of each head: `head_dim · partial_rotary_factor`.
    pub rotary_dim: usize,
    /// The base (`rope_theta`, `rotary_emb_base`).
    pub rope_theta: f64,
    /// Which channels belong together.
    pub layout: RotaryLayout,
    /// How frequencies are stretched.
    pub scaling: RotaryScaling,
}

impl RotaryConfig {
    /// Half-split, not scaled.
    pub fn new(rotary_dim: usize, rope_theta: f64) -> Self {
        Self {
            rotary_dim,
            rope_theta,
            layout: RotaryLayout::HalfSplit,
            scaling: RotaryScaling::None,
        }
    }

    pub(super) fn validate(&self) -> Result<()> {
        if self.rotary_dim == 0 || !self.rotary_dim.is_multiple_of(2) {
            return Err(Error::config(
                "rotary_dim",
                self.rotary_dim,
                "expected an even number of channels, at least 2",
            ));
        }
        if !(self.rope_theta.is_finite() && self.rope_theta > 1.0) {
            return Err(Error::config(
                "rope_theta",
                self.rope_theta,
                "expected a number above 1",
            ));
        }
        let positive = |field: &'static str, value: f64| {
            let ok = value.is_finite() && value > 0.0;
            if ok {
                Ok(())
            } else {
                Err(Error::config(field, value, "expected a positive number"))
            }
        };
        let original = |value: usize| {
            let ok = value > 0;
            if ok {
                Ok(())
            } else {
                Err(Error::config(
                    "original_max_position_embeddings",
                    value,
                    "expected at least 1",
                ))
            }
        };
        match self.scaling {
            RotaryScaling::None => Ok(()),
            RotaryScaling::LongRope {
                ref short_factor,
                ref long_factor,
                original_max_position_embeddings,
                attention_factor,
            } => {
                for (field, factors) in
                    [("short_factor", short_factor), ("long_factor", long_factor)]
                {
                    if factors.len() != self.rotary_dim / 2 {
                        let expected = format!(
                            "expected a number for each of {} pairs of channels",
                            self.rotary_dim / 2
                        );
                        return Err(Error::config(
                            field,
                            format!("{} numbers", factors.len()),
                            expected,
                        ));
                    }
                    factors
                        .iter()
                        .try_for_each(|&factor| positive(field, factor))?;
                }
                positive("attention_factor", attention_factor)?;
                original(original_max_position_embeddings)
            }
            RotaryScaling::Linear { factor } => positive("factor", factor),
            RotaryScaling::DynamicNtk {
                factor,
                original_max_position_embeddings,
            } => {
                if self.rotary_dim < 4 {
                    return Err(Error::config(
                        "rotary_dim",
                        self.rotary_dim,
                        "dynamic scaling needs at least 4 channels",
                    ));
                }
                positive("factor", factor)?;
                original(original_max_position_embeddings)
            }
            RotaryScaling::Yarn {
                factor,
                original_max_position_embeddings,
                beta_fast,
                beta_slow,
                attention_factor,
                ..
            } => {
                positive("factor", factor)?;
                positive("beta_fast", beta_fast)?;
                positive("beta_slow", beta_slow)?;
                positive("attention_factor", attention_factor)?;
                original(original_max_position_embeddings)
            }
            RotaryScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                positive("factor", factor)?;
                positive("low_freq_factor", low_freq_factor)?;
                if high_freq_factor.is_nan() || high_freq_factor <= low_freq_factor {
                    return Err(Error::config(
                        "high_freq_factor",
                        high_freq_factor,
                        "expected more than low_freq_factor",
                    ));
                }
                original(original_max_position_embeddings)
            }
        }
    }

    /// Radians a position for each pair of channels, `rotary_dim / 2` of them, for a sequence of `total` positions.
    pub fn inverse_frequencies(&self, total: usize) -> Vec<f32> {
        let dim = self.rotary_dim as f64;
        let plain =
            |theta: f64| (0..self.rotary_dim / 2).map(move |i| theta.powf(-2.0 * i as f64 / dim));
        let frequencies: Vec<f64> = match &self.scaling {
            RotaryScaling::None => plain(self.rope_theta).collect(),
            RotaryScaling::Linear { factor } => {
                plain(self.rope_theta).map(|f| f / factor).collect()
            }
            RotaryScaling::DynamicNtk {
                factor,
                original_max_position_embeddings: original,
            } => {
                let stretch =
                    factor * total.max(*original) as f64 / *original as f64 - (factor - 1.0);
                plain(self.rope_theta * stretch.powf(dim / (dim - 2.0))).collect()
            }
            RotaryScaling::Yarn {
                factor,
                original_max_position_embeddings,
                beta_fast,
                beta_slow,
                truncate,
                ..
            } => {
                let original = *original_max_position_embeddings as f64;
                let dim_at = |rotations: f64| {
                    dim * (original / (rotations * 2.0 * PI)).ln() / (2.0 * self.rope_theta.ln())
                };
                let (mut low, mut high) = (dim_at(*beta_fast), dim_at(*beta_slow));
                if *truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                let (low, mut high) = (low.max(0.0), high.min(dim - 1.0));
                if low == high {
                    high += 0.001;
                }
                plain(self.rope_theta)
                    .enumerate()
                    .map(|(i, f)| {
                        let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                        f / factor * ramp + f * (1.0 - ramp)
                    })
                    .collect()
            }
            RotaryScaling::LongRope {
                short_factor,
                long_factor,
                original_max_position_embeddings: original,
                ..
            } => {
                let factors = if total > *original {
                    long_factor
                } else {
                    short_factor
                };
                plain(self.rope_theta)
                    .zip(factors)
                    .map(|(f, factor)| f / factor)
                    .collect()
            }
            RotaryScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                let original = *original_max_position_embeddings as f64;
                plain(self.rope_theta)
                    .map(|f| {
                        let wavelength = 2.0 * PI / f;
                        let smooth = (original / wavelength - low_freq_factor)
                            / (high_freq_factor - low_freq_factor);
                        let smooth = smooth.clamp(0.0, 1.0);
                        (1.0 - smooth) * f / factor + smooth * f
                    })
                    .collect()
            }
        };
        frequencies.into_iter().map(|f| f as f32).collect()
    }

    /// What cosines and sines are multiplied by.
    pub fn attention_scaling(&self) -> f64 {
        match self.scaling {
            RotaryScaling::Yarn {
                attention_factor, ..
            }
            | RotaryScaling::LongRope {
                attention_factor, ..
            } => attention_factor,
            _ => 1.0,
        }
    }

    /// Sequences up to this length share their frequencies.
    /// Whether the frequencies depend on how long a sequence is: those of dynamic NTK and LongRoPE.
    pub(super) fn depends_on_length(&self) -> bool {
        matches!(
            self.scaling,
            RotaryScaling::DynamicNtk { .. } | RotaryScaling::LongRope { .. }
        )
    }

    pub(super) fn frequency_key(&self, total: usize) -> usize {
        match self.scaling {
            RotaryScaling::DynamicNtk {
                original_max_position_embeddings,
                ..
            } => total.max(original_max_position_embeddings),
            RotaryScaling::LongRope {
                original_max_position_embeddings,
                ..
            } => usize::from(total > original_max_position_embeddings),
            _ => 0,
        }
    }
}
