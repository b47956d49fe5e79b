//! Mistral ([arXiv 2310.06825](https://arxiv.org/abs/2310.06825)): Llama with a sliding window.

use super::windows::{slide, window_or_default};
use super::{Family, llama};

pub(super) const FAMILY: Family = Family {
    model_type: "mistral",
    configure_layers: |reader, layers| {
        let window = window_or_default(reader)?;
        slide(reader, layers, window, |_, _| true)
    },
    ..llama::FAMILY
};
