//! Whether a model can copy, and at which lengths: where it always or never can, there is nothing to be seen of a head.

use anyhow::{Result, bail};
use pear_core::ProxyTask;
use pear_models::Decoder;
use pear_train::evaluate;

use super::report::Copying;

/// Lengths n that are tried.
const LENGTHS: [usize; 6] = [5, 10, 15, 25, 50, 100];
/// Tokens of the sequences of each length, and the fewest and the most sequences.
const TOKENS: usize = 1200;
const FEWEST: usize = 8;
const MOST: usize = 40;
/// Index of the first sequence: no other step reaches it.
const NEVER_DRAWN: usize = 1 << 41;
/// Lengths are used where the accuracy is between these.
const USABLE: std::ops::RangeInclusive<f64> = 0.2..=0.9;
/// The accuracy at which heads are best told apart.
const BEST: f64 = 0.55;
/// Below this at all lengths the model cannot copy.
pub const CANNOT: f64 = 0.1;
/// Lengths that are used at most.
const MOST_USED: usize = 3;
/// Positions of a model that has no bound.
const UNBOUNDED: usize = 1 << 17;

/// Measures each length that fits into the model's positions, and marks those to be used, of at most 3 those nearest to 55 %. Where
/// none is between 20 and 90 %, the nearest to that is used.
///
/// # Errors
/// A model that copies less than 10 % at all lengths.
pub fn measure(
    model: &Decoder,
    task: &ProxyTask,
    max_positions: Option<usize>,
) -> Result<Vec<Copying>> {
    let longest = max_positions.unwrap_or(UNBOUNDED);
    let mut lengths = Vec::new();
    for n in LENGTHS.into_iter().filter(|n| 2 * n < longest) {
        let samples = samples(n);
        let batch = task.batch(n, NEVER_DRAWN..NEVER_DRAWN + samples)?;
        lengths.push(Copying {
            n,
            samples,
            accuracy: evaluate(model, &batch, None)?.accuracy,
            used: false,
        });
    }
    choose(&mut lengths)?;
    Ok(lengths)
}

fn samples(n: usize) -> usize {
    (TOKENS / (2 * n)).clamp(FEWEST, MOST)
}

/// Tokens of the sequences of all lengths.
pub fn num_tokens() -> usize {
    LENGTHS.iter().map(|&n| 2 * n * samples(n)).sum()
}

fn choose(lengths: &mut [Copying]) -> Result<()> {
    let best = lengths
        .iter()
        .map(|length| length.accuracy)
        .fold(0.0, f64::max);
    if best < CANNOT {
        bail!(
            "the model cannot copy: of random tokens that it reads for the second time it predicts {:.1} % at best, expected at least \
             {:.0} %; without that no head can be found to suppress its context",
            100.0 * best,
            100.0 * CANNOT
        );
    }
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by(|&a, &b| {
        let off = |index: usize| (lengths[index].accuracy - BEST).abs();
        off(a).total_cmp(&off(b))
    });
    let usable = order
        .iter()
        .filter(|&&index| USABLE.contains(&lengths[index].accuracy));
    let mut used: Vec<usize> = usable.take(MOST_USED).copied().collect();
    if used.is_empty() {
        used.extend(order.first());
    }
    for index in used {
        lengths[index].used = true;
    }
    Ok(())
}

/// The length to learn at: of those used, the one nearest to 55 %.
pub fn training_length(lengths: &[Copying]) -> usize {
    let used = lengths.iter().filter(|length| length.used);
    let off = |length: &&Copying| (length.accuracy - BEST).abs();
    used.min_by(|a, b| off(a).total_cmp(&off(b)))
        .map_or(LENGTHS[0], |length| length.n)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(accuracies: &[f64]) -> Vec<Copying> {
        let length = |(n, &accuracy)| Copying {
            n,
            samples: 8,
            accuracy,
            used: false,
        };
        (1..).zip(accuracies).map(length).collect()
    }

    fn used(accuracies: &[f64]) -> Vec<usize> {
        let mut lengths = lengths(accuracies);
        choose(&mut lengths).unwrap();
        let used = lengths.iter().filter(|length| length.used);
        used.map(|length| length.n).collect()
    }

    #[test]
    fn lengths_between_20_and_90_percent_are_used() {
        assert_eq!(used(&[0.1, 0.3, 0.95, 0.5]), [2, 4]);
        assert_eq!(used(&[0.3, 0.5, 0.6, 0.85, 0.4]), [2, 3, 5]);
    }

    #[test]
    fn a_model_that_always_copies_is_measured_where_it_copies_least() {
        assert_eq!(used(&[0.99, 0.97, 1.0]), [2]);
        assert_eq!(used(&[0.05, 0.15]), [2]);
    }

    #[test]
    fn a_model_that_cannot_copy_is_refused() {
        let error = choose(&mut lengths(&[0.01, 0.03])).unwrap_err();
        assert!(error.to_string().contains("cannot copy"), "{error}");
    }

    #[test]
    fn learning_is_where_half_is_copied() {
        let mut lengths = lengths(&[0.3, 0.5, 0.85]);
        choose(&mut lengths).unwrap();
        assert_eq!(training_length(&lengths), 2);
    }
}
