//! What to replace heads by, what is recomputed, and how runs are compared.

use pear_core::LayerRange;
use serde::{Deserialize, Serialize};

use crate::{Ablation, Method, Metric, Mode, RankBy, ScoreSettings};

/// How heads are located. The default is the paper's text; [`as_published`](Self::as_published) is the paper's code.
///
/// ```
/// use pear_locate::{Ablation, LocateOptions, Metric, Mode};
/// let options = LocateOptions { metric: Metric::LogitDiff, ..LocateOptions::default() };
/// assert_eq!((options.mode, options.ablation), (Mode::Activation, Ablation::SequenceMean));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LocateOptions {
    /// What is recomputed downstream of the replaced head.
    pub mode: Mode,
    /// What a head's output is replaced by.
    pub ablation: Ablation,
    /// How runs are compared.
    pub metric: Metric,
    /// How effects are found. [`Method::Attribution`] is an estimate, at the cost of a run and a gradient of the patched position.
    pub method: Method,
    /// The layers whose heads are replaced; all if `None`. What is left out saves its part of the work: the sequences themselves go
    /// through all layers.
    pub layers: Option<LayerRange>,
    /// What heads are ranked by; it changes no score.
    pub rank_by: RankBy,
    /// Bytes that tensors may take besides the model. Less makes the sweep slower in small steps, never different; one sequence
    /// and one chunk of it are always taken, even where they exceed it. The estimate is explained at
    /// [`DEFAULT_MEMORY_BUDGET`](Self::DEFAULT_MEMORY_BUDGET).
    pub memory_budget: usize,
}

impl LocateOptions {
    /// 1 GiB.
    ///
    /// A sequence is taken to need `4 · (seq · (32 · hidden + 3 · heads · seq) + layers · heads · hidden)` bytes: a layer's
    /// intermediate results (32 times the hidden width a position covers an MLP six times as wide) and scores at every position,
    /// and the residual stream of every replaced head. As many sequences run together as fit; replaced heads move through a
    /// layer `seq` of each sequence at a time. Logits of the whole vocabulary, where needed, are computed for
    /// `budget / (16 · vocabulary)` positions at once.
    ///
    /// Where a model makes [layers on demand](pear_core::DecoderModel::layers_on_demand), a quarter of the budget is for these, and three
    /// quarters for sequences that wait between two layers, `4 · hidden · (seq + layers · heads)` bytes each; in half precision they take
    /// half of that. Rows are not moved to disk: where they do not fit, the layers are made once more for the rest of the sequences
    /// ([`readings_of_layers`](crate::readings_of_layers)), which reads their weights again and computes nothing twice.
    pub const DEFAULT_MEMORY_BUDGET: usize = 1 << 30;

    /// What the paper's authors compute with their code: batch means, path patching, centred logits, ranked by score.
    pub fn as_published() -> Self {
        Self {
            mode: Mode::Path,
            ablation: Ablation::BatchMean,
            metric: Metric::CentredLogitDiff,
            rank_by: RankBy::Score,
            ..Self::default()
        }
    }

    /// Whether the heads of `layer` are replaced.
    pub(crate) fn replaces(&self, layer: usize) -> bool {
        self.layers.is_none_or(|layers| layers.contains(layer))
    }

    /// What a scores file says about them, and about sequences drawn with `seed`.
    pub fn settings(&self, seed: Option<u64>) -> ScoreSettings {
        ScoreSettings {
            mode: self.mode,
            ablation: self.ablation,
            metric: self.metric,
            seed: seed.unwrap_or_default(),
            method: self.method,
            rank_by: self.rank_by,
        }
    }
}

impl Default for LocateOptions {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            ablation: Ablation::default(),
            metric: Metric::default(),
            method: Method::default(),
            layers: None,
            rank_by: RankBy::default(),
            memory_budget: Self::DEFAULT_MEMORY_BUDGET,
        }
    }
}
