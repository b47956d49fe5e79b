//! Rotary positions and their scalings, as `config.json` has them.

use pear_core::position::{RotaryConfig, RotaryLayout, RotaryScaling};

use super::reader::{ConfigReader, Result};

/// How a family spells its rotary positions where they are not in an object of their own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RotaryKeys {
    /// The base. Of several spellings the first that is there counts, or else the last.
    pub theta: &'static [&'static str],
    /// The share of a head's channels that is rotated.
    pub partial: &'static [&'static str],
    /// That share where the config does not say.
    pub default_partial: f64,
}

impl RotaryKeys {
    /// Llama's.
    pub const LLAMA: Self = Self {
        theta: &["rope_theta"],
        partial: &["partial_rotary_factor"],
        default_partial: 1.0,
    };
}

impl ConfigReader {
    /// Rotary positions in either form: `rope_theta` and `rope_scaling`, or `rope_parameters`.
    pub(crate) fn rotary(&self, head_dim: usize, keys: &RotaryKeys) -> Result<RotaryConfig> {
        let theta_key = self.spelling(keys.theta);
        let partial_key = self.spelling(keys.partial);
        let max_positions = self.optional_size("max_position_embeddings")?;
        let mut theta = self.positive(theta_key, 10000.0)?;
        let mut partial = self.number(partial_key)?;
        // As in transformers: the old object wins where both are given, and what is in it wins over what is beside it.
        let old = self.object("rope_scaling")?;
        let new = self.object("rope_parameters")?;
        let rope = old.or(new);
        if let Some(rope) = &rope {
            theta = rope.positive("rope_theta", theta)?;
            partial = rope.number("partial_rotary_factor")?.or(partial);
        }
        let partial = partial.unwrap_or(keys.default_partial);
        let rotary_dim = self.rotary_dim(head_dim, partial, partial_key)?;
        let scaling = match rope {
            Some(rope) => {
                let beside = self.optional_size("original_max_position_embeddings")?;
                ScalingReader::new(&rope, max_positions, beside)?.scaling()?
            }
            None => RotaryScaling::None,
        };
        Ok(RotaryConfig {
            rotary_dim,
            rope_theta: theta,
            layout: RotaryLayout::HalfSplit,
            scaling,
        })
    }

    /// The first of these keys that is there, or else the last; none of them counts as read.
    fn spelling(&self, keys: &[&'static str]) -> &'static str {
        let there = keys.iter().find(|key| self.has(key));
        there.or(keys.last()).copied().unwrap_or_default()
    }

    /// How many channels of a head are rotated.
    fn rotary_dim(&self, head_dim: usize, partial: f64, partial_key: &str) -> Result<usize> {
        if !(partial > 0.0 && partial <= 1.0) {
            let problem = format!("is {partial}: expected more than 0 and at most 1");
            return Err(self.error(partial_key, problem));
        }
        let rotary_dim = (head_dim as f64 * partial) as usize;
        if rotary_dim == 0 || !rotary_dim.is_multiple_of(2) {
            let key = if partial == 1.0 {
                "head_dim"
            } else {
                partial_key
            };
            let problem = format!(
                "rotary positions would turn {rotary_dim} of {head_dim} channels: expected an even number"
            );
            return Err(self.error(key, problem));
        }
        Ok(rotary_dim)
    }
}

/// The object that says how frequencies are stretched, and what is said beside it.
struct ScalingReader<'a> {
    rope: &'a ConfigReader,
    max_positions: Option<usize>,
    /// The context of the pre-training, wherever it is given.
    original: Option<usize>,
}

impl<'a> ScalingReader<'a> {
    fn new(
        rope: &'a ConfigReader,
        max_positions: Option<usize>,
        original_beside: Option<usize>,
    ) -> Result<Self> {
        let original_within = rope.optional_size("original_max_position_embeddings")?;
        Ok(Self {
            rope,
            max_positions,
            original: original_beside.or(original_within),
        })
    }

    fn scaling(&self) -> Result<RotaryScaling> {
        let kind = self.rope.first(&["rope_type", "type"]);
        let name = self.rope.text(kind)?.unwrap_or_else(|| "default".into());
        let scaling = match name.as_str() {
            "default" => RotaryScaling::None,
            "linear" => RotaryScaling::Linear {
                factor: self.factor()?,
            },
            "dynamic" => RotaryScaling::DynamicNtk {
                factor: self.factor()?,
                // transformers takes the config's own maximum here, whatever else is given.
                original_max_position_embeddings: match self.max_positions {
                    Some(max_positions) => max_positions,
                    None => self.original(None)?,
                },
            },
            "yarn" => self.yarn()?,
            "llama3" => RotaryScaling::Llama3 {
                factor: self.factor()?,
                low_freq_factor: self.required("low_freq_factor")?,
                high_freq_factor: self.required("high_freq_factor")?,
                original_max_position_embeddings: self.original(None)?,
            },
            // `su` in older configs.
            "longrope" | "su" => self.longrope()?,
            _ => {
                let problem = format!(
                    "is `{name}`: expected default, linear, dynamic, yarn, longrope or llama3"
                );
                return Err(self.rope.error(kind, problem));
            }
        };
        self.rope.finish()?;
        Ok(scaling)
    }

    fn yarn(&self) -> Result<RotaryScaling> {
        let original = self.original(self.max_positions)?;
        let factor = self.factor_or_ratio(original)?;
        let mscale = self.rope.number("mscale")?;
        let mscale_all_dim = self.rope.number("mscale_all_dim")?;
        let computed = RotaryScaling::yarn_attention_factor(factor, mscale, mscale_all_dim);
        Ok(RotaryScaling::Yarn {
            factor,
            original_max_position_embeddings: original,
            beta_fast: self.rope.positive("beta_fast", 32.0)?,
            beta_slow: self.rope.positive("beta_slow", 1.0)?,
            attention_factor: self.rope.positive("attention_factor", computed)?,
            truncate: self.rope.flag("truncate", true)?,
        })
    }

    fn longrope(&self) -> Result<RotaryScaling> {
        let original = self.original(self.max_positions)?;
        let factor = self.factor_or_ratio(original)?;
        let computed = RotaryScaling::longrope_attention_factor(factor, original);
        Ok(RotaryScaling::LongRope {
            short_factor: self.rope.numbers("short_factor")?,
            long_factor: self.rope.numbers("long_factor")?,
            original_max_position_embeddings: original,
            attention_factor: self.rope.positive("attention_factor", computed)?,
        })
    }

    fn required(&self, key: &str) -> Result<f64> {
        let number = self.rope.number(key)?;
        number.ok_or_else(|| self.rope.error(key, "is missing"))
    }

    /// By how much the context is stretched.
    fn factor(&self) -> Result<f64> {
        let factor = self.required("factor")?;
        if factor.is_finite() && factor >= 1.0 {
            return Ok(factor);
        }
        let problem = format!("is {factor}: expected at least 1");
        Err(self.rope.error("factor", problem))
    }

    /// The same, or by how much longer the model's context is than that of its pre-training.
    fn factor_or_ratio(&self, original: usize) -> Result<f64> {
        if self.rope.has("factor") {
            return self.factor();
        }
        Ok(self.max_positions.unwrap_or(original) as f64 / original as f64)
    }

    /// The context of the pre-training.
    fn original(&self, default: Option<usize>) -> Result<usize> {
        self.original.or(default).ok_or_else(|| {
            self.rope
                .error("original_max_position_embeddings", "is missing")
        })
    }
}
