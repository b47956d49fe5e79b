//! Sliding windows of single layers.

use serde_json::Value;

use super::ConfigReader;
use crate::error::Error;
use crate::layer_config::LayerConfig;

/// What transformers takes for a key that is missing.
pub(super) const DEFAULT_WINDOW: usize = 4096;

/// Gives `window` to the layers that `layer_types` calls sliding or, where the config has no such list, to those that `default` says.
pub(super) fn slide(
    reader: &ConfigReader,
    layers: &mut [LayerConfig],
    window: Option<usize>,
    default: impl Fn(usize, &LayerConfig) -> bool,
) -> Result<(), Error> {
    let types = layer_types(reader, layers.len())?;
    for (index, layer) in layers.iter_mut().enumerate() {
        let slides = match &types {
            Some(types) => types[index],
            None => default(index, layer),
        };
        layer.attention.scores.window = window.filter(|_| slides);
    }
    Ok(())
}

/// `sliding_window` of the families that have one even without the key; `null` is none.
pub(super) fn window_or_default(reader: &ConfigReader) -> Result<Option<usize>, Error> {
    if reader.mentions("sliding_window") {
        reader.optional_size("sliding_window")
    } else {
        Ok(Some(DEFAULT_WINDOW))
    }
}

/// The window of families that have one only with `use_sliding_window`; `default` is theirs where the config does not say.
pub(super) fn window_if_used(
    reader: &ConfigReader,
    default: Option<usize>,
) -> Result<Option<usize>, Error> {
    const KEY: &str = "sliding_window";
    if !reader.flag("use_sliding_window", false)? {
        reader.ignore(&[KEY]);
        return Ok(None);
    }
    if reader.mentions(KEY) {
        reader.optional_size(KEY)
    } else {
        Ok(default)
    }
}

/// `sliding_window`, in every layer.
pub(super) fn slide_everywhere(
    reader: &ConfigReader,
    layers: &mut [LayerConfig],
) -> Result<(), Error> {
    slide_all(layers, reader.optional_size("sliding_window")?);
    Ok(())
}

/// Gives `window` to every layer. Not all families obey `layer_types`.
pub(super) fn slide_all(layers: &mut [LayerConfig], window: Option<usize>) {
    for layer in layers {
        layer.attention.scores.window = window;
    }
}

/// Which layers have the window according to `layer_types`; `None` where the config has no such list.
fn layer_types(reader: &ConfigReader, num_layers: usize) -> Result<Option<Vec<bool>>, Error> {
    const KEY: &str = "layer_types";
    let Some(value) = reader.get(KEY) else {
        return Ok(None);
    };
    let Some(types) = value.as_array().filter(|types| types.len() == num_layers) else {
        return Err(reader.error(KEY, format!("expected a list of {num_layers} layers")));
    };
    let slides = |name: &Value| match name.as_str() {
        Some("sliding_attention") => Ok(true),
        Some("full_attention" | "attention") => Ok(false),
        _ => {
            let problem = format!("holds {name}: expected full_attention or sliding_attention");
            Err(reader.error(KEY, problem))
        }
    };
    types.iter().map(slides).collect::<Result<_, _>>().map(Some)
}
