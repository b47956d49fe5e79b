//! Which models have code of their own: what the class names under `architectures` tell.

use serde_json::Value;

use super::ignored::escape;
use super::reader::{ConfigReader, Result};
use super::supported_model_types;

/// First words of class names that are not a `model_type`: Falcon's first ones, and wrappers that leave the model as it is.
const OTHER_NAMES: &[&str] = &[
    "rw",
    "automodel",
    "peftmodel",
    "optimizedmodule",
    "distributeddataparallel",
];

/// Parts of the names of classes in which tokens see the whole text.
const NOT_CAUSAL: &[&str] = &["encoder", "bidirec", "formntp"];

/// Refuses classes that are not named after a family of transformers: their code can compute anything. `auto_map` alone is no reason: it
/// mostly points at a copy of code that has become part of transformers.
pub(super) fn refuse_custom_code(reader: &ConfigReader) -> Result<()> {
    const KEY: &str = "architectures";
    let names = match reader.get(KEY) {
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        Some(Value::String(name)) => vec![name.as_str()],
        _ => Vec::new(),
    };
    for name in names {
        let class = letters(name);
        if NOT_CAUSAL.iter().any(|part| class.contains(part)) {
            let problem = format!("is `{}`: only causal decoders are supported", escape(name));
            return Err(reader.error(KEY, problem));
        }
        let mut families = supported_model_types().map(letters);
        if !families.any(|family| class.starts_with(&family))
            && !OTHER_NAMES.iter().any(|other| class.starts_with(other))
        {
            let problem = format!(
                "is `{}`: code of its own may compute something else than its model_type; if it does not, put the class of transformers \
                 there",
                escape(name)
            );
            return Err(reader.error(KEY, problem));
        }
    }
    Ok(())
}

/// A name without what is spelled in several ways: `GPTNeoXForCausalLM` and `gpt_neox` begin alike.
fn letters(name: &str) -> String {
    let kept = name.chars().filter(char::is_ascii_alphanumeric);
    kept.map(|letter| letter.to_ascii_lowercase()).collect()
}
