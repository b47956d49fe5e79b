//! The verdict: what the held-out questions say of the choice.

use pear_models::evaluation::{Estimate, PairedDifference, TextDivergence};

use super::held_out::Measured;
use super::measures::{Answered, Answers, log_probs, rights};
use super::report::{
    Check, Control, GroupComparison, LogProbChange, NeutralRegression, Outcome, Verdict,
};

/// Limits that the choice must keep; shares, but for the divergence.
const MOST_KL: f64 = 0.15;
// The interval of some dozens of questions is this wide where as many are won as lost; the neutral regression has a limit of its own.
const AGREEING_MARGIN: f64 = 0.1;
const MOST_REGRESSION: f64 = 0.05;
const CLOSED_BOOK_MARGIN: f64 = 0.1;

/// Where nothing was chosen.
pub fn nothing_chosen(reason: &str) -> Verdict {
    Verdict {
        outcome: Outcome::DoNotShip,
        summary: format!("Leave the model alone: {reason}."),
        checks: Vec::new(),
        groups: Vec::new(),
        neutral_regression: None,
        divergence: None,
        controls: Vec::new(),
        against_controls: None,
    }
}

/// Judges the choice.
pub fn judge(baseline: &Answers, chosen: &Measured, controls: &[Measured]) -> Verdict {
    let groups = compare_groups(baseline, &chosen.answers);
    let regression = neutral_regression(&baseline.agreeing, &chosen.answers.agreeing);
    let against = against_controls(&chosen.answers, controls);
    let checks = checks(&groups, regression, &against, chosen.divergence);
    let failed = checks.iter().find(|check| !check.holds);
    let (outcome, summary) = match failed {
        None => (Outcome::Ship, ship_summary(&groups[0], chosen.divergence)),
        Some(check) => (
            Outcome::DoNotShip,
            format!(
                "Leave the model alone. Expected: {}; found: {}.",
                check.condition, check.found
            ),
        ),
    };
    let control = |(draw, control): (u64, &Measured)| Control {
        draw,
        coefficients: control.coefficients.clone(),
        divergence: control.divergence,
        conflicting: Estimate::of(&rights(&control.answers.conflicting)),
        change: change(&baseline.conflicting, &control.answers.conflicting),
    };
    Verdict {
        outcome,
        summary,
        checks,
        groups,
        neutral_regression: Some(regression),
        divergence: Some(chosen.divergence),
        controls: (0..).zip(controls).map(control).collect(),
        against_controls: Some(against),
    }
}

fn ship_summary(conflicting: &GroupComparison, divergence: TextDivergence) -> String {
    format!(
        "Use the re-weighted model: it answers {:.1} % of the conflicting questions from the context, {:+.1} points, at KL {:.4}.",
        100.0 * conflicting.after.mean,
        100.0 * conflicting.change.difference,
        divergence.kl
    )
}

fn change(before: &[Answered], after: &[Answered]) -> PairedDifference {
    PairedDifference::between(&rights(before), &rights(after))
}

fn compare_groups(before: &Answers, after: &Answers) -> Vec<GroupComparison> {
    let groups = [
        (
            "conflicting",
            "the context's answer is likelier than the memorised one",
            &before.conflicting,
            &after.conflicting,
        ),
        (
            "agreeing",
            "the answer is the likeliest token",
            &before.agreeing,
            &after.agreeing,
        ),
        (
            "closed book",
            "the answer is the likeliest token",
            &before.closed_book,
            &after.closed_book,
        ),
    ];
    let compare =
        |(group, counted, before, after): (&str, &str, &Vec<_>, &Vec<_>)| GroupComparison {
            group: group.into(),
            counted: counted.into(),
            before: Estimate::of(&rights(before)),
            after: Estimate::of(&rights(after)),
            change: change(before, after),
            log_prob: log_prob_change(before, after),
        };
    groups.into_iter().map(compare).collect()
}

fn log_prob_change(before: &[Answered], after: &[Answered]) -> LogProbChange {
    let mean =
        |answers: &[Answered]| log_probs(answers).iter().sum::<f64>() / answers.len().max(1) as f64;
    let change = PairedDifference::between(&log_probs(before), &log_probs(after));
    LogProbChange {
        before: mean(before),
        after: mean(after),
        difference: change.difference,
        low: change.low,
        high: change.high,
    }
}

fn neutral_regression(before: &[Answered], after: &[Answered]) -> NeutralRegression {
    let lost: Vec<bool> = before
        .iter()
        .zip(after)
        .filter(|(before, _)| before.right)
        .map(|(_, after)| !after.right)
        .collect();
    let share = if lost.is_empty() {
        // Nothing to lose: the mean of nothing is not a number.
        Estimate::of(&[false])
    } else {
        Estimate::of(&lost)
    };
    NeutralRegression {
        right_before: lost.len(),
        lost: lost.iter().filter(|lost| **lost).count(),
        share: Estimate {
            count: lost.len(),
            ..share
        },
    }
}

fn against_controls(chosen: &Answers, controls: &[Measured]) -> PairedDifference {
    let mean_of_controls: Vec<f64> = (0..chosen.conflicting.len())
        .map(|index| {
            let right = controls
                .iter()
                .filter(|control| control.answers.conflicting[index].right);
            right.count() as f64 / controls.len().max(1) as f64
        })
        .collect();
    let chosen: Vec<f64> = rights(&chosen.conflicting)
        .into_iter()
        .map(f64::from)
        .collect();
    PairedDifference::between(&mean_of_controls, &chosen)
}

/// Everything that has to hold, what matters most first.
fn checks(
    groups: &[GroupComparison],
    regression: NeutralRegression,
    against: &PairedDifference,
    divergence: TextDivergence,
) -> Vec<Check> {
    let [conflicting, agreeing, closed_book] = groups else {
        return Vec::new();
    };
    let check = |condition: String, found: String, holds: bool| Check {
        condition,
        found,
        holds,
    };
    vec![
        check(
            "more conflicting questions answered from the context, beyond doubt (95 % interval above zero, p < 0.05)".into(),
            points(&conflicting.change),
            conflicting.change.low > 0.0 && conflicting.change.p_value < 0.05,
        ),
        check(
            "more than with the same numbers on random heads, beyond doubt (95 % interval above zero)".into(),
            points(against),
            against.low > 0.0,
        ),
        check(
            format!("questions with agreeing contexts: at most {} points lost, beyond doubt", percent(AGREEING_MARGIN)),
            points(&agreeing.change),
            agreeing.change.low >= -AGREEING_MARGIN,
        ),
        check(
            format!("neutral regression: at most {} % of what was right with an agreeing context is lost", percent(MOST_REGRESSION)),
            format!("{} of {}", regression.lost, regression.right_before),
            regression.share.mean <= MOST_REGRESSION,
        ),
        check(
            format!("questions without a context: at most {} points lost", percent(CLOSED_BOOK_MARGIN)),
            points(&closed_book.change),
            closed_book.change.difference >= -CLOSED_BOOK_MARGIN,
        ),
        check(
            format!("KL on plain text at most {MOST_KL}"),
            format!("{:.4}", divergence.kl),
            divergence.kl <= MOST_KL,
        ),
    ]
}

fn percent(share: f64) -> f64 {
    (100.0 * share).round()
}

fn points(change: &PairedDifference) -> String {
    format!(
        "{:+.1} points, 95 % interval {:+.1} to {:+.1}, p = {:.2e}",
        100.0 * change.difference,
        100.0 * change.low,
        100.0 * change.high,
        change.p_value
    )
}

#[cfg(test)]
mod tests {
    use pear_core::HeadId;

    use super::super::report::Coefficient;
    use super::*;

    fn answered(right: impl Fn(usize) -> bool) -> Vec<Answered> {
        let answer = |index| Answered {
            right: right(index),
            log_prob: -1.0,
        };
        (0..100).map(answer).collect()
    }

    fn answers(conflicting: usize, agreeing: usize, closed_book: usize) -> Answers {
        Answers {
            conflicting: answered(|index| index < conflicting),
            agreeing: answered(|index| index < agreeing),
            closed_book: answered(|index| index < closed_book),
        }
    }

    fn measured(answers: Answers, kl: f64) -> Measured {
        Measured {
            answers,
            divergence: TextDivergence {
                kl,
                same_top_token: 0.95,
                positions: 100,
            },
            coefficients: vec![Coefficient {
                head: HeadId::new(0, 1),
                value: 0.5,
            }],
        }
    }

    fn outcome(chosen: Measured, control: usize) -> Outcome {
        let controls = [measured(answers(control, 0, 0), 0.01)];
        judge(&answers(30, 95, 100), &chosen, &controls).outcome
    }

    #[test]
    fn a_clear_gain_without_harm_ships() {
        assert_eq!(
            outcome(measured(answers(50, 95, 98), 0.02), 30),
            Outcome::Ship
        );
    }

    #[test]
    fn each_condition_can_forbid_it() {
        for (chosen, control) in [
            (measured(answers(31, 95, 98), 0.02), 30),
            (measured(answers(50, 95, 98), 0.02), 50),
            (measured(answers(50, 85, 98), 0.02), 30),
            (measured(answers(50, 95, 80), 0.02), 30),
            (measured(answers(50, 95, 98), 0.2), 30),
        ] {
            assert_eq!(
                outcome(chosen.clone(), control),
                Outcome::DoNotShip,
                "{chosen:?}"
            );
        }
    }

    #[test]
    fn regression_counts_only_what_was_right() {
        let before = answered(|index| index < 50);
        let after = answered(|index| (2..90).contains(&index));
        let regression = neutral_regression(&before, &after);
        assert_eq!((regression.right_before, regression.lost), (50, 2));
        let nothing = neutral_regression(&answered(|_| false), &after);
        assert_eq!((nothing.right_before, nothing.share.mean), (0, 0.0));
    }
}
