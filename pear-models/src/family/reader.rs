//! `config.json`, every key of it either read or known to change nothing.
//!
//! A key that is silently ignored is a wrong model: a checkpoint with another rotary base loads without complaint and is
//! numerically off. So what no family reads and no list below names is refused.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use pear_core::kernels::Activation;
use pear_core::position::{RotaryConfig, RotaryLayout, RotaryScaling};
use serde_json::{Map, Value};

use crate::error::Error;

/// No model comes near these; a config beyond them is broken, and nothing is allocated for it.
const MAX_LAYERS: usize = 4096;
const MAX_WIDTH: usize = 1 << 24;

/// Keys that do not change what a forward pass computes.
const INERT: &[&str] = &[
    // Names, versions, bookkeeping.
    "_name_or_path",
    "_commit_hash",
    "_from_model_config",
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_attn_implementation_internal",
    "_experts_implementation",
    "_flash_attn_2_enabled",
    "architectures",
    "attn_implementation",
    "auto_map",
    "model_type",
    "name_or_path",
    "tokenizer_class",
    "transformers_version",
    "torch_dtype",
    "dtype",
    "task_specific_params",
    "finetuning_task",
    "unsloth_version",
    "unsloth_fixed",
    "base_model_name_or_path",
    "gradient_checkpointing",
    "license",
    // Initialisation, regularisation and training.
    "initializer_range",
    "initializer_factor",
    "init_std",
    "init_method",
    "init_device",
    "hidden_dropout",
    "hidden_dropout_prob",
    "attention_dropout",
    "attention_probs_dropout_prob",
    "activation_dropout",
    "resid_pdrop",
    "embd_pdrop",
    "emb_pdrop",
    "attn_pdrop",
    "resid_dropout",
    "embd_dropout",
    "classifier_dropout",
    "dropout",
    "layerdrop",
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
    "embedding_fraction",
    "skip_bias_add",
    "skip_bias_add_qkv",
    "init_config",
    "tokenizer_name",
    "z_loss_weight",
    "is_llama_config",
    "transformers.js_config",
    "slow_but_exact",
    "masked_softmax_fusion",
    "bias_dropout_fusion",
    "attention_softmax_in_fp32",
    "pretraining_tp",
    "verbose",
    "use_bfloat16",
    "reorder_and_upcast_attn",
    "offset_alibi",
    "seq_length",
    "n_ctx",
    "unk_token_id",
    // Output switches and generation defaults.
    "use_cache",
    "return_dict",
    "return_dict_in_generate",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "torchscript",
    "chunk_size_feed_forward",
    "is_decoder",
    "max_length",
    "min_length",
    "do_sample",
    "early_stopping",
    "num_beams",
    "num_beam_groups",
    "diversity_penalty",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
    "repetition_penalty",
    "length_penalty",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "bad_words_ids",
    "num_return_sequences",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "remove_invalid_values",
    "exponential_decay_length_penalty",
    "suppress_tokens",
    "begin_suppress_tokens",
    "decoder_start_token_id",
    "sep_token_id",
    "prefix",
    "id2label",
    "label2id",
    "num_labels",
    "problem_type",
    "tf_legacy_loss",
    "return_dict_in_generate",
    "max_window_layers",
    "is_encoder_decoder",
    "add_cross_attention",
    "cross_attention_hidden_size",
    "tie_encoder_decoder",
    "pruned_heads",
    "model_max_length",
    "attention_head_type",
    "predict_special_tokens",
];

/// Keys of [`INERT`] that are so only while they are off.
const MUST_BE_OFF: &[&str] = &[
    "is_encoder_decoder",
    "add_cross_attention",
    "cross_attention_hidden_size",
    "pruned_heads",
];

/// One JSON object and which of its keys have been read.
pub(crate) struct ConfigReader {
    path: PathBuf,
    map: Map<String, Value>,
    /// `rope_scaling.` and the like, before the keys in messages.
    within: String,
    used: RefCell<BTreeSet<String>>,
}

type Result<T> = std::result::Result<T, Error>;

impl ConfigReader {
    pub(crate) fn new(path: &Path, contents: Value) -> Result<Self> {
        let Value::Object(map) = contents else {
            return Err(Error::malformed(path, "expected a JSON object"));
        };
        Ok(Self {
            path: path.into(),
            map,
            within: String::new(),
            used: RefCell::default(),
        })
    }

    /// An error about `key`.
    pub(crate) fn error(&self, key: &str, problem: impl Into<String>) -> Error {
        Error::Config {
            path: self.path.clone(),
            key: format!("{}{key}", self.within),
            problem: problem.into(),
        }
    }

    /// The value, `null` counting as absent.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.used.borrow_mut().insert(key.into());
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// Whether the key is there and not `null`; does not count as reading it.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(|value| !value.is_null())
    }

    /// Whether the key is there, `null` or not; does not count as reading it.
    pub(crate) fn mentions(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// The first of several spellings that is there.
    fn first<'a>(&self, keys: &[&'a str]) -> &'a str {
        for key in keys {
            self.used.borrow_mut().insert((*key).into());
        }
        keys.iter().find(|key| self.has(key)).unwrap_or(&keys[0])
    }

    fn typed<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>> {
        self.get(key)
            .map(|value| {
                read(value).ok_or_else(|| {
                    self.error(key, format!("is {}: expected {expected}", shorten(value)))
                })
            })
            .transpose()
    }

    pub(crate) fn optional_size(&self, key: &str) -> Result<Option<usize>> {
        let expected = format!("a whole number from 1 to {MAX_WIDTH}");
        self.typed(key, &expected, |v| {
            v.as_u64()
                .map(|v| v as usize)
                .filter(|v| (1..=MAX_WIDTH).contains(v))
        })
    }

    /// A size under the first of these keys that is there.
    pub(crate) fn size(&self, keys: &[&str]) -> Result<usize> {
        let key = self.first(keys);
        self.optional_size(key)?
            .ok_or_else(|| self.error(key, "is missing"))
    }

    pub(crate) fn layers(&self, keys: &[&str]) -> Result<usize> {
        let (key, layers) = (self.first(keys), self.size(keys)?);
        match layers {
            1..=MAX_LAYERS => Ok(layers),
            _ => Err(self.error(
                key,
                format!("is {layers}: expected at most {MAX_LAYERS} layers"),
            )),
        }
    }

    pub(crate) fn flag(&self, key: &str, default: bool) -> Result<bool> {
        Ok(self
            .typed(key, "true or false", Value::as_bool)?
            .unwrap_or(default))
    }

    pub(crate) fn number(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a number", Value::as_f64)
    }

    /// A list of numbers, which must be there.
    fn numbers(&self, key: &str) -> Result<Vec<f64>> {
        let numbers = |value: &Value| value.as_array()?.iter().map(Value::as_f64).collect();
        self.typed(key, "a list of numbers", numbers)?
            .ok_or_else(|| self.error(key, "is missing"))
    }

    /// A number above 0.
    pub(crate) fn positive(&self, key: &str, default: f64) -> Result<f64> {
        match self.number(key)? {
            Some(value) if value > 0.0 => Ok(value),
            Some(value) => Err(self.error(key, format!("is {value}: expected a positive number"))),
            None => Ok(default),
        }
    }

    pub(crate) fn text(&self, key: &str) -> Result<Option<String>> {
        self.typed(key, "a text", |v| v.as_str().map(Into::into))
    }

    /// Refuses every value of `key` but this one.
    pub(crate) fn only(&self, key: &str, supported: Value) -> Result<()> {
        match self.get(key) {
            Some(value) if *value != supported => Err(self.error(
                key,
                format!("is {}: only {supported} is supported", shorten(value)),
            )),
            _ => Ok(()),
        }
    }

    /// A token id, or several of them.
    pub(crate) fn token_ids(&self, key: &str) -> Result<Vec<u32>> {
        let id = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = self.typed(key, "a token id or a list of them", |value| match value {
            // -1 stands for "none" in some checkpoints.
            Value::Number(n) if n.as_i64() == Some(-1) => Some(Vec::new()),
            Value::Array(ids) => ids.iter().map(id).collect(),
            one => id(one).map(|id| vec![id]),
        })?;
        Ok(ids.unwrap_or_default())
    }

    pub(crate) fn activation(&self, keys: &[&str], default: &str) -> Result<Activation> {
        let key = self.first(keys);
        let name = self.text(key)?.unwrap_or_else(|| default.into());
        match name.as_str() {
            "silu" | "swish" => Ok(Activation::Silu),
            "gelu" => Ok(Activation::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" | "gelu_python_tanh" => {
                Ok(Activation::GeluTanh)
            }
            "relu" => Ok(Activation::Relu),
            _ => Err(self.error(
                key,
                format!("is `{name}`: expected silu, gelu, gelu_new, gelu_pytorch_tanh or relu"),
            )),
        }
    }

    /// An object within this one, with its own account of keys.
    pub(crate) fn object(&self, key: &str) -> Result<Option<Self>> {
        let map = self.typed(key, "an object", |v| v.as_object().cloned())?;
        let within = format!("{}{key}.", self.within);
        Ok(map.map(|map| Self {
            path: self.path.clone(),
            map,
            within,
            used: RefCell::default(),
        }))
    }

    /// # Errors
    /// A key that nothing has read, that is not known to be inert, and that turns something on.
    pub(crate) fn finish(&self) -> Result<()> {
        let used = self.used.borrow();
        for (key, value) in &self.map {
            let inert = INERT.contains(&key.as_str()) && !MUST_BE_OFF.contains(&key.as_str());
            if !used.contains(key) && !inert && !is_off(value) {
                let problem = format!(
                    "is {}: not supported, and ignoring it could make a wrong model",
                    shorten(value)
                );
                return Err(self.error(key, problem));
            }
        }
        Ok(())
    }

    /// Rotary positions in either form: `rope_theta` and `rope_scaling`, or `rope_parameters`.
    ///
    /// `theta_key` and `partial_key` are the family's spellings of the old form.
    pub(crate) fn rotary(
        &self,
        head_dim: usize,
        theta_key: &str,
        partial_key: &str,
        default_partial: f64,
    ) -> Result<RotaryConfig> {
        let max_positions = self.optional_size("max_position_embeddings")?;
        let old_theta = self.positive(theta_key, 10000.0)?;
        let old_partial = self.number(partial_key)?;
        // As in transformers: the old name wins where both are given, and what stands within wins over what stands beside.
        let (old, new) = (
            self.object("rope_scaling")?,
            self.object("rope_parameters")?,
        );
        let rope = old.or(new);
        let (theta, partial) = match &rope {
            Some(rope) => (
                rope.positive("rope_theta", old_theta)?,
                rope.number("partial_rotary_factor")?.or(old_partial),
            ),
            None => (old_theta, old_partial),
        };
        let partial = partial.unwrap_or(default_partial);
        if !(partial > 0.0 && partial <= 1.0) {
            return Err(self.error(
                partial_key,
                format!("is {partial}: expected more than 0 and at most 1"),
            ));
        }
        let rotary_dim = (head_dim as f64 * partial) as usize;
        if rotary_dim == 0 || !rotary_dim.is_multiple_of(2) {
            return Err(self.error(
                if partial == 1.0 { "head_dim" } else { partial_key },
                format!("rotary positions would turn {rotary_dim} of {head_dim} channels: expected an even number"),
            ));
        }
        let scaling = match rope {
            Some(reader) => reader.rotary_scaling(
                max_positions,
                self.optional_size("original_max_position_embeddings")?,
            )?,
            None => RotaryScaling::None,
        };
        Ok(RotaryConfig {
            rotary_dim,
            rope_theta: theta,
            layout: RotaryLayout::HalfSplit,
            scaling,
        })
    }

    fn rotary_scaling(
        &self,
        max_positions: Option<usize>,
        outer_original: Option<usize>,
    ) -> Result<RotaryScaling> {
        self.used.borrow_mut().insert("type".into());
        let kind = self.first(&["rope_type", "type"]);
        let name = self.text(kind)?.unwrap_or_else(|| "default".into());
        let required = |key: &str| {
            self.number(key)?
                .ok_or_else(|| self.error(key, "is missing"))
        };
        let factor = || {
            let factor = required("factor")?;
            if factor.is_finite() && factor >= 1.0 {
                return Ok(factor);
            }
            Err(self.error("factor", format!("is {factor}: expected at least 1")))
        };
        let original = outer_original.or(self.optional_size("original_max_position_embeddings")?);
        let context = |or: Option<usize>| {
            original
                .or(or)
                .ok_or_else(|| self.error("original_max_position_embeddings", "is missing"))
        };
        let scaling = match name.as_str() {
            "default" => RotaryScaling::None,
            "linear" => RotaryScaling::Linear { factor: factor()? },
            "dynamic" => RotaryScaling::DynamicNtk {
                factor: factor()?,
                // transformers takes the config's own maximum here, whatever else is given.
                original_max_position_embeddings: max_positions
                    .map_or_else(|| context(None), Ok)?,
            },
            "yarn" => {
                let original_max_position_embeddings = context(max_positions)?;
                let factor = match self.has("factor") {
                    true => factor()?,
                    false => {
                        max_positions.unwrap_or(original_max_position_embeddings) as f64
                            / original_max_position_embeddings as f64
                    }
                };
                let computed = RotaryScaling::yarn_attention_factor(
                    factor,
                    self.number("mscale")?,
                    self.number("mscale_all_dim")?,
                );
                RotaryScaling::Yarn {
                    factor,
                    original_max_position_embeddings,
                    beta_fast: self.positive("beta_fast", 32.0)?,
                    beta_slow: self.positive("beta_slow", 1.0)?,
                    attention_factor: self.positive("attention_factor", computed)?,
                    truncate: self.flag("truncate", true)?,
                }
            }
            "llama3" => RotaryScaling::Llama3 {
                factor: factor()?,
                low_freq_factor: required("low_freq_factor")?,
                high_freq_factor: required("high_freq_factor")?,
                original_max_position_embeddings: context(None)?,
            },
            // `su` in older configs.
            "longrope" | "su" => {
                let original_max_position_embeddings = context(max_positions)?;
                let factor = match self.has("factor") {
                    true => factor()?,
                    false => {
                        max_positions.unwrap_or(original_max_position_embeddings) as f64
                            / original_max_position_embeddings as f64
                    }
                };
                let computed = RotaryScaling::longrope_attention_factor(
                    factor,
                    original_max_position_embeddings,
                );
                RotaryScaling::LongRope {
                    short_factor: self.numbers("short_factor")?,
                    long_factor: self.numbers("long_factor")?,
                    original_max_position_embeddings,
                    attention_factor: self.positive("attention_factor", computed)?,
                }
            }
            _ => {
                let problem = format!(
                    "is `{name}`: expected default, linear, dynamic, yarn, longrope or llama3"
                );
                return Err(self.error(kind, problem));
            }
        };
        self.finish()?;
        Ok(scaling)
    }

    /// Which layers have the sliding window, from `layer_types`; `None` where the config has no such list.
    pub(crate) fn layer_types(&self, num_layers: usize) -> Result<Option<Vec<bool>>> {
        let Some(value) = self.get("layer_types") else {
            return Ok(None);
        };
        let Some(types) = value.as_array().filter(|types| types.len() == num_layers) else {
            return Err(self.error(
                "layer_types",
                format!("expected a list of {num_layers} layers"),
            ));
        };
        let sliding = |name: &Value| match name.as_str() {
            Some("sliding_attention") => Ok(true),
            Some("full_attention") => Ok(false),
            _ => Err(self.error(
                "layer_types",
                format!("holds {name}: expected full_attention or sliding_attention"),
            )),
        };
        types.iter().map(sliding).collect::<Result<_>>().map(Some)
    }
}

/// Whether a value stands for the absence of something.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

/// A value as it is shown in a message.
fn shorten(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
