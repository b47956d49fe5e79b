//! Locating: the sweeps over all lengths, their scores, and what to know before trusting them.

use std::collections::BTreeSet;

use pear_core::DecoderModel;
use pear_core::files::{LengthScores, Metric, Scores};
use pear_core::forward::check_length;
use pear_core::proxy::ProxyBatch;
use serde::{Deserialize, Serialize};

use crate::devices::sweep_on;
use crate::metric::{deviations, scores, standard_error};
use crate::patched::PatchedLogits;
use crate::progress::{Meter, Progress};
use crate::sweep::sweep;
use crate::warning::Warning;
use crate::{Error, LocateOptions, Result};

/// What locating found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The ranked heads: what goes into the scores file.
    pub scores: Scores,
    /// More about each length, in the order of the batches.
    pub by_length: Vec<LengthReport>,
}

impl Report {
    /// The warnings of all lengths.
    pub fn warnings(&self) -> impl Iterator<Item = Warning> {
        self.by_length
            .iter()
            .flat_map(|length| length.warnings.iter().copied())
    }
}

/// What sequences of one length gave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LengthReport {
    /// Every logit behind the scores, with accuracy and cross-entropy on the proxy task.
    pub logits: PatchedLogits,
    /// What to know before trusting the scores.
    pub warnings: Vec<Warning>,
}

/// Scores every head of a model: high where the model predicts the right token better without it.
///
/// `batches` hold proxy sequences, one batch a length; [`proxy_batches`](crate::proxy_batches) draws those of the paper.
/// `progress` is called after each layer. Warnings are also logged.
///
/// # Errors
/// - no batch, or two of the same length;
/// - a token that the model does not know, or a sequence longer than it can read;
/// - a model without heads or without the layers asked for, or on an autodiff device;
/// - a logit that is not finite, with the head that was replaced;
/// - a mean logit of zero where the metric divides by it.
pub fn locate<M: DecoderModel>(
    model: &M,
    batches: &[ProxyBatch],
    options: &LocateOptions,
    progress: impl FnMut(Progress),
) -> Result<Report> {
    resume(model, batches, options, Vec::new(), |_| Ok(()), progress)
}

/// As [`locate`], but from where an earlier run was interrupted: `finished` are the first lengths, as `keep` was given them. `keep` is
/// called with all lengths finished so far whenever there is one more, and stops the run if it fails.
///
/// The caller answers for model, batches and options being those of the earlier run; [`Error::Unresumable`] says that batches are not.
///
/// # Errors
/// As [`locate`]; [`Error::Unresumable`]; what `keep` returns.
pub fn resume<M: DecoderModel>(
    model: &M,
    batches: &[ProxyBatch],
    options: &LocateOptions,
    finished: Vec<LengthReport>,
    keep: impl FnMut(&[LengthReport]) -> Result<()>,
    progress: impl FnMut(Progress),
) -> Result<Report> {
    let run = |batch: &ProxyBatch, meter: &mut Meter<'_>| {
        sweep(model, batch, options, None, &mut |batch, layer| {
            meter.layer_done(batch, layer)
        })
    };
    resume_with(run, model, batches, options, finished, keep, progress)
}

/// As [`resume`], on several devices at once: `models` are copies of the same model, and each takes its share of the sequences of every
/// length. The scores are those of one device up to rounding, with every intervention: batch means are taken over all sequences.
/// The memory budget is that of each device.
///
/// # Errors
/// As [`resume`]; [`Error::Models`] for no model or models of different shapes.
pub fn resume_on<M: DecoderModel + Sync>(
    models: &[&M],
    batches: &[ProxyBatch],
    options: &LocateOptions,
    finished: Vec<LengthReport>,
    keep: impl FnMut(&[LengthReport]) -> Result<()>,
    progress: impl FnMut(Progress),
) -> Result<Report> {
    let Some((first, others)) = models.split_first() else {
        return Err(Error::Models);
    };
    if others
        .iter()
        .any(|other| other.shape() != first.shape() || other.vocab_size() != first.vocab_size())
    {
        return Err(Error::Models);
    }
    if others.iter().any(|other| other.device().is_autodiff()) {
        return Err(Error::Autodiff);
    }
    let run = |batch: &ProxyBatch, meter: &mut Meter<'_>| {
        sweep_on(models, batch, options, |batch, layer| {
            meter.layer_done(batch, layer)
        })
    };
    resume_with(run, *first, batches, options, finished, keep, progress)
}

fn resume_with<M: DecoderModel>(
    run: impl Fn(&ProxyBatch, &mut Meter<'_>) -> Result<PatchedLogits>,
    model: &M,
    batches: &[ProxyBatch],
    options: &LocateOptions,
    finished: Vec<LengthReport>,
    mut keep: impl FnMut(&[LengthReport]) -> Result<()>,
    mut progress: impl FnMut(Progress),
) -> Result<Report> {
    check(model, batches, options)?;
    let mut meter = Meter::new(model.shape(), options, batches, &mut progress);
    let mut reports = finished;
    if reports.len() > batches.len() {
        return Err(Error::Unresumable {
            n: reports[batches.len()].logits.n,
        });
    }
    for (report, batch) in reports.iter().zip(batches) {
        report
            .logits
            .check_belongs(batch, &model.shape(), options)?;
        meter.batch_done(batch);
    }
    for batch in &batches[reports.len()..] {
        let logits = run(batch, &mut meter)?;
        let warnings = Warning::of(options.metric, &logits);
        for warning in &warnings {
            log::warn!("{warning}");
        }
        // Whatever a metric cannot be computed from is not kept.
        length_scores(options.metric, &logits)?;
        reports.push(LengthReport { logits, warnings });
        keep(&reports)?;
    }
    let by_length = reports
        .iter()
        .map(|report| length_scores(options.metric, &report.logits))
        .collect::<Result<_>>()?;
    let scores = Scores::new(model.shape(), options.settings(), by_length)?;
    Ok(Report {
        scores,
        by_length: reports,
    })
}

/// The scores of one length with their standard errors.
pub(crate) fn length_scores(metric: Metric, logits: &PatchedLogits) -> Result<LengthScores> {
    let errors = deviations(metric, logits)?;
    let errors = errors
        .iter()
        .map(|heads| heads.iter().map(|head| standard_error(head)).collect());
    Ok(LengthScores {
        n: logits.n,
        samples: logits.samples(),
        base_logit: logits.base_logit(),
        accuracy: logits.accuracy,
        scores: scores(metric, logits)?,
        standard_errors: errors.collect(),
    })
}

/// The logits behind the scores of one batch: `patched_logits[layer][head][sample]` and `base_logits[sample]`.
///
/// # Errors
/// As [`locate`], but for the last.
pub fn patched_logits<M: DecoderModel>(
    model: &M,
    batch: &ProxyBatch,
    options: &LocateOptions,
    mut progress: impl FnMut(Progress),
) -> Result<PatchedLogits> {
    let batches = std::slice::from_ref(batch);
    check(model, batches, options)?;
    let mut meter = Meter::new(model.shape(), options, batches, &mut progress);
    sweep(model, batch, options, None, &mut |batch, layer| {
        meter.layer_done(batch, layer)
    })
}

/// Whether `model` can read `batches`.
pub(crate) fn check<M: DecoderModel>(
    model: &M,
    batches: &[ProxyBatch],
    options: &LocateOptions,
) -> Result<()> {
    let (shape, vocab_size) = (model.shape(), model.vocab_size());
    if shape.num_layers == 0 || shape.num_heads == 0 {
        return Err(Error::NoHeads(shape));
    }
    if let Some(layers) = options
        .layers
        .filter(|layers| layers.first > layers.last || layers.last >= shape.num_layers)
    {
        return Err(Error::NoSuchLayers { layers, shape });
    }
    if model.device().is_autodiff() {
        return Err(Error::Autodiff);
    }
    if batches.is_empty() {
        return Err(Error::NoBatches);
    }
    let mut lengths = BTreeSet::new();
    for batch in batches {
        if !lengths.insert(batch.n()) {
            return Err(Error::DuplicateLength(batch.n()));
        }
        check_length(model, batch.seq_len())?;
        for (index, sequence) in batch.sequences().iter().enumerate() {
            if let Some(id) = sequence.iter().find(|&&id| id as usize >= vocab_size) {
                let problem = format!("token {id} is not in the vocabulary of {vocab_size}");
                return Err(pear_core::Error::ProxySequence { index, problem }.into());
            }
        }
    }
    Ok(())
}
