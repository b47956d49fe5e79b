//! The lists of modules that are not quantised, which every format's settings have, with some more modules.

use serde_json::{Map, Value, json};

use super::settings::Method;

/// Adds modules to the list that engines read.
///
/// Where there was no list, transformers leaves out the unembedding by default, and with a list only what it names: a new list names it.
pub(super) fn exclude(method: Method, settings: &mut Map<String, Value>, modules: &[&str]) {
    match method {
        Method::Gptq => exclude_by_pattern(settings, modules),
        Method::Awq => extend(settings, "modules_to_not_convert", &[], modules),
        Method::CompressedTensors => extend(settings, "ignore", &[], modules),
        Method::BitsAndBytes => extend(settings, "llm_int8_skip_modules", &["lm_head"], modules),
        Method::Fp8 => {
            // Engines differ in which of the two counts if both are there.
            let has = |key: &str| settings.get(key).is_some_and(Value::is_array);
            let keys = ["modules_to_not_convert", "ignored_layers"];
            let present: Vec<&str> = keys.into_iter().filter(|key| has(key)).collect();
            if present.is_empty() {
                extend(settings, keys[0], &["lm_head"], modules);
            }
            for key in present {
                extend(settings, key, &[], modules);
            }
        }
    }
}

/// Appends to a list, which begins with `default` where there is none.
fn extend(settings: &mut Map<String, Value>, key: &str, default: &[&str], modules: &[&str]) {
    let list = settings.entry(key).or_insert(Value::Null);
    if !list.is_array() {
        *list = json!(default);
    }
    if let Value::Array(list) = list {
        list.extend(modules.iter().map(|module| json!(module)));
    }
}

/// GPTQ's `dynamic`: patterns with the settings of the modules whose names begin so, or with `-:` before them for modules that are not
/// quantised.
fn exclude_by_pattern(settings: &mut Map<String, Value>, modules: &[&str]) {
    let patterns = settings.entry("dynamic").or_insert(Value::Null);
    if !patterns.is_object() {
        *patterns = json!({});
    }
    if let Value::Object(patterns) = patterns {
        for module in modules {
            let pattern = format!("-:^{}$", regex::escape(module));
            patterns.insert(pattern, json!({}));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excluded(method: Method, settings: Value) -> Value {
        let Value::Object(mut settings) = settings else {
            panic!("{settings}")
        };
        exclude(method, &mut settings, &["model.layers.0.self_attn.o_proj"]);
        Value::Object(settings)
    }

    #[test]
    fn each_format_has_its_own_list() {
        let name = "model.layers.0.self_attn.o_proj";
        assert_eq!(
            excluded(Method::Gptq, json!({"bits": 4})),
            json!({"bits": 4, "dynamic": {r"-:^model\.layers\.0\.self_attn\.o_proj$": {}}})
        );
        assert_eq!(
            excluded(Method::Awq, json!({"modules_to_not_convert": null})),
            json!({"modules_to_not_convert": [name]})
        );
        assert_eq!(
            excluded(Method::CompressedTensors, json!({"ignore": ["lm_head"]})),
            json!({"ignore": ["lm_head", name]})
        );
        assert_eq!(
            excluded(Method::BitsAndBytes, json!({})),
            json!({"llm_int8_skip_modules": ["lm_head", name]})
        );
    }

    #[test]
    fn of_the_two_lists_of_fp8_those_that_are_there_grow() {
        let name = "model.layers.0.self_attn.o_proj";
        assert_eq!(
            excluded(Method::Fp8, json!({})),
            json!({"modules_to_not_convert": ["lm_head", name]})
        );
        assert_eq!(
            excluded(Method::Fp8, json!({"ignored_layers": ["a"]})),
            json!({"ignored_layers": ["a", name]})
        );
        assert_eq!(
            excluded(
                Method::Fp8,
                json!({"ignored_layers": [], "modules_to_not_convert": ["a"]})
            ),
            json!({"ignored_layers": [name], "modules_to_not_convert": ["a", name]})
        );
    }
}
