//! The coefficients of a model's heads, and how they were learned.

use std::collections::BTreeMap;
use std::path::Path;

use burn::prelude::*;
use serde::{Deserialize, Serialize};

use crate::coefficients::HeadCoefficients;
use crate::files::Provenance;
use crate::head::{HeadId, ModelShape};
use crate::{Error, Result};

/// One head's coefficient.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Coefficient {
    /// The head.
    #[serde(flatten)]
    pub head: HeadId,
    /// What its output is multiplied by.
    pub value: f32,
    /// The score it was chosen for, where it was found by one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
}

/// How coefficients were learned.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainingRecord {
    /// The proxy loss before each step.
    pub loss: Vec<f64>,
    /// Steps taken.
    pub steps: usize,
    /// Sequences a step.
    pub batch_size: usize,
    /// Tokens repeated in a sequence (n).
    pub length: usize,
    /// The highest learning rate.
    pub learning_rate: f64,
    /// Steps in which the learning rate rose to it.
    #[serde(default)]
    pub warmup_steps: usize,
    /// How it fell afterwards: `linear`, `cosine`, `constant`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// Pull towards 1.
    #[serde(default)]
    pub weight_decay: f64,
    /// Norm that gradients were scaled down to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_norm: Option<f64>,
    /// Bounds of the coefficients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clamp: Option<(f64, f64)>,
    /// Weight of the divergence on plain text in the objective.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub kl_weight: f64,
    /// Price of a coefficient's distance from 1 in the objective.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub sparsity: f64,
    /// The divergence on plain text before each step, in nats a position, where it was in the objective.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kl: Vec<f64>,
    /// Pieces of plain text a step, where they were read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_batch_size: Option<usize>,
    /// Fingerprint of the token ids of these pieces and the order they were drawn in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Seed of the sequences, where they were drawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Measurements on sequences that nothing was learned from: steps done, and the loss then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held_out: Vec<(usize, f64)>,
    /// Steps after which that loss was lowest, where the coefficients are those of then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best_step: Option<usize>,
    /// Loss on sequences that nothing was learned from, before and after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out_loss: Option<(f64, f64)>,
    /// Perplexity of a plain text, before and after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_perplexity: Option<(f64, f64)>,
}

fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

/// A profile file: heads that are not listed have coefficient 1.
///
/// ```
/// use burn::prelude::*;
/// use pear_core::{HeadCoefficients, HeadId, ModelShape, Profile};
///
/// let (device, shape) = (Device::flex(), ModelShape::new("llama", 2, 4));
/// let coefficients = HeadCoefficients::new(&[(HeadId::new(1, 3), 0.62)], &shape, &device)?;
/// let path = std::env::temp_dir().join(format!("pear-profile-{}.json", std::process::id()));
/// Profile::new(&coefficients, None)?.write(&path)?;
///
/// let profile = Profile::read(&path)?;
/// assert_eq!(profile.for_model(&shape, &device)?.values(), [0.62]);
/// assert!(profile.for_model(&ModelShape::new("llama", 3, 4), &device).is_err());
/// # std::fs::remove_file(&path).unwrap();
/// # Ok::<(), pear_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    format: String,
    version: u32,
    /// The model it is for.
    pub model: ModelShape,
    /// The re-weighted heads.
    pub coefficients: Vec<Coefficient>,
    /// How they were learned, if they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<TrainingRecord>,
    /// Where they come from.
    #[serde(default)]
    pub provenance: Provenance,
}

impl Profile {
    const FORMAT: &str = "pear-profile";

    /// A profile of these coefficients, for models of their shape.
    ///
    /// # Errors
    /// A coefficient that is not finite.
    pub fn new(coefficients: &HeadCoefficients, training: Option<TrainingRecord>) -> Result<Self> {
        let heads = coefficients.heads().into_iter().zip(coefficients.values());
        let profile = Self {
            format: Self::FORMAT.into(),
            version: 1,
            model: coefficients.shape().clone(),
            coefficients: heads
                .map(|(head, value)| Coefficient {
                    head,
                    value,
                    score: None,
                })
                .collect(),
            training,
            provenance: Provenance::new(),
        };
        profile.check()?;
        Ok(profile)
    }

    /// Notes the scores that heads were chosen for.
    pub fn with_scores(mut self, scores: impl IntoIterator<Item = (HeadId, f64)>) -> Self {
        let scores: BTreeMap<HeadId, f64> = scores.into_iter().collect();
        for coefficient in &mut self.coefficients {
            coefficient.score = scores.get(&coefficient.head).copied();
        }
        self
    }

    /// The coefficients, fixed, for a model of this shape.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] if the profile was made for another.
    pub fn for_model(&self, model: &ModelShape, device: &Device) -> Result<HeadCoefficients> {
        model.check_same(&self.model)?;
        let pairs: Vec<_> = self
            .coefficients
            .iter()
            .map(|c| (c.head, c.value))
            .collect();
        HeadCoefficients::new(&pairs, model, device)
    }

    /// # Errors
    /// [`Error::Io`], or [`Error::Malformed`] for a file that is no profile, lists a head twice or beyond the model it names, or
    /// holds a value that is not finite.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let profile: Self = super::read_json(path, Self::FORMAT)?;
        profile.check().map_err(|e| Error::Malformed {
            path: path.into(),
            problem: e.to_string(),
        })?;
        Ok(profile)
    }

    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        super::write_json(path, self)
    }

    /// # Errors
    /// [`Error::ShapeMismatch`] for another shape of model than this profile's; a head that the model does not have or that is listed
    /// twice; a coefficient that is not finite.
    pub fn check_for(&self, model: &ModelShape) -> Result<()> {
        model.check_same(&self.model)?;
        self.check()
    }

    fn check(&self) -> Result<()> {
        self.model
            .check_heads(self.coefficients.iter().map(|c| c.head))?;
        match self.coefficients.iter().find(|c| !c.value.is_finite()) {
            Some(c) => Err(Error::CoefficientNotFinite {
                head: c.head,
                value: f64::from(c.value),
            }),
            None => Ok(()),
        }
    }
}
