//! Sliding windows as the metadata of GGUF files have them.

use serde_json::{Value, json};

use super::keys::{Json, Keys};
use crate::error::Error;

const WINDOW: &str = "attention.sliding_window";
const PATTERN: &str = "attention.sliding_window_pattern";

/// Whether the metadata name a window, or hold something impossible there.
pub(super) fn are_there(keys: &Keys) -> bool {
    !matches!(keys.size(WINDOW), Ok(None | Some(0)))
}

/// Refuses a file without a window, of models whose layers have positions only in a window.
pub(super) fn require(keys: &Keys) -> Result<(), Error> {
    match keys.required(WINDOW)? {
        0 => Err(keys.error(WINDOW, "is 0: expected a window")),
        _ => Ok(()),
    }
}

/// The sliding window, if the file has the key; 0 is none.
pub(super) fn describe(keys: &Keys, json: &mut Json) -> Result<(), Error> {
    if let Some(window) = keys.size(WINDOW)? {
        let window = Some(window).filter(|&window| window != 0);
        json.insert("sliding_window".into(), json!(window));
    }
    Ok(())
}

/// The sliding window, and which layers have it: those of a list, or all but every n-th. Without a window none has.
pub(super) fn describe_with_pattern(keys: &Keys, json: &mut Json) -> Result<(), Error> {
    const KEY: &str = "sliding_window_pattern";
    describe(keys, json)?;
    if json.get("sliding_window").is_none_or(Value::is_null) {
        json.insert("sliding_window".into(), Value::Null);
        json.insert(KEY.into(), 1.into());
        return Ok(());
    }
    let key = keys.key(PATTERN);
    let pattern = keys.metadata.get(&key);
    if pattern.is_some_and(|pattern| pattern.integer().is_some()) {
        json.insert(KEY.into(), json!(keys.size(PATTERN)?));
    } else if let Some(slides) = keys.metadata.flags(&key)? {
        let types = slides.iter().map(|slides| match slides {
            true => "sliding_attention",
            false => "full_attention",
        });
        json.insert("layer_types".into(), types.collect());
    }
    Ok(())
}
