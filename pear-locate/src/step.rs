//! Sequences that run together, on their way up through the layers.

use burn::prelude::*;
use pear_core::proxy::ProxyBatch;
use pear_core::{DecoderLayer, DecoderModel};

use crate::attribution::Estimate;
use crate::clean::{CleanLayer, embed, intervention};
use crate::patch_site::PatchSite;
use crate::patched::Part;
use crate::readings::{Performance, compared_sum, read};
use crate::selection::Selection;
use crate::sweep_state::StepTensors;
use crate::variants::Variants;
use crate::{Error, LocateOptions, Method, Mode, Result};

/// What all steps of a sweep have in common.
pub(crate) struct Common<'a, M> {
    pub model: &'a M,
    pub selected: &'a Selection,
    pub options: &'a LocateOptions,
}

/// Sequences that run together.
pub(crate) struct Step {
    batch: ProxyBatch,
    /// The clean run, `[samples, seq, hidden]`.
    residual: Tensor<3>,
    variants: Variants,
    /// In place of variants, for attribution.
    estimate: Estimate,
    /// Positions whose logits over the whole vocabulary are held together.
    logit_rows: usize,
}

impl Step {
    /// The sequences before the first layer.
    pub(crate) fn new<M: DecoderModel>(model: &M, batch: ProxyBatch, logit_rows: usize) -> Self {
        Self {
            residual: embed(model, &batch),
            variants: Variants::new(&batch),
            estimate: Estimate::default(),
            batch,
            logit_rows,
        }
    }

    /// The sequences after `layers` layers, of which these tensors were saved.
    ///
    /// # Errors
    /// [`Error::Unresumable`] for tensors of others.
    pub(crate) fn restored<M: DecoderModel>(
        common: &Common<'_, M>,
        batch: ProxyBatch,
        logit_rows: usize,
        layers: usize,
        tensors: StepTensors,
    ) -> Result<Self> {
        let StepTensors { residual, variants } = tensors;
        let hidden = common.model.hidden_size();
        let count = layers
            .checked_sub(1)
            .map_or(0, |last| common.selected.rows(last));
        let variants = Variants::restored(&batch, variants, hidden, count);
        match variants {
            Some(variants) if residual.dims() == [batch.len(), batch.seq_len(), hidden] => {
                Ok(Self {
                    batch,
                    residual,
                    variants,
                    estimate: Estimate::default(),
                    logit_rows,
                })
            }
            _ => Err(Error::Unresumable { n: batch.n() }),
        }
    }

    /// What [`restored`](Self::restored) needs.
    pub(crate) fn tensors(&self) -> (&Tensor<3>, &[Tensor<3>]) {
        (&self.residual, self.variants.chunks())
    }

    pub(crate) fn batch(&self) -> &ProxyBatch {
        &self.batch
    }

    /// The clean run, `[samples, seq, hidden]`.
    pub(crate) fn residual(&self) -> &Tensor<3> {
        &self.residual
    }

    /// Goes through a layer. `mean` is that of more sequences than these, `[1, heads, head_dim]`, if they are to be replaced by one.
    pub(crate) fn through<M: DecoderModel, L: DecoderLayer>(
        &mut self,
        common: &Common<'_, M>,
        this: &L,
        layer: usize,
        mean: Option<&Tensor<3>>,
    ) -> Result<()> {
        let options = common.options;
        let clean = CleanLayer::run(this, &self.residual)?;
        let vectors = intervention(options.ablation, &clean.heads, &self.batch, mean);
        let site = PatchSite::new(this, self.batch.patch_position(), &self.residual, &clean);
        self.residual = this.output(self.residual.clone(), clean.output);
        let replaced = common.selected.layer(layer);
        if options.method == Method::Attribution {
            let vectors = (!replaced.is_empty()).then_some(&vectors);
            self.estimate
                .through(&site, replaced, vectors, options.mode);
        } else {
            match options.mode {
                Mode::Activation => self.variants.map(|rows| site.react(rows)),
                Mode::Path => self.variants.map(|rows| site.pass(rows)),
            }
            self.variants.join(&site, replaced, &vectors);
        }
        Ok(())
    }

    /// Reads all rows after the last layer.
    pub(crate) fn finish<M: DecoderModel>(
        self,
        common: &Common<'_, M>,
        performance: &mut Performance,
    ) -> Part {
        let Self {
            batch,
            residual,
            variants,
            estimate,
            logit_rows,
        } = self;
        let (model, metric) = (common.model, common.options.metric);
        let targets = |variants: usize| {
            let targets: Vec<i32> = batch.targets().map(|id| id as i32).collect();
            let targets = Tensor::<1, Int>::from_data(targets.as_slice(), &model.device());
            targets.repeat(&[variants])
        };
        let [samples, _, hidden] = residual.dims();
        let read_rows = |rows: Tensor<3>| {
            let targets = targets(rows.dims()[1] / samples);
            read(model, rows, targets, metric, logit_rows)
        };
        performance.add(model, residual.clone(), &batch, logit_rows);
        let at_patch = residual.narrow(1, batch.patch_position(), 1);
        let base = read_rows(at_patch.reshape([1, samples, hidden]));
        let patched = if common.options.method == Method::Attribution {
            estimate.finish(&base, |rows| {
                compared_sum(model, rows, targets(1), metric, logit_rows)
            })
        } else {
            let chunks = variants.into_chunks().into_iter();
            chunks
                .flat_map(|rows| read_rows(rows).split(samples).collect::<Vec<_>>())
                .collect()
        };
        Part { base, patched }
    }
}
