//! Rotary positions and their scalings, as `config.json` has them.

use pear_core::position::{RotaryConfig, RotaryLayout, RotaryScaling};

use super::reader::{ConfigReader, Result};

const PARTIAL: &str = "partial_rotary_factor";

/// How a family spells its rotary positions where they are not in an object of their own, and what holds where the config does not say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RotaryKeys {
    /// The base. Of several spellings the first that is there counts, or else the last.
    pub theta: &'static [&'static str],
    /// The base by default.
    pub default_theta: f64,
    /// The share of a head's channels that is rotated; none where it is always the whole head.
    pub partial: &'static [&'static str],
    /// That share by default.
    pub default_partial: f64,
    /// `max_position_embeddings` by default.
    pub default_max_positions: usize,
    /// `original_max_position_embeddings` by default, even where the object of the scaling has it.
    pub default_original_positions: Option<usize>,
    /// Whether a scaling that is called `yarn` is LongRoPE, as in the first Phi-3.
    pub yarn_is_longrope: bool,
    /// Which channels are rotated together.
    pub layout: RotaryLayout,
    /// Whether scalings say their attention factor as `short_mscale` and `long_mscale`, as in Phi-3.5-MoE: all are LongRoPE.
    pub has_mscales: bool,
}

impl RotaryKeys {
    /// Llama's, for families that can rotate a part of each head.
    pub const LLAMA: Self = Self {
        theta: &["rope_theta"],
        default_theta: 10000.0,
        partial: &["partial_rotary_factor"],
        default_partial: 1.0,
        default_max_positions: 2048,
        default_original_positions: None,
        yarn_is_longrope: false,
        layout: RotaryLayout::HalfSplit,
        has_mscales: false,
    };

    /// Llama's, for families that cannot.
    pub const WHOLE_HEADS: Self = Self {
        partial: &[],
        ..Self::LLAMA
    };
}

impl ConfigReader {
    /// Rotary positions in either form: `rope_theta` and `rope_scaling`, or `rope_parameters`.
    pub(crate) fn rotary(&self, head_dim: usize, keys: &RotaryKeys) -> Result<RotaryConfig> {
        // As in transformers: the old object wins where both are given.
        let old = self.object("rope_scaling")?;
        let new = self.object("rope_parameters")?;
        self.rotary_with(
            old.filter(|old| !old.holds_nothing()).or(new),
            head_dim,
            keys,
        )
    }

    /// Rotary positions that differ between layers: those of `full_attention` layers and those of `sliding_attention` layers, which
    /// `rope_parameters` may hold by these names. `rope_scaling` concerns the former alone.
    pub(crate) fn rotary_by_layer_type(
        &self,
        head_dim: usize,
        full: &RotaryKeys,
        sliding: &RotaryKeys,
    ) -> Result<[RotaryConfig; 2]> {
        let old = self.object("rope_scaling")?;
        let old = old.filter(|old| !old.holds_nothing());
        let by_type = self.object("rope_parameters")?;
        let within = |key| match &by_type {
            Some(by_type) => by_type.object(key),
            None => Ok(None),
        };
        let (of_full, of_sliding) = (within("full_attention")?, within("sliding_attention")?);
        if let Some(by_type) = &by_type {
            by_type.finish()?;
        }
        Ok([
            self.rotary_with(old.or(of_full), head_dim, full)?,
            self.rotary_with(of_sliding, head_dim, sliding)?,
        ])
    }

    /// Rotary positions; what is in the object `rope` wins over what is beside it.
    fn rotary_with(
        &self,
        rope: Option<Self>,
        head_dim: usize,
        keys: &RotaryKeys,
    ) -> Result<RotaryConfig> {
        let mut theta = self.positive(self.spelling(keys.theta), keys.default_theta)?;
        let partial_key = self.spelling(keys.partial);
        let mut partial = match keys.partial {
            [] => None,
            _ => self.number(partial_key)?,
        };
        if let Some(rope) = &rope {
            theta = rope.positive("rope_theta", theta)?;
            partial = rope.number(PARTIAL)?.or(partial);
        }
        let partial = partial.unwrap_or(keys.default_partial);
        if keys.partial.is_empty() {
            self.refuse_partial(partial)?;
        }
        let rotary_dim = self.rotary_dim(head_dim, partial, partial_key)?;
        let scaling = match rope {
            Some(rope) => {
                let max_positions = self.optional_size("max_position_embeddings")?;
                let beside = self.optional_size("original_max_position_embeddings")?;
                let within = rope.optional_size("original_max_position_embeddings")?;
                let scaling = ScalingReader {
                    rope: &rope,
                    max_positions: max_positions.unwrap_or(keys.default_max_positions),
                    original: beside.or(keys.default_original_positions).or(within),
                    yarn_is_longrope: keys.yarn_is_longrope,
                    has_mscales: keys.has_mscales,
                };
                scaling.scaling()?
            }
            None => {
                // Only scalings depend on it.
                self.ignore(&["max_position_embeddings"]);
                RotaryScaling::None
            }
        };
        self.ignore_repeated("rope_theta", theta);
        self.ignore_repeated(PARTIAL, partial);
        Ok(RotaryConfig {
            rotary_dim,
            rope_theta: theta,
            layout: keys.layout,
            scaling,
        })
    }

    /// Refuses another share than that of the whole head, in a family that knows no other.
    fn refuse_partial(&self, within: f64) -> Result<()> {
        for share in [Some(within), self.number(PARTIAL)?].into_iter().flatten() {
            if share != 1.0 {
                let problem =
                    format!("is {share}: this model_type rotates whole heads in transformers");
                return Err(self.error(PARTIAL, problem));
            }
        }
        Ok(())
    }

    /// A spelling that the family does not read says nothing new if it has the number that was read.
    fn ignore_repeated(&self, key: &'static str, number: f64) {
        if self.holds(key, number) {
            self.ignore(&[key]);
        }
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
    max_positions: usize,
    /// The context of the pre-training, wherever it is given.
    original: Option<usize>,
    yarn_is_longrope: bool,
    has_mscales: bool,
}

impl ScalingReader<'_> {
    fn scaling(&self) -> Result<RotaryScaling> {
        let kind = self.rope.first(&["rope_type", "type"]);
        let name = self.rope.text(kind)?.unwrap_or_else(|| "default".into());
        let scaling = match name.as_str() {
            "default" => RotaryScaling::None,
            "longrope" if self.has_mscales => self.longrope(self.mscale()?)?,
            _ if self.has_mscales => {
                let problem = format!("is `{name}`: expected default or longrope");
                return Err(self.rope.error(kind, problem));
            }
            "linear" => RotaryScaling::Linear {
                factor: self.factor()?,
            },
            "dynamic" => RotaryScaling::DynamicNtk {
                factor: self.factor()?,
                // transformers takes the config's own maximum here, whatever else is given.
                original_max_position_embeddings: self.max_positions,
            },
            "yarn" if !self.yarn_is_longrope => self.yarn()?,
            "llama3" => RotaryScaling::Llama3 {
                factor: self.factor()?,
                low_freq_factor: self.required("low_freq_factor")?,
                high_freq_factor: self.required("high_freq_factor")?,
                original_max_position_embeddings: self.original(),
            },
            // `su` and `yarn` in older configs.
            "longrope" | "su" | "yarn" => {
                let factor = self.factor_or_ratio(self.original())?;
                let computed = RotaryScaling::longrope_attention_factor(factor, self.original());
                self.longrope(self.rope.positive("attention_factor", computed)?)?
            }
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
        let original = self.original();
        let factor = self.factor_or_ratio(original)?;
        let mscale = self.nonzero("mscale")?;
        let mscale_all_dim = self.nonzero("mscale_all_dim")?;
        let computed = RotaryScaling::yarn_attention_factor(factor, mscale, mscale_all_dim);
        Ok(RotaryScaling::Yarn {
            factor,
            original_max_position_embeddings: original,
            beta_fast: self.nonzero("beta_fast")?.unwrap_or(32.0),
            beta_slow: self.nonzero("beta_slow")?.unwrap_or(1.0),
            attention_factor: self.rope.positive("attention_factor", computed)?,
            truncate: self.rope.flag("truncate", true)?,
        })
    }

    fn longrope(&self, attention_factor: f64) -> Result<RotaryScaling> {
        Ok(RotaryScaling::LongRope {
            short_factor: self.rope.numbers("short_factor")?,
            long_factor: self.rope.numbers("long_factor")?,
            original_max_position_embeddings: self.original(),
            attention_factor,
        })
    }

    /// `short_mscale`, which `long_mscale` repeats in every published model.
    fn mscale(&self) -> Result<f64> {
        let short = self.required("short_mscale")?;
        let long = self.required("long_mscale")?;
        if short == long {
            return Ok(short);
        }
        let problem = format!("is {long}: only that of short_mscale, {short}, is supported");
        Err(self.rope.error("long_mscale", problem))
    }

    /// A number for which 0 stands for none.
    fn nonzero(&self, key: &str) -> Result<Option<f64>> {
        Ok(self.rope.number(key)?.filter(|&number| number != 0.0))
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
        Ok(self.max_positions as f64 / original as f64)
    }

    /// The context of the pre-training.
    fn original(&self) -> usize {
        self.original.unwrap_or(self.max_positions)
    }
}
