//! How a budget is divided between rounds, lengths and heads.

use pear_core::proxy::ProxyBatch;
use pear_core::{HeadId, ModelShape};

use super::standing::Standing;
use crate::separation::Candidate;

/// Sequences of each length that the first round takes at least, where the budget allows.
const FIRST_SEQUENCES: usize = 4;

/// Without these many, a score has no standard error.
const FEWEST_SEQUENCES: usize = 2;

/// Rounds at least: looks at whether everything is settled.
const FEWEST_ROUNDS: usize = 4;

/// The replaced heads' share of the row passes below which fewer heads hardly make a round cheaper.
const WORTHWHILE: f64 = 0.5;

/// The costs of sequences and heads.
pub(crate) struct Schedule {
    num_layers: usize,
    /// Row passes of a sequence of each length with no head replaced.
    clean: Vec<u64>,
    /// Sequences of each length.
    available: Vec<usize>,
    /// Row passes of all heads in a sequence.
    all_heads: u64,
    pub(crate) rounds: usize,
}

impl Schedule {
    pub(crate) fn new(shape: &ModelShape, heads: &[HeadId], batches: &[ProxyBatch]) -> Self {
        let num_layers = shape.num_layers;
        let clean: Vec<u64> = batches
            .iter()
            .map(|batch| (batch.seq_len() * num_layers) as u64)
            .collect();
        let mut schedule = Self {
            num_layers,
            clean,
            available: batches.iter().map(ProxyBatch::len).collect(),
            all_heads: 0,
            rounds: 0,
        };
        schedule.all_heads = schedule.heads_cost(heads);
        let halvings = (schedule.all_heads as f64 / schedule.floor()).log2().ceil();
        schedule.rounds = (halvings.max(0.0) as usize + 1).max(FEWEST_ROUNDS);
        schedule
    }

    /// Row passes of these heads in a sequence.
    fn heads_cost(&self, heads: &[HeadId]) -> u64 {
        heads.iter().map(|&head| self.head_cost(head)).sum()
    }

    fn head_cost(&self, head: HeadId) -> u64 {
        (self.num_layers - head.layer) as u64
    }

    /// Row passes of replaced heads that are not worth halving.
    fn floor(&self) -> f64 {
        let mean = self.clean.iter().sum::<u64>() as f64 / self.clean.len() as f64;
        WORTHWHILE * mean
    }

    /// Row passes of a sequence of each length.
    pub(crate) fn costs(&self, active: &[HeadId]) -> Vec<u64> {
        let heads = self.heads_cost(active);
        self.clean.iter().map(|clean| clean + heads).collect()
    }

    /// The least that tells anything.
    pub(crate) fn least(&self, heads: &[HeadId]) -> u64 {
        FEWEST_SEQUENCES as u64 * self.costs(heads).iter().sum::<u64>()
    }

    /// Sequences of each length for the first round.
    pub(crate) fn first(&self, heads: &[HeadId], budget: u64) -> Vec<usize> {
        let affordable = budget / self.costs(heads).iter().sum::<u64>();
        let fewest = affordable.clamp(FEWEST_SEQUENCES as u64, FIRST_SEQUENCES as u64) as usize;
        let counts: Vec<usize> = self.available.iter().map(|&all| all.min(fewest)).collect();
        let spent = self.cost(heads, &counts);
        let share = (budget / self.rounds as u64).saturating_sub(spent);
        let more = self.more(heads, &counts, &vec![1.0; counts.len()], share);
        counts.iter().zip(more).map(|(a, b)| a + b).collect()
    }

    /// Row passes of these numbers of sequences.
    pub(crate) fn cost(&self, active: &[HeadId], counts: &[usize]) -> u64 {
        let costs = self.costs(active).into_iter().zip(counts);
        costs.map(|(cost, &count)| cost * count as u64).sum()
    }

    /// Sequences of each length to be added to the `run` ones for `share` row passes: one at a time, where it lowers the variance most for
    /// its cost. `variances` are those of what a sequence of each length contributes.
    pub(crate) fn more(
        &self,
        active: &[HeadId],
        run: &[usize],
        variances: &[f64],
        share: u64,
    ) -> Vec<usize> {
        let costs = self.costs(active);
        let (mut counts, mut left) = (vec![0; run.len()], share);
        let gain = |length: usize, count: usize| {
            let samples = (run[length] + count) as f64;
            variances[length] / (samples * (samples + 1.0)) / costs[length] as f64
        };
        loop {
            let affordable = (0..run.len()).filter(|&length| {
                costs[length] <= left && run[length] + counts[length] < self.available[length]
            });
            let best =
                affordable.max_by(|&a, &b| gain(a, counts[a]).total_cmp(&gain(b, counts[b])));
            let Some(length) = best else {
                return counts;
            };
            counts[length] += 1;
            left -= costs[length];
        }
    }

    /// The heads of the next round, `finished` being over: of those that are undecided and were in the last one, the ones nearest to the
    /// boundary for their cost, as many as come to half of its row passes.
    pub(crate) fn survivors(
        &self,
        candidates: &[Candidate],
        standing: &Standing,
        last: &[HeadId],
        finished: usize,
    ) -> Vec<HeadId> {
        let target = (self.all_heads as f64 / 2f64.powi(finished as i32)).max(self.floor());
        let mut undecided: Vec<(f64, HeadId)> = standing
            .undecided()
            .map(|index| (standing.separation[index], candidates[index].head))
            .filter(|(_, head)| last.contains(head))
            .map(|(separation, head)| (separation * (self.head_cost(head) as f64).sqrt(), head))
            .collect();
        undecided.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let mut cost = 0.0;
        let fits = |&(_, head): &(f64, HeadId)| {
            cost += self.head_cost(head) as f64;
            cost <= target
        };
        let mut survivors: Vec<HeadId> = undecided
            .into_iter()
            .take_while(fits)
            .map(|(_, head)| head)
            .collect();
        survivors.sort_unstable();
        survivors
    }
}
