//! Naming a head, and the grid that heads stand in.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// One *query* head: with grouped-query attention several of them share a key/value head. Both indices count from 0.
///
/// Written `layer.head`:
///
/// ```
/// use pear_core::HeadId;
/// let head: HeadId = "26.28".parse()?;
/// assert_eq!(head, HeadId::new(26, 28));
/// assert_eq!(head.to_string(), "26.28");
/// assert!("26".parse::<HeadId>().is_err());
/// # Ok::<(), pear_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HeadId {
    /// The layer, 0 being the one next to the embedding.
    pub layer: usize,
    /// The query head in that layer.
    pub head: usize,
}

impl HeadId {
    /// Head `head` of layer `layer`.
    pub const fn new(layer: usize, head: usize) -> Self {
        Self { layer, head }
    }
}

impl fmt::Display for HeadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.layer, self.head)
    }
}

impl FromStr for HeadId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parse = || {
            let (layer, head) = text.trim().split_once('.')?;
            Some(Self::new(layer.parse().ok()?, head.parse().ok()?))
        };
        parse().ok_or_else(|| Error::NotAHead(text.into()))
    }
}

/// Inclusive layer range. Written `first-last`, or as the number of a single layer.
///
/// ```
/// use pear_core::LayerRange;
/// let layers: LayerRange = "4-7".parse()?;
/// assert_eq!((layers.first, layers.last), (4, 7));
/// assert_eq!("5".parse::<LayerRange>()?.to_string(), "5");
/// assert!("7-4".parse::<LayerRange>().is_err());
/// # Ok::<(), pear_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRange {
    /// The first layer, inclusive.
    pub first: usize,
    /// The last layer, inclusive.
    pub last: usize,
}

impl LayerRange {
    /// Whether `layer` is in the range.
    pub fn contains(self, layer: usize) -> bool {
        (self.first..=self.last).contains(&layer)
    }

    /// The layers in ascending order.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        self.first..=self.last
    }
}

impl fmt::Display for LayerRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

impl FromStr for LayerRange {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parse = || {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            let range = Self {
                first: first.trim().parse().ok()?,
                last: last.trim().parse().ok()?,
            };
            (range.first <= range.last).then_some(range)
        };
        parse().ok_or_else(|| Error::NotLayers(text.into()))
    }
}

/// The grid of heads that a file of scores or coefficients belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelShape {
    /// The family, by its `model_type` (`llama`, `bloom`, …); for a model of your own, any name.
    pub architecture: String,
    /// Number of layers (`num_hidden_layers`).
    pub num_layers: usize,
    /// Number of query heads in each layer (`num_attention_heads`).
    pub num_heads: usize,
}

impl ModelShape {
    /// A grid of `num_layers` × `num_heads` heads.
    pub fn new(architecture: impl Into<String>, num_layers: usize, num_heads: usize) -> Self {
        Self {
            architecture: architecture.into(),
            num_layers,
            num_heads,
        }
    }

    /// Every head, layer by layer.
    pub fn heads(&self) -> impl Iterator<Item = HeadId> + use<> {
        let num_heads = self.num_heads;
        (0..self.num_layers)
            .flat_map(move |layer| (0..num_heads).map(move |head| HeadId::new(layer, head)))
    }

    /// # Errors
    /// [`Error::HeadOutOfRange`] or [`Error::DuplicateHead`], for the first head at fault.
    pub fn check_heads(&self, heads: impl IntoIterator<Item = HeadId>) -> Result<()> {
        let mut seen = BTreeSet::new();
        for head in heads {
            if head.layer >= self.num_layers || head.head >= self.num_heads {
                return Err(Error::HeadOutOfRange {
                    head,
                    num_layers: self.num_layers,
                    num_heads: self.num_heads,
                });
            }
            if !seen.insert(head) {
                return Err(Error::DuplicateHead(head));
            }
        }
        Ok(())
    }

    /// # Errors
    /// [`Error::ShapeMismatch`] if `found`, the shape named in a file, is not this one.
    pub fn check_same(&self, found: &Self) -> Result<()> {
        if self == found {
            return Ok(());
        }
        Err(Error::ShapeMismatch {
            expected: self.clone(),
            found: found.clone(),
        })
    }
}

impl fmt::Display for ModelShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} with {} layers of {} heads",
            self.architecture, self.num_layers, self.num_heads
        )
    }
}
