//! Sliding windows of single layers.

use pear_core::position::PositionEmbeddingConfig;
use serde_json::Value;

use super::ConfigReader;
use super::rotary::RotaryKeys;
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

/// The layers that `layer_types` calls sliding or, where the config has no such list, all but every `sliding_window_pattern`th.
pub(super) fn all_but_every(
    reader: &ConfigReader,
    num_layers: usize,
    default_pattern: usize,
) -> Result<Vec<bool>, Error> {
    const KEY: &str = "sliding_window_pattern";
    if let Some(types) = layer_types(reader, num_layers)? {
        reader.ignore(&[KEY]);
        return Ok(types);
    }
    let pattern = reader.optional_size(KEY)?.unwrap_or(default_pattern);
    let slides = |number: usize| !number.is_multiple_of(pattern);
    Ok((1..=num_layers).map(slides).collect())
}

/// Gives each layer the rotary positions of its type, and those that slide a window.
pub(super) fn slide_and_rotate(
    reader: &ConfigReader,
    layers: &mut [LayerConfig],
    default_pattern: usize,
    (full, sliding): (&RotaryKeys, &RotaryKeys),
) -> Result<(), Error> {
    let window = window_or_default(reader)?;
    let head_dim = layers[0].attention.head_dim;
    let [full, sliding] = reader.rotary_by_layer_type(head_dim, full, sliding)?;
    let slides = all_but_every(reader, layers.len(), default_pattern)?;
    for (layer, slides) in layers.iter_mut().zip(slides) {
        let rotary = if slides { &sliding } else { &full };
        layer.attention.position_embedding = PositionEmbeddingConfig::Rotary(rotary.clone());
        layer.attention.scores.window = window.filter(|_| slides);
    }
    Ok(())
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
