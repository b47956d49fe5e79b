//! The Pareto front, and the rule by which one candidate is chosen.

use pear_models::evaluation::PairedDifference;

use super::candidates::Tried;
use super::measures::{Answers, rights};
use super::report::Choice;

/// What a nat of divergence costs, as a share of the conflicting questions: a hundredth of a nat is worth a point.
const PRICE: f64 = 1.0;

/// The rule, as it is stated before anything is measured.
pub const RULE: &str = "of the candidates on the front whose gain on the conflicting development questions is certain (the 95 % interval of \
    the paired difference is above zero) and that answer no fewer of the agreeing ones, the one with the largest gain after its price: each \
    hundredth of a nat of KL must bring a point; if there is none, leave the model alone";

/// The identifiers of the candidates for which no other has as many conflicting questions right at less KL, smallest KL first.
///
/// The unmodified model is on the front, too: what is not better than it is not on it.
pub fn front(tried: &[Tried], baseline: &Answers) -> Vec<String> {
    let mut points: Vec<(f64, f64, &str)> = tried
        .iter()
        .filter_map(|tried| {
            let measures = tried.candidate.measures.as_ref()?;
            Some((
                tried.candidate.divergence.kl,
                measures.conflicting.mean,
                tried.candidate.id.as_str(),
            ))
        })
        .collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.total_cmp(&a.1)));
    let mut best = baseline.measures().conflicting.mean;
    let mut front = Vec::new();
    for (_, mean, id) in points {
        if mean > best {
            best = mean;
            front.push(id.to_owned());
        }
    }
    front
}

/// Chooses by [`RULE`].
pub fn choose(tried: &[Tried], front: &[String], baseline: &Answers) -> Choice {
    let gain = |tried: &Tried| {
        let answers = tried.answers.as_ref()?;
        let [before, after] = [baseline, answers].map(|answers| rights(&answers.conflicting));
        Some(PairedDifference::between(&before, &after))
    };
    let worth = |tried: &Tried, gain: &PairedDifference| {
        gain.difference - PRICE * tried.candidate.divergence.kl
    };
    let agreeing = baseline.measures().agreeing.mean;
    let best = tried
        .iter()
        .filter(|tried| front.contains(&tried.candidate.id))
        .filter(|tried| {
            let measures = tried.candidate.measures.as_ref();
            measures.is_some_and(|measures| measures.agreeing.mean >= agreeing)
        })
        .filter_map(|tried| Some((tried, gain(tried)?)))
        .filter(|(tried, gain)| gain.low > 0.0 && worth(tried, gain) > 0.0)
        // The first of equals, which is the cheapest to explain.
        .reduce(|best, next| {
            if worth(next.0, &next.1) > worth(best.0, &best.1) {
                next
            } else {
                best
            }
        });
    let (candidate, reason) = match best {
        Some((tried, gain)) => (
            Some(tried.candidate.id.clone()),
            format!(
                "{:+.1} points on the conflicting development questions (95 % interval {:+.1} to {:+.1}) at KL {:.4}",
                100.0 * gain.difference,
                100.0 * gain.low,
                100.0 * gain.high,
                tried.candidate.divergence.kl
            ),
        ),
        None => (
            None,
            "no candidate gains on the conflicting development questions beyond doubt and its price, and keeps the agreeing ones".into(),
        ),
    };
    Choice {
        candidate,
        rule: RULE.into(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use pear_models::evaluation::TextDivergence;

    use super::super::measures::Answered;
    use super::super::report::{Candidate, CandidateKind};
    use super::*;

    fn answers(right: usize) -> Answers {
        let answered = |right| Answered {
            right,
            log_prob: -1.0,
        };
        let all: Vec<Answered> = (0..100).map(|index| answered(index < right)).collect();
        Answers {
            conflicting: all.clone(),
            agreeing: all,
            closed_book: Vec::new(),
        }
    }

    fn tried(id: &str, kl: f64, right: usize) -> Tried {
        let answers = answers(right);
        Tried {
            candidate: Candidate {
                id: id.into(),
                description: String::new(),
                kind: CandidateKind::Ranked,
                coefficients: Vec::new(),
                divergence: TextDivergence {
                    kl,
                    same_top_token: 0.9,
                    positions: 10,
                },
                measures: Some(answers.measures()),
                dropped: None,
            },
            answers: Some(answers),
        }
    }

    fn chosen(all: &[Tried]) -> Option<String> {
        let baseline = answers(30);
        choose(all, &front(all, &baseline), &baseline).candidate
    }

    #[test]
    fn the_front_holds_what_no_other_beats() {
        let all = [
            tried("far", 0.1, 60),
            tried("beaten", 0.05, 45),
            tried("near", 0.01, 50),
            tried("worse", 0.001, 29),
        ];
        assert_eq!(front(&all, &answers(30)), ["near", "far"]);
    }

    #[test]
    fn a_gain_must_be_certain_and_worth_its_price() {
        assert_eq!(chosen(&[tried("noise", 0.001, 32)]), None);
        assert_eq!(chosen(&[tried("dear", 0.14, 40)]), None);
        assert_eq!(chosen(&[tried("good", 0.02, 45)]), Some("good".into()));
        assert_eq!(chosen(&[]), None);
    }

    #[test]
    fn agreeing_questions_must_not_be_lost() {
        let mut candidate = tried("lossy", 0.01, 60);
        let measures = candidate.candidate.measures.as_mut().unwrap();
        measures.agreeing = answers(29).measures().agreeing;
        assert_eq!(chosen(&[candidate]), None);
    }

    #[test]
    fn more_gain_wins_unless_it_costs_more_than_it_brings() {
        let near = tried("near", 0.01, 50);
        assert_eq!(
            chosen(&[near.clone(), tried("far", 0.1, 60)]),
            Some("far".into())
        );
        assert_eq!(chosen(&[near, tried("far", 0.12, 60)]), Some("near".into()));
    }
}
