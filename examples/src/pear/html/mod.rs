//! A page about a run of `pear`: one file without scripts that needs no network.

mod answers;
mod heads;
mod heat_map;
mod interval;

use anyhow::{Context, Result};
use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior, Value, context};
use serde::Serialize;

use super::front::{NARROW, WIDE, inline_svg};
use super::number;
use super::report::{AnswerPair, Report};
use super::theme;
use interval::Scale;

/// Prompts with more characters are folded away.
const LONG: usize = 700;

/// The page as HTML. Everything that comes from the report is escaped.
///
/// # Errors
/// None that a report can cause: a template that does not fit the report, which the tests would show.
pub fn html(report: &Report) -> Result<String> {
    let mut environment = environment();
    let scale = Scale::of(&report.verdict);
    environment.add_function("interval", move |low: f64, mean: f64, high: f64| {
        Value::from_safe_string(scale.draw(low, mean, high))
    });
    let safe = Value::from_safe_string;
    let values = context! {
        report => Value::from(Serde(report)),
        style => safe(style()),
        front_wide => safe(inline_svg(report, WIDE, "wide-only")),
        front_narrow => safe(inline_svg(report, NARROW, "narrow")),
        heads => Value::from(Serde(heads::section(report))),
        answers => Value::from(Serde(report.answers.iter().map(answer).collect::<Vec<_>>())),
    };
    environment
        .template_from_named_str("page.html", include_str!("page.html"))
        .and_then(|page| page.render(values))
        .context("report.html: cannot be drawn")
}

/// The style sheet.
fn style() -> String {
    [
        theme::variables(),
        include_str!("../front/plot.css").into(),
        include_str!("style.css").into(),
        heat_map::shades(),
    ]
    .concat()
}

/// An environment with the filters of the page. Its name ends in `.html`, so that values are escaped.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.add_filter("percent", number::percent);
    environment.add_filter("points", number::points);
    environment.add_filter("divergence", number::divergence);
    environment.add_filter("p_value", number::p_value);
    environment.add_filter("count", number::count);
    environment.add_filter("signed", |x: f64| number::signed(x, 2));
    environment.add_function("points_interval", number::points_interval);
    environment.add_function("percent_interval", number::percent_interval);
    environment.add_function("group_title", group_title);
    environment
}

/// What a group of questions is called.
fn group_title(group: &str) -> String {
    match group {
        "conflicting" => "Context contradicts memory".into(),
        "agreeing" => "Context agrees with memory".into(),
        "closed book" => "No context".into(),
        other => other.into(),
    }
}

/// A question and its answers, marked.
#[derive(Serialize)]
struct Answer<'a> {
    group: &'a str,
    prompt: Value,
    before: Value,
    after: Value,
    /// Number of characters of the prompt.
    length: usize,
    long: bool,
}

fn answer(pair: &AnswerPair) -> Answer<'_> {
    let marked = |text: &str| {
        let html = answers::marked(text.trim(), &pair.context_answer, &pair.memory_answer);
        let html = if html.is_empty() {
            "<i class=\"soft\">nothing</i>".into()
        } else {
            html
        };
        Value::from_safe_string(html)
    };
    let length = pair.prompt.chars().count();
    Answer {
        group: &pair.group,
        prompt: marked(&pair.prompt),
        before: marked(&pair.before),
        after: marked(&pair.after),
        length,
        long: length > LONG,
    }
}
