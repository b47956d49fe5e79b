//! Scores of answers against the published Python rules (see `fixtures/metrics/metrics.py`).

use std::fs;
use std::path::Path;

use pear_models::evaluation::metrics::{
    best_subspan_em, exact_match, is_empty_reference, normalize_answer, substring, token_f1,
};
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    answer: String,
    references: Vec<String>,
    normalized: String,
    best_subspan_em: f64,
    substring: f64,
    exact_match: f64,
    f1: f64,
}

#[test]
fn scores_are_those_of_the_published_rules_to_the_last_digit() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/metrics/metrics.json");
    let cases: Vec<Case> = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    assert!(cases.len() >= 60);
    for Case {
        answer,
        references,
        normalized,
        best_subspan_em: subspan,
        substring: plain,
        exact_match: exact,
        f1,
    } in cases
    {
        let what = format!("{answer:?}, {references:?}");
        assert_eq!(normalize_answer(&answer), normalized, "{what}");
        assert_eq!(best_subspan_em(&answer, &references), subspan, "{what}");
        assert_eq!(substring(&answer, &references), plain, "{what}");
        assert_eq!(exact_match(&answer, &references), exact, "{what}");
        assert_eq!(token_f1(&answer, &references), f1, "{what}");
    }
}

#[test]
fn references_that_normalize_to_nothing_are_recognised() {
    assert!(is_empty_reference("The") && is_empty_reference("...") && is_empty_reference(""));
    assert!(!is_empty_reference("Theory"));
}
