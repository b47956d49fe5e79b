//! Tables and files of results.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Map, Value, json};

use super::Answered;
use super::metrics::{Scores, is_empty_reference};
use crate::statistics::{Estimate, Paired, p_text};

/// All answers of the baseline, and those with PEAR to the same questions if there were any.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Without PEAR.
    pub baseline: Vec<Answered>,
    /// With it, in the same order.
    pub pear: Vec<Answered>,
}

const SHOWN: [&str; 4] = ["best sub-span EM", "substring", "exact match", "F1"];

impl Report {
    fn runs(&self) -> impl Iterator<Item = (&'static str, &[Answered])> {
        [("baseline", &self.baseline[..]), ("pear", &self.pear[..])]
            .into_iter()
            .filter(|(_, answers)| !answers.is_empty())
    }

    /// Groups in the order of the questions; more than one, then all together.
    fn groups(&self) -> Vec<Option<&str>> {
        let mut groups: Vec<&str> = Vec::new();
        for answered in &self.baseline {
            if !groups.contains(&answered.group.as_str()) {
                groups.push(&answered.group);
            }
        }
        if groups.len() == 1 {
            vec![None]
        } else {
            groups.into_iter().map(Some).chain([None]).collect()
        }
    }

    /// References that normalise to nothing, which the first score counts as found in any answer.
    fn empty_references(&self) -> usize {
        self.baseline
            .iter()
            .filter(|answered| {
                answered
                    .answers
                    .iter()
                    .any(|reference| is_empty_reference(reference))
            })
            .count()
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut text = format!("{:<22}{:<10}{:>7}", "", "", "number");
        SHOWN.iter().for_each(|name| _ = write!(text, "{name:>24}"));
        text.push('\n');
        for group in self.groups() {
            let mut name = group.unwrap_or("all");
            for (run, answers) in self.runs() {
                let scores = columns(answers, group);
                let _ = write!(
                    text,
                    "{name:<22}{:<10}{:>7}",
                    if run == "pear" { "PEAR" } else { run },
                    scores[0].len()
                );
                for scores in &scores {
                    let Estimate {
                        mean, low, high, ..
                    } = Estimate::of(scores);
                    let cell = format!(
                        "{:.1} % [{:.1}, {:.1}]",
                        100.0 * mean,
                        100.0 * low,
                        100.0 * high
                    );
                    let _ = write!(text, "{cell:>24}");
                }
                text.push('\n');
                name = "";
            }
            if !self.pear.is_empty() {
                let _ = write!(text, "{:<22}{:<17}", "", "change");
                for (before, after) in columns(&self.baseline, group)
                    .iter()
                    .zip(&columns(&self.pear, group))
                {
                    let Paired {
                        difference,
                        p_value,
                        ..
                    } = Paired::of(before, after);
                    let cell = format!("{:+.1}, p = {}", 100.0 * difference, p_text(p_value));
                    let _ = write!(text, "{cell:>24}");
                }
                text.push('\n');
            }
        }
        text += "\n[95 % interval]; p: sign test on the questions that changed (for right or wrong: McNemar's exact test)\n";
        if self.empty_references() > 0 {
            let _ = writeln!(
                text,
                "{} questions have an answer that normalises to nothing, such as `The`: best sub-span EM gives them 1, as published",
                self.empty_references()
            );
        }
        for (run, answers) in self.runs() {
            let speed = Speed::of(answers);
            let _ = writeln!(
                text,
                "{run}: {:.1} s, {} prompt tokens ({} prompts cut in the middle), {} new ones, {:.0} tokens a second",
                speed.seconds,
                speed.prompt_tokens,
                speed.cut,
                speed.new_tokens,
                speed.rate()
            );
        }
        text
    }

    /// For programs: `{"baseline": {…}, "pear": {…}, "paired": {…}}`.
    pub fn json(&self) -> Map<String, Value> {
        let mut all = Map::new();
        for (run, answers) in self.runs() {
            let mut result = estimates(answers, None);
            let by_group: BTreeMap<&str, Map<String, Value>> = self
                .groups()
                .into_iter()
                .flatten()
                .map(|group| (group, estimates(answers, Some(group))))
                .collect();
            let speed = Speed::of(answers);
            result.extend([
                ("by_group".into(), json!(by_group)),
                ("empty_references".into(), self.empty_references().into()),
                ("seconds".into(), speed.seconds.into()),
                ("prompt_tokens".into(), speed.prompt_tokens.into()),
                ("prompts_cut".into(), speed.cut.into()),
                ("new_tokens".into(), speed.new_tokens.into()),
                ("tokens_per_second".into(), speed.rate().into()),
            ]);
            all.insert(run.into(), result.into());
        }
        if !self.pear.is_empty() {
            let paired = |group: Option<&str>| -> Value {
                let columns = columns(&self.baseline, group)
                    .into_iter()
                    .zip(columns(&self.pear, group));
                Scores::NAMES
                    .iter()
                    .zip(columns)
                    .map(|(name, (a, b))| (name.to_string(), json!(Paired::of(&a, &b))))
                    .collect()
            };
            let mut result = paired(None);
            result["by_group"] = self
                .groups()
                .into_iter()
                .flatten()
                .map(|group| (group.to_owned(), paired(Some(group))))
                .collect();
            all.insert("paired".into(), result);
        }
        all
    }
}

/// Each score of each answer of a group, or of all.
fn columns(answers: &[Answered], group: Option<&str>) -> [Vec<f64>; 4] {
    let of = |column: usize| {
        let asked = answers
            .iter()
            .filter(|answered| group.is_none_or(|group| answered.group == group));
        asked
            .map(|answered| answered.scores.values()[column])
            .collect()
    };
    [of(0), of(1), of(2), of(3)]
}

fn estimates(answers: &[Answered], group: Option<&str>) -> Map<String, Value> {
    let columns = columns(answers, group);
    let mut result = Map::from_iter([("questions".into(), columns[0].len().into())]);
    let mut intervals = Map::new();
    for (name, scores) in Scores::NAMES.iter().zip(&columns) {
        let estimate = Estimate::of(scores);
        result.insert(name.to_string(), estimate.mean.into());
        intervals.insert(name.to_string(), json!([estimate.low, estimate.high]));
    }
    result.insert("intervals".into(), intervals.into());
    result
}

#[derive(Default)]
struct Speed {
    seconds: f64,
    prompt_tokens: usize,
    new_tokens: usize,
    cut: usize,
}

impl Speed {
    fn of(answers: &[Answered]) -> Self {
        answers.iter().fold(Self::default(), |sum, answered| Self {
            seconds: sum.seconds + answered.seconds,
            prompt_tokens: sum.prompt_tokens + answered.prompt_tokens,
            new_tokens: sum.new_tokens + answered.new_tokens,
            cut: sum.cut + usize::from(answered.cut),
        })
    }

    fn rate(&self) -> f64 {
        (self.prompt_tokens + self.new_tokens) as f64 / self.seconds
    }
}
