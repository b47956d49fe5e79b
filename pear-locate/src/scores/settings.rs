//! How scores are computed.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::RankBy;

/// What is recomputed downstream of the replaced head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Everything downstream: activation patching.
    #[default]
    Activation,
    /// Norms and MLPs on the residual stream only; all other heads keep their outputs. Path patching to the logits.
    Path,
}

/// What a head's output is replaced by at the patched position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Ablation {
    /// The mean of its own output over all positions of the same sequence.
    #[default]
    SequenceMean,
    /// The mean of its output at the patched position over the samples.
    BatchMean,
    /// Zero.
    Zero,
}

/// How clean and patched run are compared. `π` is the logit of the right token in the clean run, `π̃` in the patched one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Metric {
    /// `mean(π̃) / mean(π) − 1`, the paper's.
    #[default]
    LogitRatio,
    /// `mean(π̃ − π)`.
    LogitDiff,
    /// `mean(π̃ − π)`, the mean logit over the vocabulary subtracted from each first.
    CentredLogitDiff,
    /// `mean(log p̃ − log p)` of the right token.
    LogProbDiff,
}

impl Metric {
    /// Whether something is subtracted from each logit first, which takes the logits of the whole vocabulary.
    pub fn has_normalizers(self) -> bool {
        matches!(self, Self::CentredLogitDiff | Self::LogProbDiff)
    }
}

macro_rules! display_as_in_files {
    ($($type:ty),*) => {$(
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.serialize(f)
            }
        }
    )*};
}
display_as_in_files!(Mode, Ablation, Metric, Method);

/// How the effect of replacing a head is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Method {
    /// By replacing it.
    #[default]
    Exact,
    /// To first order, from the gradient by its output: attribution patching.
    Attribution,
    /// Not by replacing it at all: the gradient of the proxy loss by the factor that scales it, at 1. Mode, ablation and metric do not
    /// apply.
    Gradient,
}

impl Method {
    pub(super) fn is_exact(&self) -> bool {
        *self == Self::Exact
    }
}

/// How scores were computed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScoreSettings {
    /// What was recomputed downstream.
    pub mode: Mode,
    /// What a head's output was replaced by.
    pub ablation: Ablation,
    /// How runs were compared.
    pub metric: Metric,
    /// Seed that the proxy sequences were drawn with; 0 for sequences that were given, which the provenance tells apart.
    pub seed: u64,
    /// How effects were found.
    #[serde(default, skip_serializing_if = "Method::is_exact")]
    pub method: Method,
    /// What heads are ranked by; by score in files that do not say so.
    #[serde(default = "RankBy::score", skip_serializing_if = "RankBy::is_score")]
    pub rank_by: RankBy,
}
