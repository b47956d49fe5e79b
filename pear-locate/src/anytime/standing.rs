//! Which heads are the K highest-ranked, and how surely.

use crate::scores::{descending, upper_t_quantile};
use crate::separation::Candidate;

/// Every head on its side of the boundary between rank K and rank K + 1.
pub(crate) struct Standing {
    /// Indices of the heads, by rank.
    pub(crate) order: Vec<usize>,
    /// For each head, by index: how far it is from the nearest head of the other side, in standard errors of the difference, as a share of
    /// what counts as settled. Below 1: undecided.
    pub(crate) separation: Vec<f64>,
}

impl Standing {
    /// `error_rate`: the probability with which any of all comparisons may be wrong.
    pub(crate) fn new(candidates: &[Candidate], top_k: usize, error_rate: f64) -> Self {
        let mut order: Vec<usize> = (0..candidates.len()).collect();
        order
            .sort_by(|&a, &b| descending(candidates[a].value, candidates[b].value).then(a.cmp(&b)));
        let (inside, outside) = order.split_at(top_k.min(order.len()));
        let comparisons = (inside.len() * outside.len()).max(1) as f64;
        let mut separation = vec![f64::INFINITY; candidates.len()];
        for &a in inside {
            for &b in outside {
                let difference = candidates[a].less(&candidates[b]);
                let needed =
                    upper_t_quantile(error_rate / comparisons, difference.degrees.max(1) as f64);
                let share = difference.in_errors() / needed;
                let share = if share.is_nan() { 0.0 } else { share };
                separation[a] = separation[a].min(share);
                separation[b] = separation[b].min(share);
            }
        }
        Self { order, separation }
    }

    /// Indices of the heads that may be on either side, by rank.
    pub(crate) fn undecided(&self) -> impl Iterator<Item = usize> {
        let undecided = |&index: &usize| self.separation[index] < 1.0;
        self.order.iter().copied().filter(undecided)
    }
}
