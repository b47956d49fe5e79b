//! Which heads suppress, and how that was found out.

mod anytime;
mod length;
mod merge;
mod normal;
mod rank;
mod settings;
mod stability;

use std::collections::BTreeMap;
use std::path::Path;

use pear_core::files::{Provenance, read_json, write_json};
use pear_core::{Error, HeadId, LayerRange, ModelShape, Result};
use serde::{Deserialize, Serialize};

pub use anytime::AnytimeRecord;
pub use length::LengthScores;
pub(crate) use normal::upper_t_quantile;
pub use rank::RankBy;
pub(crate) use rank::descending;
pub use settings::{Ablation, Method, Metric, Mode, ScoreSettings};
pub use stability::{Gap, Overlap, Rounding, Stability};

/// One head's score.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeadScore {
    /// The head.
    #[serde(flatten)]
    pub head: HeadId,
    /// High: the model predicts the right token better without this head.
    pub score: f64,
    /// Of the score, from the spread over the sequences: the root of the sum of the lengths' squared errors, by their number. Absent
    /// where a length has only one sequence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standard_error: Option<f64>,
    /// Sequences that the head was replaced in, over all lengths, where heads differ in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<usize>,
}

/// A scores file.
///
/// ```
/// use pear_core::{HeadId, ModelShape};
/// use pear_locate::{LengthScores, ScoreSettings, Scores};
///
/// let length = LengthScores {
///     n: 10,
///     samples: 100,
///     base_logit: 14.2,
///     accuracy: 0.93,
///     scores: vec![vec![0.01, 0.02], vec![0.0, 0.08]],
///     standard_errors: None,
///     head_samples: None,
///     available: None,
/// };
/// let scores = Scores::new(ModelShape::new("llama", 2, 2), ScoreSettings::default(), vec![length])?;
/// assert_eq!(scores.top(2), [HeadId::new(1, 1), HeadId::new(0, 1)]);
///
/// let path = std::env::temp_dir().join(format!("pear-scores-{}.json", std::process::id()));
/// scores.write(&path)?;
/// assert_eq!(Scores::read(&path)?, scores);
/// # std::fs::remove_file(&path).unwrap();
/// # Ok::<(), pear_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    format: String,
    version: u32,
    /// The model they belong to.
    pub model: ModelShape,
    /// How they were computed.
    pub settings: ScoreSettings,
    /// The layers whose heads were scored, if not all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    layers: Option<LayerRange>,
    /// Every head, highest score first.
    heads: Vec<HeadScore>,
    /// The same for each length.
    pub by_length: Vec<LengthScores>,
    /// Where they come from.
    #[serde(default)]
    pub provenance: Provenance,
    /// How far they can be trusted, where it was looked into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stability: Option<Stability>,
    /// What was spent and settled, where heads were located within a budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anytime: Option<AnytimeRecord>,
}

impl Scores {
    const FORMAT: &str = "pear-scores";

    /// The plain mean over lengths, ranked; heads of equal score by layer and head.
    ///
    /// # Errors
    /// [`Error::ProxyTask`] if there is no length, or no head.
    ///
    /// # Panics
    /// If a grid of `by_length` is not of the model's shape, layers that were left out excepted: they have no heads, at every length, and
    /// stand below or above all others.
    pub fn new(
        model: ModelShape,
        settings: ScoreSettings,
        by_length: Vec<LengthScores>,
    ) -> Result<Self> {
        if by_length.is_empty() {
            return Err(Error::ProxyTask("scores of no length at all".into()));
        }
        let count = by_length.len() as f64;
        let score = |head: HeadId| {
            by_length
                .iter()
                .map(|l| l.scores[head.layer][head.head])
                .sum::<f64>()
                / count
        };
        let error = |head: HeadId| {
            let squares = by_length
                .iter()
                .map(|l| Some(l.standard_error(head)?.powi(2)));
            Some(squares.sum::<Option<f64>>()?.sqrt() / count)
        };
        let uniform = by_length.iter().all(LengthScores::is_uniform);
        let samples = |head: HeadId| by_length.iter().map(|l| l.head_samples(head)).sum();
        let has_heads = |layer: &usize| !by_length[0].scores[*layer].is_empty();
        let mut with_heads = (0..model.num_layers).filter(has_heads);
        let Some(first) = with_heads.next() else {
            return Err(Error::ProxyTask("scores of no head at all".into()));
        };
        let scored = LayerRange {
            first,
            last: with_heads.next_back().unwrap_or(first),
        };
        let heads = model.heads().filter(|head| scored.contains(head.layer));
        let mut heads: Vec<_> = heads
            .map(|head| HeadScore {
                head,
                score: score(head),
                standard_error: error(head),
                samples: (!uniform).then(|| samples(head)),
            })
            .collect();
        rank(&mut heads);
        let layers = (scored != whole(&model)).then_some(scored);
        let (format, provenance) = (Self::FORMAT.into(), Provenance::new());
        Ok(Self {
            format,
            version: 1,
            model,
            settings,
            layers,
            heads,
            by_length,
            provenance,
            stability: None,
            anytime: None,
        })
    }

    /// The layers whose heads were scored.
    pub fn layers(&self) -> LayerRange {
        self.layers.unwrap_or(whole(&self.model))
    }

    /// Whether layers were left out: such a file is one part of several, to be [merged](Self::merge).
    pub fn is_partial(&self) -> bool {
        self.layers.is_some()
    }

    /// Every head, highest score first.
    pub fn heads(&self) -> &[HeadScore] {
        &self.heads
    }

    /// The scores as a grid, `[layer][head]`; NaN where layers were left out.
    pub fn grid(&self) -> Vec<Vec<f64>> {
        let mut grid = vec![vec![f64::NAN; self.model.num_heads]; self.model.num_layers];
        for scored in &self.heads {
            grid[scored.head.layer][scored.head.head] = scored.score;
        }
        grid
    }

    /// # Errors
    /// [`Error::Io`], or [`Error::Malformed`] for a file that is no scores file, or lists a head twice or beyond the model it names.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let mut scores: Self = read_json(path, Self::FORMAT)?;
        let malformed = |problem: String| Error::Malformed {
            path: path.into(),
            problem,
        };
        scores
            .model
            .check_heads(scores.heads.iter().map(|s| s.head))
            .map_err(|e| malformed(e.to_string()))?;
        let layers = scores.layers();
        if layers.first > layers.last || layers.last >= scores.model.num_layers {
            return Err(malformed(format!(
                "`layers`: {layers}, expected layers of {}",
                scores.model
            )));
        }
        let wrong = |l: &&LengthScores| !l.is_grid(&scores.model, layers);
        if let Some(wrong) = scores.by_length.iter().find(wrong) {
            return Err(malformed(format!(
                "the scores of n = {} are not a grid for {}",
                wrong.n, scores.model
            )));
        }
        scores.check_numbers().map_err(malformed)?;
        rank(&mut scores.heads);
        Ok(scores)
    }

    /// Whether every head is listed, with the mean of its scores at each length; the problem if not.
    fn check_numbers(&self) -> Result<(), String> {
        let errors = self
            .heads
            .iter()
            .map(|head| (head.head, head.standard_error));
        let of_length = |length: &LengthScores| {
            let heads = self.heads.iter().map(|head| head.head);
            heads
                .map(|head| (head, length.standard_error(head)))
                .collect::<Vec<_>>()
        };
        let negative = errors
            .chain(self.by_length.iter().flat_map(of_length))
            .find(|(_, error)| error.is_some_and(|error| error < 0.0));
        if let Some((head, _)) = negative {
            return Err(format!("`standard_error` of head {head}: is negative"));
        }
        if self.by_length.is_empty() {
            return Ok(());
        }
        let means = Self::new(
            self.model.clone(),
            self.settings.clone(),
            self.by_length.clone(),
        )
        .map_err(|e| e.to_string())?;
        let listed: BTreeMap<HeadId, f64> = self
            .heads
            .iter()
            .map(|head| (head.head, head.score))
            .collect();
        for mean in &means.heads {
            let (head, mean) = (mean.head, mean.score);
            let Some(&score) = listed.get(&head) else {
                return Err(format!("`heads`: head {head} is missing"));
            };
            if !mean.is_finite() {
                return Err(format!("the mean score of head {head} is {mean}"));
            }
            if (score - mean).abs() > ROUNDED * mean.abs().max(1.0) {
                return Err(format!(
                    "`score` of head {head}: {score}, but the mean over `by_length` is {mean}"
                ));
            }
        }
        Ok(())
    }

    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        write_json(path, self)
    }
}

/// Listed scores may be rounded: so much may they differ from the means.
const ROUNDED: f64 = 2e-3;

fn whole(model: &ModelShape) -> LayerRange {
    LayerRange {
        first: 0,
        last: model.num_layers.saturating_sub(1),
    }
}

fn rank(heads: &mut [HeadScore]) {
    heads.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.head.cmp(&b.head)));
}
