//! Which heads a sweep replaces.

use pear_core::{HeadId, ModelShape};

use crate::{LocateOptions, Result};

/// Heads to be replaced, layer by layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Selection {
    /// `heads[layer]`, ascending.
    heads: Vec<Vec<usize>>,
    num_heads: usize,
}

impl Selection {
    /// All heads of the layers that the options ask for.
    pub(crate) fn all(shape: &ModelShape, options: &LocateOptions) -> Self {
        let of_layer = |layer| {
            let count = if options.replaces(layer) {
                shape.num_heads
            } else {
                0
            };
            (0..count).collect()
        };
        Self {
            heads: (0..shape.num_layers).map(of_layer).collect(),
            num_heads: shape.num_heads,
        }
    }

    /// These heads alone, in whatever order they are given.
    ///
    /// # Errors
    /// A head that the model does not have, or that is listed twice.
    pub(crate) fn of(shape: &ModelShape, heads: &[HeadId]) -> Result<Self> {
        shape.check_heads(heads.iter().copied())?;
        let mut selection = Self {
            heads: vec![Vec::new(); shape.num_layers],
            num_heads: shape.num_heads,
        };
        for head in heads {
            selection.heads[head.layer].push(head.head);
        }
        selection
            .heads
            .iter_mut()
            .for_each(|layer| layer.sort_unstable());
        Ok(selection)
    }

    /// The heads of a layer, ascending.
    pub(crate) fn layer(&self, layer: usize) -> &[usize] {
        &self.heads[layer]
    }

    /// Every head, layer by layer.
    pub(crate) fn iter(&self) -> impl Iterator<Item = HeadId> {
        self.heads
            .iter()
            .enumerate()
            .flat_map(|(layer, heads)| heads.iter().map(move |&head| HeadId::new(layer, head)))
    }

    /// Replaced heads whose rows go through `layer`: one for each head of this layer and those below.
    pub(crate) fn rows(&self, layer: usize) -> usize {
        self.heads[..=layer].iter().map(Vec::len).sum()
    }

    /// A grid of `of(head)`: the default for heads that are not replaced; no heads at all in layers of which none is.
    pub(crate) fn grid<T: Default>(&self, mut of: impl FnMut(HeadId) -> T) -> Vec<Vec<T>> {
        let of_layer = |(layer, replaced): (usize, &Vec<usize>)| {
            let count = if replaced.is_empty() {
                0
            } else {
                self.num_heads
            };
            let mut row: Vec<T> = (0..count).map(|_| T::default()).collect();
            for &head in replaced {
                row[head] = of(HeadId::new(layer, head));
            }
            row
        };
        self.heads.iter().enumerate().map(of_layer).collect()
    }
}
