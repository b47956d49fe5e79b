//! The gradient of a step, on one device or on several.

use std::ops::Range;
use std::panic::resume_unwind;
use std::thread;

use pear_core::proxy::ProxyBatch;
use pear_core::{DecoderModel, HeadCoefficients};

use crate::Result;
use crate::divergence::{of_pieces, positions};
use crate::objective::with_graph;
use crate::recompute::Graph;
use crate::text::{PlainText, References};

/// A loss and its gradient for each coefficient, as shares of a whole.
pub(crate) type LossAndGradients = (f64, Vec<f64>);

/// The model, or a copy of it on another device, with what it predicts unmodified.
#[derive(Debug)]
pub(crate) struct Replica<M> {
    pub model: M,
    pub references: References,
}

impl<M> Replica<M> {
    pub(crate) fn new(model: M) -> Self {
        let references = References::default();
        Self { model, references }
    }
}

/// What a step reads, or a device's share of it.
#[derive(Clone, Debug)]
pub(crate) struct Reading<'a> {
    pub batch: ProxyBatch,
    /// The plain text, and which of its pieces.
    pub text: Option<(&'a PlainText, Vec<usize>)>,
    /// Sequences, or pieces, that run together.
    pub at_once: usize,
    pub graph: Graph,
}

/// The two parts of the objective that have a gradient.
#[derive(Debug)]
pub(crate) struct StepGradients {
    pub proxy: LossAndGradients,
    /// Where there is text.
    pub divergence: Option<LossAndGradients>,
}

/// What computes them: one of the functions below.
pub(crate) type Compute<M> =
    fn(&[Replica<M>], &Reading<'_>, &HeadCoefficients) -> Result<StepGradients>;

/// On the first model.
pub(crate) fn on_one<M: DecoderModel>(
    replicas: &[Replica<M>],
    reading: &Reading<'_>,
    coefficients: &HeadCoefficients,
) -> Result<StepGradients> {
    let Replica { model, references } = &replicas[0];
    let (at_once, graph) = (reading.at_once, reading.graph);
    let proxy = of_sequences(graph, model, &reading.batch, coefficients, at_once)?;
    let divergence = match &reading.text {
        Some((text, pieces)) => Some(of_pieces(
            graph,
            model,
            text,
            references,
            pieces,
            coefficients,
            at_once,
        )?),
        None => None,
    };
    Ok(StepGradients { proxy, divergence })
}

/// On all models at once, each with an even share of the sequences and pieces. Sums are taken in the order of the models.
pub(crate) fn on_each<M: DecoderModel + Sync>(
    replicas: &[Replica<M>],
    reading: &Reading<'_>,
    coefficients: &HeadCoefficients,
) -> Result<StepGradients> {
    let ways = replicas.len().min(reading.batch.len());
    let shares: Vec<Reading<'_>> = (0..ways).map(|way| reading.share(way, ways)).collect();
    let parts = thread::scope(|scope| {
        let threads: Vec<_> = shares
            .iter()
            .enumerate()
            .map(|(way, share)| {
                scope.spawn(move || on_one(&replicas[way..=way], share, coefficients))
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
            .collect::<Result<Vec<_>>>()
    })?;
    let zero = || (0.0, vec![0.0; coefficients.heads().len()]);
    let mut sum = StepGradients {
        proxy: zero(),
        divergence: reading.text.as_ref().map(|_| zero()),
    };
    for (part, share) in parts.into_iter().zip(&shares) {
        let of_batch = share.batch.len() as f64 / reading.batch.len() as f64;
        add(&mut sum.proxy, part.proxy, of_batch);
        if let (Some(sum), Some(part)) = (&mut sum.divergence, part.divergence) {
            add(sum, part, share.positions() / reading.positions());
        }
    }
    Ok(sum)
}

impl Reading<'_> {
    /// An even part of the sequences, and of the pieces.
    fn share(&self, way: usize, ways: usize) -> Self {
        let part = |count: usize| -> Range<usize> { count * way / ways..count * (way + 1) / ways };
        let text = self.text.as_ref().map(|(text, pieces)| {
            let part = part(pieces.len());
            (*text, pieces[part].to_vec())
        });
        Self {
            batch: self.batch.slice(part(self.batch.len())),
            text: text.filter(|(_, pieces)| !pieces.is_empty()),
            at_once: self.at_once,
            graph: self.graph,
        }
    }

    /// Positions of the pieces.
    fn positions(&self) -> f64 {
        let text = self.text.as_ref();
        text.map_or(0.0, |(text, pieces)| positions(text, pieces) as f64)
    }
}

/// The mean proxy loss and its gradients, `at_once` sequences at a time.
fn of_sequences<M: DecoderModel>(
    graph: Graph,
    model: &M,
    batch: &ProxyBatch,
    coefficients: &HeadCoefficients,
    at_once: usize,
) -> Result<LossAndGradients> {
    let mut sum = (0.0, vec![0.0; coefficients.heads().len()]);
    for start in (0..batch.len()).step_by(at_once) {
        let part = batch.slice(start..batch.len().min(start + at_once));
        let (value, gradients) = with_graph(graph, model, &part, coefficients)?;
        let gradients = gradients.into_iter().map(f64::from).collect();
        add(
            &mut sum,
            (value, gradients),
            part.len() as f64 / batch.len() as f64,
        );
    }
    Ok(sum)
}

pub(crate) fn add(sum: &mut LossAndGradients, part: LossAndGradients, share: f64) {
    sum.0 += share * part.0;
    sum.1
        .iter_mut()
        .zip(part.1)
        .for_each(|(sum, part)| *sum += share * part);
}
