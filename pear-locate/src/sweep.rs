//! Every head, or every one of a selection, replaced once, in one pass upward through the layers.
//!
//! Replacing a head at the patched position changes nothing at earlier positions and nothing in lower layers. So the clean run
//! goes up the layers once, and with it go the *variants*: at each layer one more for each of its heads, a single residual stream
//! that attends to the keys and values of the clean run. No position is computed twice:
//!
//! ```text
//! samples · layers · seq                      the clean run
//! samples · heads · layers · (layers + 1) / 2 the variants, each through the layers from its own upwards
//! ```
//!
//! where the naive sweep has `samples · heads · layers² · seq`. A layer of which no head is replaced costs the clean run alone, and the
//! variants from below it.
//!
//! Sequences are divided into steps that fit into the memory budget. Where layers are in memory, one step goes through all of them before
//! the next one begins. Where a layer is made on demand, steps go up together, as many as the budget holds with their variants, so that a
//! layer is made once for all of them.

use std::ops::{ControlFlow, Range};
use std::path::Path;

use burn::prelude::*;
use pear_core::proxy::ProxyBatch;
use pear_core::{DecoderLayer, DecoderModel};

use crate::budget::{Place, Plan, Sizes, groups, places};
use crate::clean::{CleanLayer, batch_means, sum_at_patch};
use crate::locator::common_seed;
use crate::patched::{Part, PatchedLogits};
use crate::readings::Performance;
use crate::selection::Selection;
use crate::step::{Common, Step};
use crate::sweep_state::{Identity, SweepState};
use crate::{Ablation, LocateOptions, Result};

/// Called with the sequences that have been through a layer; may end the sweep.
pub(crate) type LayerDone<'a> = dyn FnMut(&ProxyBatch, usize) -> ControlFlow<()> + 'a;

/// Mean head outputs at the patched position, `[1, heads, head_dim]` for each layer.
pub(crate) type LayerMeans = Vec<Tensor<3>>;

/// The `selected` heads over all sequences of these batches; `None` if `layer_done` ended it. `means` are those of a batch that the only one
/// here is part of. `state` is a folder in which the sweep keeps how far it is after each layer, and from which it goes on.
pub(crate) fn sweep<M: DecoderModel>(
    model: &M,
    batches: &[ProxyBatch],
    selected: &Selection,
    options: &LocateOptions,
    means: Option<LayerMeans>,
    state: Option<&Path>,
    layer_done: &mut LayerDone<'_>,
) -> Result<Option<Vec<PatchedLogits>>> {
    let common = Common {
        model,
        selected,
        options,
    };
    let (sizes, budget) = (Sizes::of(model), options.memory_budget);
    let plans: Vec<Plan> = batches
        .iter()
        .map(|batch| Plan::new(&sizes, batch, budget))
        .collect();
    let places = places(batches, &plans);
    let groups = groups(&sizes, selected, batches, &places, budget);
    let mut sweeps: Vec<BatchSweep<'_>> = batches
        .iter()
        .zip(plans)
        .map(|(batch, plan)| BatchSweep::new(batch, plan))
        .collect();
    let mut state = state.map(|folder| {
        let steps = places.iter().map(|place| {
            let n = sweeps[place.batch].batch.n();
            (n, place.sequences.len())
        });
        let identity = Identity {
            settings: options.settings(common_seed(batches)),
            heads: selected.iter().collect(),
            steps: steps.collect(),
        };
        SweepState::new(folder, identity)
    });
    let saved = state.as_ref().map(SweepState::read).transpose()?.flatten();
    if let Some(saved) = &saved {
        for (sweep, (performance, parts)) in sweeps.iter_mut().zip(&saved.parts) {
            (sweep.performance, sweep.parts) = (*performance, parts.clone());
        }
    }
    for (index, sweep) in sweeps.iter_mut().enumerate() {
        let holds_it = |group: &&Range<usize>| {
            let places = &places[(*group).clone()];
            places.iter().any(|place| place.batch == index)
        };
        sweep.means = match options.ablation {
            Ablation::BatchMean if means.is_some() => means.clone(),
            // A mean over sequences that do not go up together has to be known beforehand.
            Ablation::BatchMean if groups.iter().filter(holds_it).count() > 1 => {
                Some(batch_means(model, sweep.batch, sweep.plan)?)
            }
            _ => None,
        };
    }
    let num_layers = model.shape().num_layers;
    for (number, group) in groups.into_iter().enumerate() {
        let group = &places[group];
        let sequences = |place: &Place| sweeps[place.batch].batch.slice(place.sequences.clone());
        let finished = match &saved {
            Some(saved) if number < saved.groups => num_layers,
            Some(saved) if number == saved.groups => saved.layers.min(num_layers),
            _ => 0,
        };
        for layer in 0..finished {
            for place in group {
                if layer_done(&sequences(place), layer).is_break() {
                    return Ok(None);
                }
            }
        }
        if saved.as_ref().is_some_and(|saved| number < saved.groups) {
            continue;
        }
        let step = |(index, place): (usize, &Place)| {
            let (sequences, logit_rows) = (sequences(place), sweeps[place.batch].plan.logit_rows);
            match (&state, &saved) {
                (Some(state), Some(saved)) if finished > 0 => {
                    let tensors = state.read_step(saved, index, &model.device())?;
                    Step::restored(&common, sequences, logit_rows, finished, tensors)
                }
                _ => Ok(Step::new(model, sequences, logit_rows)),
            }
        };
        let steps: Result<Vec<Step>> = group.iter().enumerate().map(step).collect();
        let mut steps = steps?;
        for layer in finished..num_layers {
            let this = model.layer(layer)?;
            let means = layer_means(&this, layer, &sweeps, group, &steps, options.ablation)?;
            for (step, place) in steps.iter_mut().zip(group) {
                step.through(&common, &this, layer, means[place.batch].as_ref())?;
                if layer_done(step.batch(), layer).is_break() {
                    return Ok(None);
                }
            }
            if let Some(state) = state.as_mut().filter(|state| state.is_due()) {
                let parts = sweeps.iter().map(BatchSweep::finished).collect();
                state.save(number, layer + 1, parts, steps.iter().map(Step::tensors))?;
            }
        }
        for (step, place) in steps.into_iter().zip(group) {
            let sweep = &mut sweeps[place.batch];
            let part = step.finish(&common, &mut sweep.performance);
            sweep.parts.push(part);
        }
    }
    let collected: Result<Vec<_>> = sweeps
        .into_iter()
        .map(|sweep| sweep.collect(&common))
        .collect();
    collected.map(Some)
}

/// A batch on its way.
struct BatchSweep<'a> {
    batch: &'a ProxyBatch,
    plan: Plan,
    /// Where they are known beforehand.
    means: Option<LayerMeans>,
    performance: Performance,
    parts: Vec<Part>,
}

impl<'a> BatchSweep<'a> {
    fn new(batch: &'a ProxyBatch, plan: Plan) -> Self {
        Self {
            batch,
            plan,
            means: None,
            performance: Performance::default(),
            parts: Vec::new(),
        }
    }

    fn finished(&self) -> (Performance, Vec<Part>) {
        (self.performance, self.parts.clone())
    }

    fn collect<M: DecoderModel>(self, common: &Common<'_, M>) -> Result<PatchedLogits> {
        PatchedLogits::collect(
            common.model,
            self.batch,
            common.selected,
            common.options.metric,
            &self.parts,
            self.performance,
        )
    }
}

/// For each batch, the mean head outputs at the patched position of a layer, `[1, heads, head_dim]`, where they are not those of the
/// sequences of a step: known beforehand, or of all steps of the batch, which stand before the layer.
fn layer_means<L: DecoderLayer>(
    this: &L,
    layer: usize,
    sweeps: &[BatchSweep<'_>],
    group: &[Place],
    steps: &[Step],
    ablation: Ablation,
) -> Result<Vec<Option<Tensor<3>>>> {
    let of_batch = |(index, sweep): (usize, &BatchSweep<'_>)| {
        if let Some(means) = &sweep.means {
            return Ok(Some(means[layer].clone()));
        }
        let here: Vec<&Step> = steps
            .iter()
            .zip(group)
            .filter(|(_, place)| place.batch == index)
            .map(|(step, _)| step)
            .collect();
        if ablation != Ablation::BatchMean || here.len() < 2 {
            return Ok(None);
        }
        let mut sum: Option<Tensor<3>> = None;
        for step in here {
            let clean = CleanLayer::run(this, step.residual())?;
            let part = sum_at_patch(&clean.heads, step.batch());
            sum = Some(match sum {
                Some(sum) => sum + part,
                None => part,
            });
        }
        Ok(sum.map(|sum| sum / sweep.batch.len() as f64))
    };
    sweeps.iter().enumerate().map(of_batch).collect()
}
