//! Locating: the sweeps over all lengths, on one device or several, interruptible after every layer.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use pear_core::forward::check_length;
use pear_core::proxy::ProxyBatch;
use pear_core::{DecoderModel, HeadId};

use crate::devices::sweep_on_each;
use crate::patched::PatchedLogits;
use crate::progress::{Meter, Progress};
use crate::report::{LengthReport, Report, length_scores};
use crate::selection::Selection;
use crate::sweep::{LayerDone, sweep};
use crate::{Error, LocateOptions, Method, Result, Rounds, Scores};

/// What a [`Locator`] tells while it runs.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Sequences have been through a layer.
    Layer(Progress),
    /// All sequences of a length are done: what [`Locator::with_finished`] takes, this length included.
    LengthFinished(&'a [LengthReport]),
    /// Within a budget, a round is done: what [`AnytimeLocator::with_finished`](crate::AnytimeLocator::with_finished) takes, this round
    /// included.
    RoundFinished(&'a Rounds),
}

/// How a run of a [`Locator`] ended; within a budget, `T` is [`Rounds`].
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "one is made for a whole run")]
pub enum Outcome<T = Vec<LengthReport>> {
    /// All heads are scored.
    Finished(Report),
    /// The caller ended it. These lengths, or rounds, were finished; [`Locator::with_finished`] goes on after them.
    Cancelled(T),
}

impl<T> Outcome<T> {
    /// The report, if the run came to its end.
    pub fn finished(self) -> Option<Report> {
        match self {
            Self::Finished(report) => Some(report),
            Self::Cancelled(_) => None,
        }
    }
}

/// Computes what a sweep gives over all models.
type Sweep<M> = fn(
    &[M],
    &[ProxyBatch],
    &Selection,
    &LocateOptions,
    Option<&Path>,
    &mut LayerDone<'_>,
) -> Result<Option<Vec<PatchedLogits>>>;

/// Scores every head of a model: high where the model predicts the right token better without it.
///
/// It owns its model, which may be a reference or an `Arc` as well. [`locate`](crate::locate) is the short form for a run that
/// nobody watches or interrupts.
///
/// ```
/// # use burn::prelude::*;
/// # use pear_core::*;
/// # struct Layer(Attention);
/// # impl DecoderLayer for Layer {
/// #     type Attention = Attention;
/// #     fn attention(&self) -> &Attention { &self.0 }
/// #     fn attention_input(&self, residual: Tensor<3>) -> Tensor<3> { residual }
/// #     fn output(&self, residual: Tensor<3>, attention: Tensor<3>) -> Tensor<3> { residual + attention }
/// # }
/// # struct Model { layers: [Layer; 2], embedding: Tensor<2> }
/// # impl DecoderModel for Model {
/// #     type Layer<'a> = &'a Layer;
/// #     fn shape(&self) -> ModelShape { ModelShape::new("two-layers", 2, 6) }
/// #     fn hidden_size(&self) -> usize { 24 }
/// #     fn vocab_size(&self) -> usize { 50 }
/// #     fn device(&self) -> Device { self.embedding.device() }
/// #     fn embed(&self, tokens: Tensor<2, Int>, _: Positions) -> Tensor<3> {
/// #         burn::tensor::module::embedding(self.embedding.clone(), tokens)
/// #     }
/// #     fn layer(&self, index: usize) -> Result<&Layer> { Ok(&self.layers[index]) }
/// #     fn logits(&self, residual: Tensor<3>) -> Tensor<3> { residual.matmul(self.embedding.clone().transpose().unsqueeze()) }
/// # }
/// # let device = Device::flex();
/// # let layer = || AttentionConfig::new(24, 6).init(&device).map(Layer);
/// # let embedding = Tensor::random([50, 24], burn::tensor::Distribution::Normal(0.0, 1.0), &device);
/// # let model = Model { layers: [layer()?, layer()?], embedding };
/// use std::ops::ControlFlow;
/// use pear_locate::{Event, LocateOptions, Locator, Metric, Outcome, proxy_batches};
///
/// let batches = proxy_batches(&ProxyTask::new(50, &[0], 7)?, &[(10, 4), (5, 8)])?;
/// let options = LocateOptions { metric: Metric::LogitDiff, ..LocateOptions::default() };
/// let locator = Locator::new(model, options);
///
/// // Cancelled once the first length is done …
/// let outcome = locator.run_with(&batches, |event| match event {
///     Event::LengthFinished(_) => Ok::<_, pear_locate::Error>(ControlFlow::Break(())),
///     _ => Ok(ControlFlow::Continue(())),
/// })?;
/// let Outcome::Cancelled(finished) = outcome else { unreachable!() };
/// assert_eq!(finished.len(), 1);
///
/// // … and resumed.
/// let report = locator.with_finished(finished).run(&batches)?;
/// assert_eq!(report.scores.heads().len(), 12);
/// # Ok::<(), pear_locate::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Locator<M> {
    /// The model, then its copies on other devices.
    models: Vec<M>,
    sweep: Sweep<M>,
    options: LocateOptions,
    finished: Vec<LengthReport>,
    state: Option<PathBuf>,
}

impl<M: DecoderModel> Locator<M> {
    /// A locator of this model's heads.
    pub fn new(model: M, options: LocateOptions) -> Self {
        let sweep_on_first: Sweep<M> = |models, batches, selected, options, state, layer_done| {
            sweep(
                &models[0], batches, selected, options, None, state, layer_done,
            )
        };
        Self {
            models: vec![model],
            sweep: sweep_on_first,
            options,
            finished: Vec::new(),
            state: None,
        }
    }

    /// Splits the sequences of every length between the model and copies of it on other devices.
    ///
    /// The scores are those of one device up to rounding, with every intervention: batch means are taken over all sequences. The
    /// memory budget is that of each device.
    pub fn with_copies(mut self, copies: impl IntoIterator<Item = M>) -> Self
    where
        M: Sync,
    {
        self.models.extend(copies);
        self.sweep = sweep_on_each;
        self
    }

    /// Goes on after lengths that an earlier run finished, which must be the first of the batches.
    ///
    /// The caller answers for model, batches and options being those of the earlier run; [`Error::Unresumable`] says that batches
    /// or layers are not.
    pub fn with_finished(mut self, finished: Vec<LengthReport>) -> Self {
        self.finished = finished;
        self
    }

    /// Keeps how far it is in a folder of its own, which is created if it is not there, and goes on from what an earlier run left there. It is
    /// for models whose layers are [made on demand](DecoderModel::layers_on_demand), whose lengths are finished all at once: a layer of them
    /// may take minutes. Writing takes at most a tenth of the time. For other models, and with copies on other devices, nothing is kept.
    ///
    /// The caller removes the folder, once the scores are safe, and answers for it being of this model and these batches.
    pub fn with_state(mut self, folder: impl Into<PathBuf>) -> Self {
        self.state = Some(folder.into());
        self
    }

    /// The model.
    pub fn model(&self) -> &M {
        &self.models[0]
    }

    /// Runs the sweeps, unobserved; see [`run_with`](Self::run_with).
    ///
    /// # Errors
    /// As [`run_with`](Self::run_with), but for its last.
    pub fn run(&self, batches: &[ProxyBatch]) -> Result<Report> {
        match self.run_with(batches, |_| Ok::<_, Error>(ControlFlow::Continue(())))? {
            Outcome::Finished(report) => Ok(report),
            Outcome::Cancelled(_) => unreachable!("the observer never breaks"),
        }
    }

    /// Runs the sweeps. `batches` hold proxy sequences, one batch a length; [`proxy_batches`](crate::proxy_batches) draws those of
    /// the paper. `observe` is called after every layer and every length and may end the run, with an error of its own if need
    /// be. Warnings are also logged.
    ///
    /// # Errors
    /// - no batch, or two of the same length;
    /// - a token that the model does not know, or a sequence longer than it can read;
    /// - a model without heads or without the layers asked for, on an autodiff device, or copies of another shape;
    /// - a logit that is not finite, with the head that was replaced;
    /// - a mean logit of zero where the metric divides by it;
    /// - what `observe` returns.
    pub fn run_with<E: From<Error>>(
        &self,
        batches: &[ProxyBatch],
        mut observe: impl FnMut(Event<'_>) -> Result<ControlFlow<()>, E>,
    ) -> Result<Outcome, E> {
        let mut reports = self.start(batches)?;
        let selected = self.selected();
        let num_layers = self.model().shape().num_layers;
        let mut meter = Meter::new(num_layers, selected.clone(), batches);
        for batch in &batches[..reports.len()] {
            let progress = meter.batch_done(batch);
            if observe(Event::Layer(progress))?.is_break() {
                return Ok(Outcome::Cancelled(reports));
            }
        }
        // A layer that is made on demand is made once for all lengths, and how far they are is worth keeping.
        let (together, state) = if self.model().layers_on_demand() {
            (batches.len(), self.state.as_deref())
        } else {
            (1, None)
        };
        for lengths in batches[reports.len()..].chunks(together) {
            let layer_done = |sequences: &ProxyBatch, layer| {
                observe(Event::Layer(meter.layer_done(sequences, layer)))
            };
            let Some(found) = self.sweep(lengths, &selected, state, layer_done)? else {
                return Ok(Outcome::Cancelled(reports));
            };
            for logits in found {
                reports.push(LengthReport::new(self.options.metric, logits)?);
                let last = reports.len() == batches.len();
                if observe(Event::LengthFinished(&reports))?.is_break() && !last {
                    return Ok(Outcome::Cancelled(reports));
                }
            }
        }
        Ok(Outcome::Finished(self.report(batches, reports)?))
    }

    /// All heads that the options ask for.
    pub(crate) fn selected(&self) -> Selection {
        Selection::all(&self.model().shape(), &self.options)
    }

    pub(crate) fn options(&self) -> &LocateOptions {
        &self.options
    }

    /// Replaces the `selected` heads, with how far it is kept in `state`; `None` if `layer_done` ended it.
    pub(crate) fn sweep<E: From<Error>>(
        &self,
        batches: &[ProxyBatch],
        selected: &Selection,
        state: Option<&Path>,
        mut layer_done: impl FnMut(&ProxyBatch, usize) -> Result<ControlFlow<()>, E>,
    ) -> Result<Option<Vec<PatchedLogits>>, E> {
        let mut failed = None;
        let mut layer_done = |sequences: &ProxyBatch, layer| {
            layer_done(sequences, layer).unwrap_or_else(|error| {
                failed = Some(error);
                ControlFlow::Break(())
            })
        };
        let logits = (self.sweep)(
            &self.models,
            batches,
            selected,
            &self.options,
            state,
            &mut layer_done,
        )?;
        match failed {
            Some(error) => Err(error),
            None => Ok(logits),
        }
    }

    /// Whether models, batches and options belong together.
    pub(crate) fn check(&self, batches: &[ProxyBatch]) -> Result<()> {
        let (first, others) = (&self.models[0], &self.models[1..]);
        if others
            .iter()
            .any(|other| other.shape() != first.shape() || other.vocab_size() != first.vocab_size())
        {
            return Err(Error::Models);
        }
        if others.iter().any(|other| other.device().is_autodiff()) {
            return Err(Error::Autodiff);
        }
        check(first, batches, &self.options)
    }

    /// The lengths that are finished already, once everything is found to belong together.
    fn start(&self, batches: &[ProxyBatch]) -> Result<Vec<LengthReport>> {
        self.check(batches)?;
        if self.finished.len() > batches.len() {
            return Err(Error::Unresumable {
                n: self.finished[batches.len()].logits.n,
            });
        }
        let selected = self.selected();
        for (report, batch) in self.finished.iter().zip(batches) {
            report
                .logits
                .check_belongs(batch, &selected, self.options.metric)?;
        }
        Ok(self.finished.clone())
    }

    fn report(&self, batches: &[ProxyBatch], reports: Vec<LengthReport>) -> Result<Report> {
        let metric = self.options.metric;
        let by_length = reports
            .iter()
            .map(|report| length_scores(metric, &report.logits))
            .collect::<Result<_>>()?;
        let settings = self.options.settings(common_seed(batches));
        let scores = Scores::new(self.model().shape(), settings, by_length)?;
        Ok(Report {
            scores,
            by_length: reports,
        })
    }
}

/// Scores every head of a model: [`Locator::run`] on a borrowed model.
///
/// # Errors
/// As [`Locator::run`].
pub fn locate<M: DecoderModel>(
    model: &M,
    batches: &[ProxyBatch],
    options: &LocateOptions,
) -> Result<Report> {
    Locator::new(model, options.clone()).run(batches)
}

/// The logits behind the scores of one batch: `patched_logits[layer][head][sample]` and `base_logits[sample]`.
///
/// # Errors
/// As [`Locator::run`], but for those of the metric.
pub fn patched_logits<M: DecoderModel>(
    model: &M,
    batch: &ProxyBatch,
    options: &LocateOptions,
) -> Result<PatchedLogits> {
    check(model, std::slice::from_ref(batch), options)?;
    let selected = Selection::all(&model.shape(), options);
    uninterrupted(model, batch, &selected, options)
}

/// As [`patched_logits`], with these heads replaced alone, whatever layers the options name. A layer of which no head is replaced costs the
/// clean run alone.
///
/// # Errors
/// As [`patched_logits`], and for a head that the model does not have or that is listed twice.
pub fn patched_logits_of<M: DecoderModel>(
    model: &M,
    heads: &[HeadId],
    batch: &ProxyBatch,
    options: &LocateOptions,
) -> Result<PatchedLogits> {
    check(model, std::slice::from_ref(batch), options)?;
    let selected = Selection::of(&model.shape(), heads)?;
    uninterrupted(model, batch, &selected, options)
}

fn uninterrupted<M: DecoderModel>(
    model: &M,
    batch: &ProxyBatch,
    selected: &Selection,
    options: &LocateOptions,
) -> Result<PatchedLogits> {
    let batches = std::slice::from_ref(batch);
    let found = sweep(
        model,
        batches,
        selected,
        options,
        None,
        None,
        &mut |_, _| ControlFlow::Continue(()),
    )?;
    match found.and_then(|mut found| found.pop()) {
        Some(logits) => Ok(logits),
        None => unreachable!("the observer never breaks"),
    }
}

/// The seed that all batches were drawn with, if they were drawn with one.
pub(crate) fn common_seed(batches: &[ProxyBatch]) -> Option<u64> {
    let seed = batches.first()?.seed()?;
    batches
        .iter()
        .all(|batch| batch.seed() == Some(seed))
        .then_some(seed)
}

/// Whether `model` can read `batches`.
pub(crate) fn check<M: DecoderModel>(
    model: &M,
    batches: &[ProxyBatch],
    options: &LocateOptions,
) -> Result<()> {
    let shape = model.shape();
    if shape.num_layers == 0 || shape.num_heads == 0 {
        return Err(Error::NoHeads(shape));
    }
    if let Some(layers) = options
        .layers
        .filter(|layers| layers.first > layers.last || layers.last >= shape.num_layers)
    {
        return Err(Error::NoSuchLayers { layers, shape });
    }
    if options.method == Method::Gradient {
        return Err(Error::NotReplacing);
    }
    if options.method == Method::Attribution && model.layers_on_demand() {
        return Err(Error::KeepsAllLayers);
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
        batch.check_vocabulary(model.vocab_size())?;
    }
    Ok(())
}
