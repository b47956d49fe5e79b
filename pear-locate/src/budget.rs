//! How much is computed at once.

use std::ops::Range;

use pear_core::proxy::ProxyBatch;
use pear_core::{DecoderModel, ModelShape};

use crate::LocateOptions;
use crate::selection::Selection;

/// Sizes of the steps that a batch is worked off in; see
/// [`LocateOptions::DEFAULT_MEMORY_BUDGET`](crate::LocateOptions::DEFAULT_MEMORY_BUDGET) for the estimate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Sequences that run together.
    pub samples: usize,
    /// Positions whose logits over the whole vocabulary are held together.
    pub logit_rows: usize,
}

impl Plan {
    pub(crate) fn new(sizes: &Sizes, batch: &ProxyBatch, budget: usize) -> Self {
        let budget = if sizes.layers_on_demand {
            budget - waiting(budget)
        } else {
            budget
        };
        let Sizes { hidden, .. } = *sizes;
        let (num_layers, num_heads) = (sizes.shape.num_layers, sizes.shape.num_heads);
        let position = 32 * hidden + 3 * num_heads * batch.seq_len();
        let sample = 4 * (batch.seq_len() * position + num_layers * num_heads * hidden);
        let fits = (budget / sample).clamp(1, batch.len());
        // Steps of equal size: 60 sequences of which 40 fit go as 30 and 30.
        let samples = batch.len().div_ceil(batch.len().div_ceil(fits));
        Self {
            samples,
            logit_rows: (budget / (16 * sizes.vocab).max(1)).max(1),
        }
    }

    /// The sequences of each step.
    pub(crate) fn steps(self, batch: &ProxyBatch) -> impl Iterator<Item = Range<usize>> + use<> {
        let len = batch.len();
        (0..len)
            .step_by(self.samples)
            .map(move |start| start..(start + self.samples).min(len))
    }
}

/// What the sizes of steps depend on.
#[derive(Clone, Debug)]
pub(crate) struct Sizes {
    pub shape: ModelShape,
    pub hidden: usize,
    pub vocab: usize,
    pub layers_on_demand: bool,
}

impl Sizes {
    pub(crate) fn of<M: DecoderModel>(model: &M) -> Self {
        Self {
            shape: model.shape(),
            hidden: model.hidden_size(),
            vocab: model.vocab_size(),
            layers_on_demand: model.layers_on_demand(),
        }
    }
}

/// The sequences of a step.
pub(crate) struct Place {
    /// The index of the batch.
    pub batch: usize,
    pub sequences: Range<usize>,
}

/// How the sequences of all batches are divided.
pub(crate) struct Division {
    /// One for each batch.
    pub plans: Vec<Plan>,
    /// The steps of all batches.
    pub places: Vec<Place>,
    /// Ranges of steps that go up through the layers together.
    pub groups: Vec<Range<usize>>,
}

impl Division {
    pub(crate) fn new(
        sizes: &Sizes,
        selected: &Selection,
        batches: &[ProxyBatch],
        budget: usize,
    ) -> Self {
        let plans: Vec<Plan> = batches
            .iter()
            .map(|batch| Plan::new(sizes, batch, budget))
            .collect();
        let of_batch = |(index, (batch, plan)): (usize, (&ProxyBatch, &Plan))| {
            let steps = plan.steps(batch);
            steps.map(move |sequences| Place {
                batch: index,
                sequences,
            })
        };
        let places: Vec<Place> = batches
            .iter()
            .zip(&plans)
            .enumerate()
            .flat_map(of_batch)
            .collect();
        let groups = groups(sizes, selected, batches, &places, budget);
        Self {
            plans,
            places,
            groups,
        }
    }
}

/// Which steps go up through the layers together: as many as the budget holds where layers are made on demand, one where they are in memory.
fn groups(
    sizes: &Sizes,
    selected: &Selection,
    batches: &[ProxyBatch],
    places: &[Place],
    budget: usize,
) -> Vec<Range<usize>> {
    let Some(last_layer) = sizes.shape.num_layers.checked_sub(1) else {
        return Vec::new();
    };
    let budget = waiting(budget);
    let mut groups: Vec<Range<usize>> = Vec::new();
    let mut held = 0;
    for (index, place) in places.iter().enumerate() {
        // After the last layer, in f32, the widest type there is.
        let rows = batches[place.batch].seq_len() + selected.rows(last_layer);
        let state = 4 * place.sequences.len() * sizes.hidden * rows;
        held += state;
        match groups.last_mut() {
            Some(last) if sizes.layers_on_demand && held <= budget => last.end = index + 1,
            _ => {
                groups.push(index..index + 1);
                held = state;
            }
        }
    }
    groups
}

/// The share of the budget for steps that stand between two layers, where they go up together.
fn waiting(budget: usize) -> usize {
    budget / 4 * 3
}

/// How often locating on `batches` reads each layer of a model that [makes them on demand](DecoderModel::layers_on_demand): once, if the
/// memory budget holds all sequences with a row of `hidden_size` numbers for each replaced head.
///
/// ```
/// use pear_core::{ModelShape, ProxyTask};
/// use pear_locate::{LocateOptions, proxy_batches, readings_of_layers};
///
/// let shape = ModelShape::new("llama", 32, 32);
/// let batches = proxy_batches(&ProxyTask::new(32_000, &[], 0)?, &[(10, 16)])?;
/// let options = LocateOptions::default();
/// assert_eq!(readings_of_layers(&shape, 4096, &batches, &options), 1);
/// let options = LocateOptions { memory_budget: 100 << 20, ..options };
/// assert!(readings_of_layers(&shape, 4096, &batches, &options) > 1);
/// # Ok::<(), pear_locate::Error>(())
/// ```
pub fn readings_of_layers(
    shape: &ModelShape,
    hidden_size: usize,
    batches: &[ProxyBatch],
    options: &LocateOptions,
) -> usize {
    let sizes = Sizes {
        shape: shape.clone(),
        hidden: hidden_size,
        vocab: 1,
        layers_on_demand: true,
    };
    let selected = Selection::all(shape, options);
    let division = Division::new(&sizes, &selected, batches, options.memory_budget);
    division.groups.len()
}
