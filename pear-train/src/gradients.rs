//! The gradient of a batch, on one device or on several.

use std::panic::resume_unwind;
use std::thread;

use pear_core::proxy::ProxyBatch;
use pear_core::{DecoderModel, HeadCoefficients};

use crate::Result;
use crate::objective::loss_and_gradients;

/// The loss and its gradient for each coefficient, as shares of a whole batch.
pub(crate) type LossAndGradients = (f64, Vec<f64>);

/// What computes them: one of the functions below.
pub(crate) type Compute<M> =
    fn(&[M], &ProxyBatch, &HeadCoefficients, usize) -> Result<LossAndGradients>;

/// On the first model, `at_once` sequences at a time.
pub(crate) fn on_one<M: DecoderModel>(
    models: &[M],
    batch: &ProxyBatch,
    coefficients: &HeadCoefficients,
    at_once: usize,
) -> Result<LossAndGradients> {
    let mut sum = (0.0, vec![0.0; coefficients.heads().len()]);
    for start in (0..batch.len()).step_by(at_once) {
        let part = batch.slice(start..batch.len().min(start + at_once));
        let (value, gradients) = loss_and_gradients(&models[0], &part, coefficients)?;
        let gradients = gradients.into_iter().map(f64::from).collect();
        add(
            &mut sum,
            (value, gradients),
            part.len() as f64 / batch.len() as f64,
        );
    }
    Ok(sum)
}

/// On all models at once, each with an even share of the sequences. The sum is taken in the order of the models.
pub(crate) fn on_each<M: DecoderModel + Sync>(
    models: &[M],
    batch: &ProxyBatch,
    coefficients: &HeadCoefficients,
    at_once: usize,
) -> Result<LossAndGradients> {
    let ways = models.len().min(batch.len());
    let share = |way: usize| batch.slice(batch.len() * way / ways..batch.len() * (way + 1) / ways);
    let parts = thread::scope(|scope| {
        let threads: Vec<_> = (0..ways)
            .map(|way| {
                scope.spawn(move || on_one(&models[way..=way], &share(way), coefficients, at_once))
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
            .collect::<Result<Vec<_>>>()
    })?;
    let mut sum = (0.0, vec![0.0; coefficients.heads().len()]);
    for (way, part) in parts.into_iter().enumerate() {
        add(&mut sum, part, share(way).len() as f64 / batch.len() as f64);
    }
    Ok(sum)
}

fn add(sum: &mut LossAndGradients, part: LossAndGradients, share: f64) {
    sum.0 += share * part.0;
    sum.1
        .iter_mut()
        .zip(part.1)
        .for_each(|(sum, part)| *sum += share * part);
}
