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

use std::ops::ControlFlow;

use burn::prelude::*;
use pear_core::proxy::ProxyBatch;
use pear_core::{DecoderLayer, DecoderModel, ModelShape};

use crate::attribution::Estimate;
use crate::budget::Plan;
use crate::clean::{CleanLayer, batch_means, embed, intervention};
use crate::patch_site::PatchSite;
use crate::patched::{Part, PatchedLogits};
use crate::readings::{Performance, Reading, compared_sum, read};
use crate::selection::Selection;
use crate::{Ablation, LocateOptions, Method, Mode, Result};

/// Called with the sequences that have been through a layer; may end the sweep.
pub(crate) type LayerDone<'a> = dyn FnMut(&ProxyBatch, usize) -> ControlFlow<()> + 'a;

/// The `selected` heads over all sequences of a batch; `None` if `layer_done` ended it. `means` are those of a batch that this one is part
/// of, `[1, heads, head_dim]` for each layer.
pub(crate) fn sweep<M: DecoderModel>(
    model: &M,
    batch: &ProxyBatch,
    selected: &Selection,
    options: &LocateOptions,
    means: Option<Vec<Tensor<3>>>,
    layer_done: &mut LayerDone<'_>,
) -> Result<Option<PatchedLogits>> {
    let shape = model.shape();
    let plan = Plan::new(model, batch, options.memory_budget);
    // Only a mean over sequences that do not run together has to be known beforehand.
    let means = match options.ablation {
        Ablation::BatchMean if means.is_some() => means,
        Ablation::BatchMean if plan.samples < batch.len() => Some(batch_means(model, batch, plan)?),
        _ => None,
    };
    let mut performance = Performance::default();
    let mut parts = Vec::new();
    for range in plan.steps(batch) {
        let step = Step {
            model,
            shape: &shape,
            batch: batch.slice(range),
            selected,
            options,
            plan,
            means: means.as_deref(),
        };
        match step.run(layer_done, &mut performance)? {
            Some(part) => parts.push(part),
            None => return Ok(None),
        }
    }
    PatchedLogits::collect(model, batch, selected, options.metric, &parts, performance).map(Some)
}

/// Sequences that run together.
struct Step<'a, M> {
    model: &'a M,
    shape: &'a ModelShape,
    batch: ProxyBatch,
    selected: &'a Selection,
    options: &'a LocateOptions,
    plan: Plan,
    /// `[1, heads, head_dim]` for each layer.
    means: Option<&'a [Tensor<3>]>,
}

impl<M: DecoderModel> Step<'_, M> {
    fn run(
        &self,
        layer_done: &mut LayerDone<'_>,
        performance: &mut Performance,
    ) -> Result<Option<Part>> {
        let (model, batch) = (self.model, &self.batch);
        let mut residual = embed(model, batch);
        let (mut variants, mut estimate) = (Variants::new(batch), Estimate::default());
        for layer in 0..self.shape.num_layers {
            let this = model.layer(layer)?;
            let clean = CleanLayer::run(&this, &residual)?;
            let mean = self.means.map(|means| &means[layer]);
            let vectors = intervention(self.options.ablation, &clean.heads, batch, mean);
            let site = PatchSite::new(&this, batch.patch_position(), &residual, &clean);
            residual = this.output(residual, clean.output);
            let replaced = self.selected.layer(layer);
            if self.options.method == Method::Attribution {
                let vectors = (!replaced.is_empty()).then_some(&vectors);
                estimate.through(&site, replaced, vectors, self.options.mode);
            } else {
                match self.options.mode {
                    Mode::Activation => variants.map(|rows| site.react(rows)),
                    Mode::Path => variants.map(|rows| site.pass(rows)),
                }
                variants.join(&site, replaced, &vectors);
            }
            if layer_done(batch, layer).is_break() {
                return Ok(None);
            }
        }
        performance.add(model, residual.clone(), batch, self.plan.logit_rows);
        let [samples, _, hidden] = residual.dims();
        let at_patch = residual
            .narrow(1, batch.patch_position(), 1)
            .reshape([1, samples, hidden]);
        let base = self.read(at_patch);
        if self.options.method == Method::Attribution {
            let patched = estimate.finish(&base, |rows| {
                compared_sum(
                    model,
                    rows,
                    self.targets(1),
                    self.options.metric,
                    self.plan.logit_rows,
                )
            });
            return Ok(Some(Part { base, patched }));
        }
        let patched = variants
            .chunks
            .into_iter()
            .flat_map(|rows| self.read(rows).split(samples).collect::<Vec<_>>())
            .collect();
        Ok(Some(Part { base, patched }))
    }

    /// `[1, variants * samples, hidden]`.
    fn read(&self, rows: Tensor<3>) -> Reading {
        let variants = rows.dims()[1] / self.batch.len();
        read(
            self.model,
            rows,
            self.targets(variants),
            self.options.metric,
            self.plan.logit_rows,
        )
    }

    /// `[variants * samples]`.
    fn targets(&self, variants: usize) -> Tensor<1, Int> {
        let targets: Vec<i32> = self.batch.targets().map(|id| id as i32).collect();
        Tensor::<1, Int>::from_data(targets.as_slice(), &self.model.device()).repeat(&[variants])
    }
}

/// The residual streams of all variants so far, in chunks `[1, variants * samples, hidden]` of which all but the last are full.
struct Variants {
    chunks: Vec<Tensor<3>>,
    samples: usize,
    /// Variants in a full chunk: as many rows as the clean run has.
    limit: usize,
}

impl Variants {
    fn new(batch: &ProxyBatch) -> Self {
        Self {
            chunks: Vec::new(),
            samples: batch.len(),
            limit: batch.seq_len(),
        }
    }

    /// Variants that still go into the last chunk, or into a new one.
    fn room(&self) -> usize {
        match self.chunks.last().map(|rows| rows.dims()[1] / self.samples) {
            Some(variants) if variants < self.limit => self.limit - variants,
            _ => self.limit,
        }
    }

    /// Adds a variant for each of `heads`, replaced by its own of `vectors`, `[samples or 1, heads, head_dim]`.
    fn join<L: DecoderLayer>(
        &mut self,
        site: &PatchSite<'_, L>,
        mut heads: &[usize],
        vectors: &Tensor<3>,
    ) {
        while !heads.is_empty() {
            let (joining, rest) = heads.split_at(self.room().min(heads.len()));
            self.push(site.replace(joining, vectors));
            heads = rest;
        }
    }

    fn push(&mut self, rows: Tensor<3>) {
        match self.chunks.pop() {
            Some(last) if last.dims()[1] < self.limit * self.samples => {
                self.chunks.push(Tensor::cat(vec![last, rows], 1))
            }
            full => self.chunks.extend(full.into_iter().chain([rows])),
        }
    }

    fn map(&mut self, through: impl Fn(Tensor<3>) -> Tensor<3>) {
        // By value, so that a chunk's old rows are freed before the next one moves.
        self.chunks = std::mem::take(&mut self.chunks)
            .into_iter()
            .map(through)
            .collect();
    }
}
