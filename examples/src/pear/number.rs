//! Numbers as people read them, in pages and tables. Minus signs are U+2212, and spaces before units do not break.

use crate::draw::short;

/// A share in per cent: `27.5 %`.
pub(super) fn percent(share: f64) -> String {
    format!("{:.1}\u{a0}%", 100.0 * share)
}

/// A difference between shares in percentage points, with its sign: `+4.7`.
pub(super) fn points(difference: f64) -> String {
    signed(100.0 * difference, 1)
}

/// The ends of an interval of differences between shares, in percentage points: `−1.2 to +4.7`.
pub(super) fn points_interval(low: f64, high: f64) -> String {
    format!("{} to {}", points(low), points(high))
}

/// The ends of an interval of shares, in per cent: `22.1 to 33.4 %`.
pub(super) fn percent_interval(low: f64, high: f64) -> String {
    format!("{:.1} to {}", 100.0 * low, percent(high))
}

/// A number with its sign and this many decimals; what rounds to zero has no sign.
pub(super) fn signed(x: f64, decimals: usize) -> String {
    let text = format!("{:.decimals$}", x.abs());
    if !text.contains(|c: char| matches!(c, '1'..='9')) {
        text
    } else if x < 0.0 {
        format!("−{text}")
    } else {
        format!("+{text}")
    }
}

/// A number with three significant digits.
pub(super) fn three_digits(x: f64) -> String {
    short(x).replace('-', "−")
}

/// A KL divergence. Rounding can leave a tiny one below zero.
pub(super) fn divergence(kl: f64) -> String {
    if kl < 1e-6 { "0".into() } else { short(kl) }
}

/// A p-value: `p = 0.034`, `p < 0.001`.
pub(super) fn p_value(p: f64) -> String {
    if p < 0.001 {
        "p\u{a0}<\u{a0}0.001".into()
    } else {
        format!("p\u{a0}=\u{a0}{p:.3}")
    }
}

/// A large count: `134.5 M`.
pub(super) fn count(n: u64) -> String {
    let x = n as f64;
    match n {
        0..10_000 => n.to_string(),
        10_000..1_000_000 => format!("{:.0}\u{a0}k", x / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1}\u{a0}M", x / 1e6),
        _ => format!("{:.1}\u{a0}B", x / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_have_a_sign_unless_they_round_to_zero() {
        assert_eq!(
            [0.312, -0.032, 0.0, -0.0004, 0.0006].map(points),
            ["+31.2", "−3.2", "0.0", "0.0", "+0.1"]
        );
        assert_eq!(points_interval(-0.012, 0.047), "−1.2 to +4.7");
    }

    #[test]
    fn divergences_below_what_rounding_leaves_are_zero() {
        assert_eq!(
            [-1e-8, 0.0, 0.0423, 1.0].map(divergence),
            ["0", "0", "0.0423", "1.00"]
        );
    }

    #[test]
    fn counts_and_p_values_are_short() {
        assert_eq!(
            [512, 49_152, 134_515_008, 8_030_000_000].map(count),
            ["512", "49\u{a0}k", "134.5\u{a0}M", "8.0\u{a0}B"]
        );
        assert_eq!(
            [0.0, 0.0341, 1.0].map(p_value),
            [
                "p\u{a0}<\u{a0}0.001",
                "p\u{a0}=\u{a0}0.034",
                "p\u{a0}=\u{a0}1.000"
            ]
        );
    }
}
