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

use crate::budget::{Division, Place, Plan, Sizes};
use crate::clean::{CleanLayer, batch_means, sum_at_patch};
use crate::locator::common_seed;
use crate::patched::{Part, PatchedLogits};
use crate::readings::Performance;
use crate::selection::Selection;
use crate::step::{Common, Step};
use crate::sweep_state::{Identity, Saved, SweepState};
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
    let mut ascent = Ascent::new(
        Common {
            model,
            selected,
            options,
        },
        batches,
        state,
    )?;
    ascent.find_means(means)?;
    for group in 0..ascent.groups.len() {
        if ascent.through_all_layers(group, layer_done)?.is_break() {
            return Ok(None);
        }
    }
    let Ascent { common, sweeps, .. } = ascent;
    let collected: Result<Vec<_>> = sweeps
        .into_iter()
        .map(|sweep| sweep.collect(&common))
        .collect();
    collected.map(Some)
}

/// All batches on their way up.
struct Ascent<'a, M> {
    common: Common<'a, M>,
    sweeps: Vec<BatchSweep<'a>>,
    /// The steps of all batches.
    places: Vec<Place>,
    /// Ranges of steps that go up together.
    groups: Vec<Range<usize>>,
    state: Option<SweepState>,
    /// Where an earlier run came to.
    saved: Option<Saved>,
}

impl<'a, M: DecoderModel> Ascent<'a, M> {
    fn new(common: Common<'a, M>, batches: &'a [ProxyBatch], state: Option<&Path>) -> Result<Self> {
        let Common {
            model,
            selected,
            options,
        } = common;
        let Division {
            plans,
            places,
            groups,
        } = Division::new(&Sizes::of(model), selected, batches, options.memory_budget);
        let state = state.map(|folder| {
            let steps = places
                .iter()
                .map(|place| (batches[place.batch].n(), place.sequences.len()));
            let identity = Identity {
                settings: options.settings(common_seed(batches)),
                heads: selected.iter().collect(),
                steps: steps.collect(),
            };
            SweepState::new(folder, identity)
        });
        let saved = state.as_ref().map(SweepState::read).transpose()?.flatten();
        let mut sweeps: Vec<BatchSweep<'_>> = batches
            .iter()
            .zip(plans)
            .map(|(batch, plan)| BatchSweep::new(batch, plan))
            .collect();
        if let Some(saved) = &saved {
            for (sweep, (performance, parts)) in sweeps.iter_mut().zip(&saved.parts) {
                (sweep.performance, sweep.parts) = (*performance, parts.clone());
            }
        }
        Ok(Self {
            common,
            sweeps,
            places,
            groups,
            state,
            saved,
        })
    }

    /// The means over batches whose sequences do not go up together, if they are not given: they have to be known beforehand.
    fn find_means(&mut self, given: Option<LayerMeans>) -> Result<()> {
        if self.common.options.ablation != Ablation::BatchMean {
            return Ok(());
        }
        for (index, sweep) in self.sweeps.iter_mut().enumerate() {
            let holds_it = |group: &&Range<usize>| {
                let places = &self.places[(*group).clone()];
                places.iter().any(|place| place.batch == index)
            };
            let is_divided = self.groups.iter().filter(holds_it).count() > 1;
            sweep.means = match &given {
                Some(given) => Some(given.clone()),
                None if is_divided => {
                    Some(batch_means(self.common.model, sweep.batch, sweep.plan)?)
                }
                None => None,
            };
        }
        Ok(())
    }

    /// Takes a group through the layers that an earlier run has not taken it through, and reads it.
    fn through_all_layers(
        &mut self,
        group: usize,
        layer_done: &mut LayerDone<'_>,
    ) -> Result<ControlFlow<()>> {
        let num_layers = self.common.model.shape().num_layers;
        let places = &self.places[self.groups[group].clone()];
        let finished = self.layers_finished(group);
        for layer in 0..finished {
            for place in places {
                if layer_done(&self.sequences(place), layer).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        if self
            .saved
            .as_ref()
            .is_some_and(|saved| group < saved.groups)
        {
            return Ok(ControlFlow::Continue(()));
        }
        let steps = places.iter().enumerate();
        let steps: Result<Vec<Step>> = steps
            .map(|(index, place)| self.step(index, place, finished))
            .collect();
        let mut steps = steps?;
        for layer in finished..num_layers {
            let this = self.common.model.layer(layer)?;
            let means = self.means(&this, layer, places, &steps)?;
            for (step, place) in steps.iter_mut().zip(places) {
                step.through(&self.common, &this, layer, means[place.batch].as_ref())?;
                if layer_done(step.batch(), layer).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            if let Some(state) = self.state.as_mut().filter(|state| state.is_due()) {
                let parts = self.sweeps.iter().map(BatchSweep::finished).collect();
                state.save(group, layer + 1, parts, steps.iter().map(Step::tensors))?;
            }
        }
        for (step, place) in steps.into_iter().zip(places) {
            let sweep = &mut self.sweeps[place.batch];
            let part = step.finish(&self.common, &mut sweep.performance);
            sweep.parts.push(part);
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Layers that an earlier run took a group through.
    fn layers_finished(&self, group: usize) -> usize {
        let num_layers = self.common.model.shape().num_layers;
        match &self.saved {
            Some(saved) if group < saved.groups => num_layers,
            Some(saved) if group == saved.groups => saved.layers.min(num_layers),
            _ => 0,
        }
    }

    fn sequences(&self, place: &Place) -> ProxyBatch {
        self.sweeps[place.batch]
            .batch
            .slice(place.sequences.clone())
    }

    /// A step after so many layers, the `index`-th of its group.
    fn step(&self, index: usize, place: &Place, layers: usize) -> Result<Step> {
        let (common, sequences) = (&self.common, self.sequences(place));
        let logit_rows = self.sweeps[place.batch].plan.logit_rows;
        match (&self.state, &self.saved) {
            (Some(state), Some(saved)) if layers > 0 => {
                let tensors = state.read_step(saved, index, &common.model.device())?;
                Step::restored(common, sequences, logit_rows, layers, tensors)
            }
            _ => Ok(Step::new(common.model, sequences, logit_rows)),
        }
    }

    /// For each batch, the mean head outputs at the patched position of a layer, `[1, heads, head_dim]`, where they are not those of the
    /// sequences of a step: known beforehand, or of all steps of the batch, which stand before the layer.
    fn means<L: DecoderLayer>(
        &self,
        this: &L,
        layer: usize,
        places: &[Place],
        steps: &[Step],
    ) -> Result<Vec<Option<Tensor<3>>>> {
        let of_batch = |(index, sweep): (usize, &BatchSweep<'_>)| {
            if let Some(means) = &sweep.means {
                return Ok(Some(means[layer].clone()));
            }
            let here = steps.iter().zip(places);
            let here: Vec<&Step> = here
                .filter(|(_, place)| place.batch == index)
                .map(|(step, _)| step)
                .collect();
            if self.common.options.ablation != Ablation::BatchMean || here.len() < 2 {
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
        self.sweeps.iter().enumerate().map(of_batch).collect()
    }
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
