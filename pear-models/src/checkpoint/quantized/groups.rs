//! The `config_groups` of compressed-tensors: which scheme quantises which modules.

use regex::Regex;
use serde_json::Value;

use super::float8::block_of;
use super::settings::Settings;
use crate::error::Error;

/// Ways of storing weights that are read.
const FORMATS: [&str; 5] = [
    "pack-quantized",
    "int-quantized",
    "float-quantized",
    "naive-quantized",
    "mixed-precision",
];

/// How the weights of some modules are quantised.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Scheme {
    pub bits: usize,
    pub is_float: bool,
    pub symmetric: bool,
    pub strategy: Strategy,
}

/// What shares a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strategy {
    Tensor,
    /// All inputs of an output.
    Channel,
    /// So many inputs of an output.
    Group(usize),
    /// So many outputs and inputs.
    Block([usize; 2]),
}

/// What a scheme applies to.
#[derive(Debug)]
enum Target {
    /// Modules of these names.
    Name(Regex),
    /// Modules of a class; all that hold a matrix are `Linear`.
    Class,
}

/// All schemes.
#[derive(Debug)]
pub(super) struct Schemes(Vec<(Vec<Target>, Scheme)>);

impl Schemes {
    /// # Errors
    /// Schemes that cannot be read.
    pub(super) fn new(settings: &Settings) -> Result<Self, Error> {
        check_format(settings, "format", settings.get("format"))?;
        if settings.fills("transform_config") {
            let problem = "is there: activations would have to be rotated; use a checkpoint that was quantised without transforms";
            return Err(settings.error("transform_config", problem));
        }
        let sparsity = settings
            .get("sparsity_config")
            .and_then(|sparsity| sparsity["format"].as_str());
        if let Some(format) = sparsity.filter(|format| *format != "dense") {
            let problem = format!(
                "is `{format}`: sparse weights cannot be read; use a checkpoint in the format dense"
            );
            return Err(settings.error("sparsity_config.format", problem));
        }
        let Some(groups) = settings.get("config_groups").and_then(Value::as_object) else {
            return Err(settings.error("config_groups", "is missing"));
        };
        let mut schemes = Vec::new();
        for (name, group) in groups {
            let fail = |key: &str, problem: String| {
                settings.error(&format!("config_groups.{name}.{key}"), problem)
            };
            check_format(
                settings,
                &format!("config_groups.{name}.format"),
                group.get("format"),
            )?;
            if group["weights"].is_null() {
                continue;
            }
            let scheme = Scheme::new(&group["weights"])
                .map_err(|(key, problem)| fail(&format!("weights.{key}"), problem))?;
            let targets = targets(&group["targets"]).map_err(|problem| fail("targets", problem))?;
            schemes.push((targets, scheme));
        }
        Ok(Self(schemes))
    }

    /// The scheme of a module: the first that names it, or else the first for modules of its class.
    pub(super) fn of(&self, module: &str) -> Option<&Scheme> {
        let find = |applies: &dyn Fn(&Target) -> bool| {
            let mut schemes = self.0.iter();
            schemes.find(|(targets, _)| targets.iter().any(applies))
        };
        find(&|target| matches!(target, Target::Name(name) if name.is_match(module)))
            .or_else(|| find(&|target| matches!(target, Target::Class)))
            .map(|(_, scheme)| scheme)
    }
}

impl Scheme {
    /// # Errors
    /// The key that is wrong and what is wrong with it.
    fn new(weights: &Value) -> Result<Self, (&'static str, String)> {
        let is_float = match weights["type"].as_str() {
            Some("int") | None => false,
            Some("float") => true,
            Some(other) => return Err(("type", format!("is `{other}`: expected int or float"))),
        };
        let bits = match (weights["num_bits"].as_u64(), is_float) {
            (Some(bits @ (2 | 4 | 8)), false) | (Some(bits @ 8), true) => bits as usize,
            _ => {
                let expected = if is_float {
                    "8, for floats"
                } else {
                    "2, 4 or 8"
                };
                return Err((
                    "num_bits",
                    format!("is {}: expected {expected}", weights["num_bits"]),
                ));
            }
        };
        let group_size = weights["group_size"].as_i64();
        let size = group_size
            .and_then(|size| usize::try_from(size).ok())
            .filter(|&size| size > 0);
        let strategy = match (weights["strategy"].as_str(), size) {
            (Some("tensor"), _) => Strategy::Tensor,
            (Some("channel"), _) => Strategy::Channel,
            (Some("group") | None, Some(size)) => Strategy::Group(size),
            (None, None) if group_size == Some(-1) => Strategy::Channel,
            (None, None) => Strategy::Tensor,
            (Some("block"), _) => {
                Strategy::Block(block_of(&weights["block_structure"]).ok_or((
                    "block_structure",
                    "is no list of two positive numbers".to_owned(),
                ))?)
            }
            (Some("group"), None) => {
                return Err(("group_size", "is no positive number".into()));
            }
            (Some(other), _) => {
                let problem = format!("is `{other}`: expected tensor, channel, group or block");
                return Err(("strategy", problem));
            }
        };
        Ok(Self {
            bits,
            is_float,
            symmetric: weights["symmetric"].as_bool().unwrap_or(true),
            strategy,
        })
    }
}

fn check_format(settings: &Settings, key: &str, format: Option<&Value>) -> Result<(), Error> {
    match format.and_then(Value::as_str) {
        Some(format) if !FORMATS.contains(&format) => {
            let problem = format!(
                "is `{format}`: expected {}; use a checkpoint in one of these formats, or the unquantised one",
                FORMATS.join(", ")
            );
            Err(settings.error(key, problem))
        }
        _ => Ok(()),
    }
}

/// The targets of a scheme. `re:` stands before a pattern that a name begins with.
fn targets(list: &Value) -> Result<Vec<Target>, String> {
    let Some(list) = list.as_array() else {
        return Err("is no list".into());
    };
    let target = |target: &Value| {
        let text = target
            .as_str()
            .ok_or_else(|| format!("holds {target}, expected texts"))?;
        let pattern = match text.strip_prefix("re:") {
            Some(pattern) => format!("^(?:{pattern})"),
            None if !text.contains('.') && text.starts_with(char::is_uppercase) => {
                return Ok(Target::Class);
            }
            None => format!("^{}$", regex::escape(text)),
        };
        let pattern = Regex::new(&pattern)
            .map_err(|_| format!("holds `{text}`: a pattern that cannot be read"))?;
        Ok(Target::Name(pattern))
    };
    list.iter().map(target).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_scheme_that_names_a_module_comes_before_one_for_its_class() {
        let scheme =
            |bits: u64| Scheme::new(&json!({"num_bits": bits, "strategy": "channel"})).unwrap();
        let schemes = Schemes(vec![
            (targets(&json!(["Linear"])).unwrap(), scheme(4)),
            (targets(&json!([r"re:.*\.down_proj"])).unwrap(), scheme(8)),
            (
                targets(&json!(["model.layers.0.self_attn.q_proj"])).unwrap(),
                scheme(2),
            ),
        ]);
        let bits = |module: &str| schemes.of(module).unwrap().bits;
        assert_eq!(bits("model.layers.3.mlp.up_proj"), 4);
        assert_eq!(bits("model.layers.3.mlp.down_proj"), 8);
        assert_eq!(bits("model.layers.0.self_attn.q_proj"), 2);
        assert_eq!(bits("model.layers.0.self_attn.q_proj2"), 4);
    }

    #[test]
    fn schemes_that_cannot_be_read_are_named_by_their_key() {
        for (weights, key) in [
            (json!({"num_bits": 4, "type": "float"}), "num_bits"),
            (json!({"num_bits": 3}), "num_bits"),
            (json!({"num_bits": 8, "type": "fp"}), "type"),
            (json!({"num_bits": 8, "strategy": "token"}), "strategy"),
            (
                json!({"num_bits": 8, "strategy": "group", "group_size": -1}),
                "group_size",
            ),
            (
                json!({"num_bits": 8, "strategy": "block", "block_structure": [0, 1]}),
                "block_structure",
            ),
        ] {
            assert_eq!(Scheme::new(&weights).unwrap_err().0, key, "{weights}");
        }
    }
}
