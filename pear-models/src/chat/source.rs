//! What a template is checked for before it is compiled: what no limit at run time would stop.

use std::collections::BTreeSet;

use super::growth::doubling;
use super::tokens::{Tags, Token};

/// Bytes of a template: published ones have at most a tenth.
const MAX_SOURCE: usize = 1 << 20;
/// Names, numbers, texts and signs between two braces: an expression may be as deep as it is long.
const MAX_TOKENS: usize = 4000;

/// Checks a template before it is compiled; the problem if it has one.
///
/// A namespace that contains itself has no end when it is written, and the template library does not look for one. So nothing is put into a
/// namespace that may hold one.
pub(super) fn check(source: &str) -> Result<(), String> {
    if source.len() > MAX_SOURCE {
        return Err(format!(
            "{} bytes long: expected at most {MAX_SOURCE}",
            source.len()
        ));
    }
    let tags: Vec<Vec<Token>> = Tags(source).collect();
    if let Some(tag) = tags.iter().find(|tag| tag.len() > MAX_TOKENS) {
        return Err(format!(
            "an expression of {} parts: expected at most {MAX_TOKENS}",
            tag.len()
        ));
    }
    if let Some(name) = doubling(&tags) {
        return Err(format!(
            "`{name}` grows by itself, and could fill any memory"
        ));
    }
    let holders = holders(&tags);
    for tag in &tags {
        let put = match tag[..] {
            [Token::Name("set"), Token::Name(_), Token::Sign(b'.'), ..] => &tag[3..],
            _ => match tag
                .iter()
                .position(|token| *token == Token::Name(NAMESPACE))
            {
                Some(at) => &tag[at + 1..],
                None => continue,
            },
        };
        let made = put.contains(&Token::Name(NAMESPACE)).then_some(NAMESPACE);
        if let Some(name) = made.or_else(|| held(put, &holders)) {
            return Err(format!(
                "`{name}`, which may be a namespace, is put into one: it could contain itself"
            ));
        }
    }
    Ok(())
}

const NAMESPACE: &str = "namespace";

/// The names that may hold a namespace, on their own or in a list.
fn holders<'a>(tags: &[Vec<Token<'a>>]) -> BTreeSet<&'a str> {
    let mut holders = BTreeSet::new();
    loop {
        let before = holders.len();
        let mut is_passed = false;
        for tag in tags {
            let (names, value) = match tag[..] {
                [Token::Name("set"), Token::Name(name), Token::Sign(b'='), ..] => {
                    (vec![name], &tag[3..])
                }
                [Token::Name("for"), ..] => {
                    let at = tag.iter().position(|token| *token == Token::Name("in"));
                    let (names, value) = tag.split_at(at.unwrap_or(tag.len()));
                    (names[1..].iter().filter_map(Token::name).collect(), value)
                }
                _ => (Vec::new(), &tag[..]),
            };
            let holds = value.contains(&Token::Name(NAMESPACE)) || held(value, &holders).is_some();
            if holds {
                holders.extend(names);
            }
            let is_made_in_call = value
                .windows(2)
                .any(|pair| matches!(pair, [Token::Sign(b'(' | b','), Token::Name(NAMESPACE)]));
            let has_call = value.contains(&Token::Sign(b'('));
            is_passed |= is_made_in_call || has_call && held(value, &holders).is_some();
        }
        // A macro may be called with one.
        if is_passed {
            let parameters = tags
                .iter()
                .filter(|tag| matches!(tag[..], [Token::Name("macro" | "call"), ..]))
                .flat_map(|tag| tag[1..].iter().filter_map(Token::name));
            holders.extend(parameters.filter(|name| *name != NAMESPACE));
        }
        if holders.len() == before {
            return holders;
        }
    }
}

/// A name of an expression that stands for what it holds, not for one of its attributes.
fn held<'a>(expression: &[Token<'a>], holders: &BTreeSet<&str>) -> Option<&'a str> {
    expression.iter().enumerate().find_map(|(at, token)| {
        let name = token.name().filter(|name| holders.contains(name))?;
        let is_attribute = at > 0 && expression[at - 1] == Token::Sign(b'.');
        let is_owner = expression.get(at + 1) == Some(&Token::Sign(b'.'));
        // `f(name=…)`, and not `name == …`.
        let is_argument = at > 0
            && matches!(expression[at - 1], Token::Sign(b'(' | b','))
            && expression.get(at + 1) == Some(&Token::Sign(b'='))
            && expression.get(at + 2) != Some(&Token::Sign(b'='));
        (!is_attribute && !is_owner && !is_argument).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_put_into_a_namespace_that_may_hold_one() {
        for fine in [
            "{% set ns = namespace(a=1, b=[]) %}{% set ns.a = ns.a + 1 %}{{ ns.b }}{{ x.ns }}",
            "{%- set ns = namespace(found=false) -%}{% if not ns.found %}{% set ns.found = f(ns=2) %}{% endif %}",
            "{# ns #}{{ {'a': {'b': 1}} }} ns {{ 'ns' }}{% set ns.x = 'ns' %}",
            "{% set c = namespace(text='') %}{% set c.text = c.text ~ m.c %}{% set c = m.content %}{{ c }}",
            "{% macro f(m) %}{% set n = namespace(a=m) %}{% set n.a = m.x %}{% endmacro %}{{ f(messages) }}",
        ] {
            assert_eq!(check(fine), Ok(()), "{fine}");
        }
        for circular in [
            "{% set n = namespace() %}{% set n.a = n %}",
            "{% set n = namespace() %}{% set m = [n] %}{% set n.a = m %}",
            "{% for n in [namespace()] %}{% set n.a = n %}{% endfor %}",
            "{% set l = [namespace()] %}{% set n = l[0] %}{% set n.a = l %}",
            "{% set n = namespace() %}{% set m = namespace(a=n) %}{% set n.a = m %}",
            "{% set n = namespace() %}{% macro f(p) %}{% set n.a = p %}{% endmacro %}{{ f(n) }}",
            "{% set n.a = namespace() %}{% set m = n.a %}{% set m.b = {'x': m} %}",
        ] {
            let problem = check(circular).unwrap_err();
            assert!(problem.contains("is put into one"), "{circular}: {problem}");
        }
    }

    #[test]
    fn templates_and_expressions_have_a_largest_size() {
        assert!(check(&"x".repeat(MAX_SOURCE)).is_ok());
        assert!(
            check(&"x".repeat(MAX_SOURCE + 1))
                .unwrap_err()
                .contains("bytes long")
        );
        let nots = |count: usize| format!("{{{{ {} true }}}}", "not ".repeat(count));
        assert!(check(&nots(MAX_TOKENS - 1)).is_ok());
        assert!(check(&nots(MAX_TOKENS)).unwrap_err().contains("parts"));
        // A text is one of them.
        assert!(check(&format!("{{{{ '{}' }}}}", "not \\' }}".repeat(MAX_TOKENS))).is_ok());
    }
}
