//! Differences with their intervals as bars that are as wide as their column.

use crate::draw::svg::coordinate;
use crate::pear::report::Verdict;

/// The range that all bars of a table share. Zero is within it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Scale {
    low: f64,
    high: f64,
}

impl Scale {
    /// The range of all differences of a verdict.
    pub(super) fn of(verdict: &Verdict) -> Self {
        let groups = verdict.groups.iter().map(|group| &group.change);
        let controls = verdict.controls.iter().map(|control| &control.change);
        let all = groups.chain(controls).chain(&verdict.against_controls);
        let (low, high) = all.fold((0.0, 0.0), |(low, high): (f64, f64), change| {
            (low.min(change.low), high.max(change.high))
        });
        let margin = (0.06 * (high - low)).max(0.01);
        Self {
            low: low - margin,
            high: high + margin,
        }
    }

    /// A bar from `low` to `high` with a dot at `mean`, and a line at zero.
    pub(super) fn draw(self, low: f64, mean: f64, high: f64) -> String {
        let place = |x: f64| {
            let share = (x - self.low) / (self.high - self.low);
            format!("{}%", coordinate(100.0 * share.clamp(0.0, 1.0)))
        };
        let class = if low > 0.0 {
            "interval up"
        } else if high < 0.0 {
            "interval down"
        } else {
            "interval"
        };
        let [zero, low, mean, high] = [0.0, low, mean, high].map(place);
        format!(
            concat!(
                r#"<svg class="{class}" aria-hidden="true"><line class="zero" x1="{zero}" x2="{zero}" y1="0" y2="100%"/>"#,
                r#"<line class="range" x1="{low}" x2="{high}" y1="50%" y2="50%"/><circle class="mean" cx="{mean}" cy="50%" r="4.5"/></svg>"#
            ),
            class = class,
            zero = zero,
            low = low,
            mean = mean,
            high = high,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_says_by_its_class_on_which_side_of_zero_it_lies() {
        let scale = Scale {
            low: -0.5,
            high: 0.5,
        };
        let bar = scale.draw(0.1, 0.2, 0.3);
        assert!(
            bar.contains(r#"class="interval up""#) && bar.contains(r#"cx="70%""#),
            "{bar}"
        );
        assert!(scale.draw(-0.3, -0.2, -0.1).contains("interval down"));
        assert!(scale.draw(-0.1, 0.2, 0.3).contains(r#"class="interval""#));
    }
}
