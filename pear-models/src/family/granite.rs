//! Granite: Llama with factors on embeddings, scores, branches and logits.

use super::{ConfigReader, Family, llama};
use crate::config::DecoderConfig;
use crate::error::Error;
use crate::layer_config::LayerConfig;

pub(super) const FAMILY: Family = Family {
    model_type: "granite",
    configure,
    ..llama::FAMILY
};

/// The factors.
pub(super) fn configure(
    reader: &ConfigReader,
    config: &mut DecoderConfig,
    layer: &mut LayerConfig,
) -> Result<(), Error> {
    let unless_one = |factor: f64| Some(factor).filter(|&factor| factor != 1.0);
    layer.attention.scores.scale = Some(reader.positive("attention_multiplier", 1.0)?);
    layer.residual_scale = unless_one(reader.positive("residual_multiplier", 1.0)?);
    config.embedding_scale = unless_one(reader.positive("embedding_multiplier", 1.0)?);
    config.logit_scale = unless_one(reader.positive("logits_scaling", 1.0)?.recip());
    Ok(())
}
