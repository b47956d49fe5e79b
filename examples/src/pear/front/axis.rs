//! From numbers to places, and the numbers that stand at an axis.

/// An axis for KL divergences: from 0, by their root, so that small ones can be told apart and 0 has a place.
#[derive(Clone, Copy, Debug)]
pub(super) struct CostAxis {
    max: f64,
}

impl CostAxis {
    /// An axis on which `largest` has some room to its right.
    pub(super) fn new(largest: f64) -> Self {
        Self {
            max: (1.15 * largest).max(0.004),
        }
    }

    /// Where a cost is, between 0 and 1.
    pub(super) fn place(self, cost: f64) -> f64 {
        (cost.max(0.0) / self.max).sqrt()
    }

    /// Round numbers whose places are at least `gap` apart.
    pub(super) fn ticks(self, gap: f64) -> Vec<f64> {
        let round = (-6..4).flat_map(|exponent| [1.0, 3.0].map(|x| x * 10f64.powi(exponent)));
        let mut ticks = vec![0.0];
        for tick in round.filter(|tick| *tick <= self.max) {
            if self.place(tick) - self.place(ticks[ticks.len() - 1]) >= gap {
                ticks.push(tick);
            }
        }
        ticks
    }
}

/// An axis for shares, in which a range has room.
#[derive(Clone, Copy, Debug)]
pub(super) struct GainAxis {
    low: f64,
    high: f64,
    step: f64,
}

impl GainAxis {
    pub(super) fn new((low, high): (f64, f64)) -> Self {
        let range = (high - low).max(0.02);
        let step = [0.01, 0.02, 0.05, 0.1, 0.2]
            .into_iter()
            .find(|step| range / step <= 6.0)
            .unwrap_or(0.2);
        let low = ((low / step).floor() * step).clamp(0.0, 1.0 - step);
        let high = ((high / step).ceil() * step).min(1.0).max(low + step);
        Self { low, high, step }
    }

    /// Where a share is, between 0 at the bottom and 1 at the top.
    pub(super) fn place(self, share: f64) -> f64 {
        ((share - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }

    /// Multiples of a round number.
    pub(super) fn ticks(self) -> Vec<f64> {
        let count = ((self.high - self.low) / self.step).round() as usize;
        (0..=count)
            .map(|i| self.low + i as f64 * self.step)
            .filter(|tick| *tick <= self.high + 1e-9)
            .collect()
    }
}

/// A cost at an axis: as short as it can be.
pub(super) fn cost_label(cost: f64) -> String {
    if cost == 0.0 || cost >= 1e-4 {
        format!("{}", (cost * 1e6).round() / 1e6)
    } else {
        format!("{cost:.0e}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_placed_by_their_root_and_ticks_keep_apart() {
        let axis = CostAxis::new(0.1);
        assert_eq!(axis.place(0.0), 0.0);
        assert!((axis.place(0.1) / axis.place(0.025) - 2.0).abs() < 1e-12);
        assert!(axis.place(0.1) < 0.95);
        let ticks = axis.ticks(0.1);
        assert_eq!(
            ticks.iter().map(|x| cost_label(*x)).collect::<Vec<_>>(),
            ["0", "0.003", "0.01", "0.03", "0.1"]
        );
        assert_eq!(axis.ticks(0.5).len(), 2);
    }

    #[test]
    fn shares_have_a_tick_at_each_end() {
        let axis = GainAxis::new((0.234, 0.687));
        let ticks: Vec<_> = axis.ticks().iter().map(|x| (100.0 * x).round()).collect();
        assert_eq!(ticks, [20.0, 30.0, 40.0, 50.0, 60.0, 70.0]);
        assert!(axis.place(0.2) < 1e-9 && axis.place(0.7) > 1.0 - 1e-9);
        for (low, high) in [(0.0, 0.0), (1.0, 1.0), (0.0, 1.0), (0.5, 0.5)] {
            let axis = GainAxis::new((low, high));
            let ticks = axis.ticks();
            assert!(axis.place(low).is_finite() && ticks.len() > 1);
            assert!(ticks.iter().all(|tick| (0.0..1.0 + 1e-9).contains(tick)));
        }
    }
}
