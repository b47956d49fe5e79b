//! A model card: the README of a repository on the Hugging Face hub, with the facts about a re-weighted model.

use std::fmt::Write;

use super::number::{self, p_value, percent, percent_interval, points, points_interval, signed};
use super::report::{Candidate, CandidateKind, GroupComparison, Outcome, Report, Storage};

/// The card in Markdown, with a head in YAML as the hub expects it. A licence and languages are those of the unmodified model and not in
/// a report: they are left to whoever publishes the model.
pub fn model_card(report: &Report) -> String {
    let mut card = head(report);
    let name = text(&report.model.name);
    let _ = write!(
        card,
        "\n# {name}, re-weighted by PEAR\n\n{}\n",
        introduction(report)
    );
    let _ = write!(card, "\n## Effect\n\n{}", effect(report));
    if !report.verdict.controls.is_empty() {
        let _ = write!(card, "\n{}", controls(report));
    }
    let _ = write!(card, "\n## Coefficients\n\n{}", coefficients(report));
    let _ = write!(card, "\n## How it was made\n\n{}", how(report));
    card
}

/// The metadata.
fn head(report: &Report) -> String {
    let mut yaml = String::from("---\n");
    if is_hub_id(&report.model.name) {
        let _ = writeln!(yaml, "base_model: {}", quoted(&report.model.name));
        yaml += "base_model_relation: finetune\n";
    }
    yaml += match report.model.storage {
        Storage::HuggingFace => "library_name: transformers\n",
        Storage::Gguf => "library_name: gguf\n",
    };
    yaml += "pipeline_tag: text-generation\ntags:\n  - pear\n  - attention-heads\n  - retrieval-augmented-generation\n";
    if report.chosen().is_some() && !report.verdict.groups.is_empty() {
        let name = quoted(&format!("{}, re-weighted by PEAR", report.model.name));
        let _ = writeln!(yaml, "model-index:\n  - name: {name}\n    results:");
        for group in &report.verdict.groups {
            yaml += &result(report, group);
        }
    }
    yaml + "---\n"
}

/// One entry of `model-index`.
fn result(report: &Report, group: &GroupComparison) -> String {
    let dataset = quoted(&format!("{}, {}", report.questions.source, group.group));
    format!(
        concat!(
            "      - task:\n          type: text-generation\n",
            "        dataset:\n          type: pear\n          name: {dataset}\n",
            "        metrics:\n          - type: accuracy\n            name: {counted}\n            value: {value:.4}\n",
        ),
        dataset = dataset,
        counted = quoted(&group.counted),
        value = group.after.mean,
    )
}

fn introduction(report: &Report) -> String {
    let name = text(&report.model.name);
    let Some(chosen) = report.chosen() else {
        return format!(
            "PEAR found no setting for {name} that is worth its cost. {}",
            text(&report.verdict.summary)
        );
    };
    let count = chosen.coefficients.len();
    let heads = report.model.num_layers * report.model.num_heads;
    let advice = match report.verdict.outcome {
        Outcome::Ship => "",
        Outcome::DoNotShip => "**The held-out questions speak against using it.** ",
    };
    format!(
        "{advice}This is {name} with the outputs of {count} of its {heads} attention heads multiplied by fixed numbers, folded into the output \
         projections. Architecture, size and speed are unchanged, and any engine that runs the one runs the other. The numbers were found by \
         [PEAR](https://arxiv.org/abs/2409.19745), which re-weights heads that keep a model from using its context. {}",
        text(&report.verdict.summary)
    )
}

fn effect(report: &Report) -> String {
    let verdict = &report.verdict;
    if verdict.groups.is_empty() {
        return "Nothing was changed.\n".into();
    }
    let mut table = String::from(
        "On questions that were used neither to find the heads nor to choose, with 95 % intervals:\n\n\
         | questions | before | after | change, points | log-probability of the right answer |\n| --- | --- | --- | --- | --- |\n",
    );
    for group in &verdict.groups {
        let (before, after, change, log_prob) =
            (&group.before, &group.after, &group.change, &group.log_prob);
        let _ = writeln!(
            table,
            "| {}, {} of them: {} | {} ({}) | {} ({}) | **{}** ({}), {} | {} ({} to {}) |",
            text(&group.group),
            before.count,
            text(&group.counted),
            percent(before.mean),
            percent_interval(before.low, before.high),
            percent(after.mean),
            percent_interval(after.low, after.high),
            points(change.difference),
            points_interval(change.low, change.high),
            p_value(change.p_value).replace('<', "&lt;"),
            signed(log_prob.difference, 2),
            signed(log_prob.low, 2),
            signed(log_prob.high, 2),
        );
    }
    if let Some(cost) = &verdict.divergence {
        let _ = write!(
            table,
            "\nOn plain text the KL divergence from the unmodified model is {} nats a token, and the same token is likeliest at {} of {} positions.\n",
            number::divergence(cost.kl),
            percent(cost.same_top_token),
            cost.positions
        );
    }
    if let Some(neutral) = &verdict.neutral_regression {
        let _ = write!(
            table,
            "\nOf {} questions with an agreeing context that the unmodified model answers right, {} are answered wrong now: {} ({}).\n",
            neutral.right_before,
            neutral.lost,
            percent(neutral.share.mean),
            percent_interval(neutral.share.low, neutral.share.high)
        );
    }
    table
}

fn controls(report: &Report) -> String {
    let mut table = String::from(
        "The same coefficients on as many random heads, conflicting questions:\n\n| draw | KL | after | change, points |\n| --- | --- | --- | --- |\n",
    );
    for control in &report.verdict.controls {
        let _ = writeln!(
            table,
            "| {} | {} | {} | {} ({}) |",
            control.draw,
            number::divergence(control.divergence.kl),
            percent(control.conflicting.mean),
            points(control.change.difference),
            points_interval(control.change.low, control.change.high)
        );
    }
    table
}

/// Coefficients in the table; the others are in the profile.
const LISTED: usize = 24;

fn coefficients(report: &Report) -> String {
    let Some(chosen) = report.chosen() else {
        return "None.\n".into();
    };
    let mut by_size: Vec<_> = chosen.coefficients.iter().collect();
    by_size.sort_by(|a, b| {
        (b.value - 1.0)
            .abs()
            .total_cmp(&(a.value - 1.0).abs())
            .then(a.head.cmp(&b.head))
    });
    let mut table = format!(
        "{} Heads are counted from 0.\n\n| layer | head | coefficient |\n| --- | --- | --- |\n",
        how_chosen(chosen)
    );
    for c in by_size.iter().take(LISTED) {
        let _ = writeln!(
            table,
            "| {} | {} | {:.3} |",
            c.head.layer, c.head.head, c.value
        );
    }
    if by_size.len() > LISTED {
        let _ = write!(
            table,
            "\n{} others, nearer to 1, are in `profile.json`.\n",
            by_size.len() - LISTED
        );
    }
    table
}

fn how_chosen(candidate: &Candidate) -> String {
    let kind = match candidate.kind {
        CandidateKind::Ranked => "learned for the first heads of the ranking",
        CandidateKind::Fixed => "one number for the first heads of the ranking",
        CandidateKind::AllHeads => {
            "learned for all heads, with a price on the divergence from the unmodified model"
        }
    };
    format!(
        "Candidate {} ({}): {kind}.",
        text(&candidate.id),
        text(&candidate.description)
    )
}

fn how(report: &Report) -> String {
    let model = &report.model;
    let questions = &report.questions;
    format!(
        concat!(
            "{fence}\n{command}\n{fence}\n\n",
            "- Base model: {name}, {architecture}, {parameters} parameters; weights {weights}\n",
            "- Questions: {source}, {development} for development and {held_out} held out\n",
            "- Plain text: {text}\n",
            "- Choice: {rule}\n",
            "- PEAR {version}, seed {seed}; `reproduce.json` has everything that is needed to repeat it\n",
        ),
        fence = fence(&report.settings.command),
        command = report.settings.command.trim(),
        name = text(&model.name),
        architecture = text(&model.architecture),
        parameters = number::count(model.num_parameters),
        weights = text(&model.weights),
        source = text(&questions.source),
        development = questions.development,
        held_out = questions.held_out,
        text = text(&report.text.source),
        rule = text(&report.choice.rule),
        version = text(&report.settings.pear_version),
        seed = report.settings.seed,
    )
}

/// A fence of code that is longer than any within it.
fn fence(code: &str) -> String {
    let longest = code.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    "`".repeat(longest.max(2) + 1)
}

/// Text that stands for itself within a line or a cell of Markdown.
fn text(raw: &str) -> String {
    let mut escaped = String::new();
    for c in raw.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '#' | '~' | '$' | '!' => {
                escaped.push('\\');
                escaped.push(c);
            }
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

/// A string of YAML: JSON's are.
fn quoted(raw: &str) -> String {
    serde_json::Value::from(raw).to_string()
}

/// Whether a name can be that of a repository on the hub: `owner/name`.
fn is_hub_id(name: &str) -> bool {
    let is_part = |part: &str| {
        !part.is_empty()
            && !part.starts_with(['.', '-'])
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
    };
    name.split_once('/')
        .is_some_and(|(owner, name)| is_part(owner) && is_part(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_of_names_stays_text() {
        assert_eq!(text("a|b_<script>\n`x`"), "a\\|b\\_&lt;script&gt; \\`x\\`");
        assert_eq!(quoted("a: \"b\"\n"), r#""a: \"b\"\n""#);
        assert_eq!(fence("a ```` b"), "`````");
        assert_eq!(fence("pear model"), "```");
    }

    #[test]
    fn only_names_of_repositories_are_base_models() {
        assert!(is_hub_id("HuggingFaceTB/SmolLM2-135M-Instruct"));
        for name in ["model", "/model", "a/b/c", "../model", "a b/c", "a/"] {
            assert!(!is_hub_id(name), "{name}");
        }
    }
}
