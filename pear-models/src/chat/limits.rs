//! Limits of chat templates: programs that come with a model.

use std::collections::BTreeSet;
use std::io::{self, Write};

use minijinja::{Error, ErrorKind};

/// Instructions that a template may run: a second's worth, of which the longest conversations take a hundredth.
pub(super) const FUEL: u64 = 10_000_000;
/// Bytes that a template may write.
pub(super) const MAX_OUTPUT: usize = 1 << 26;
/// Bytes of a template: published ones have at most a tenth.
const MAX_SOURCE: usize = 1 << 20;
/// Names, numbers, texts and signs between two braces: an expression may be as deep as it is long.
const MAX_TOKENS: usize = 4000;
/// Characters of an error.
const LONGEST_MESSAGE: usize = 500;
/// Room for expressions of so many tokens.
const STACK: usize = 1 << 26;

/// An error of a template with its causes, without the source around it; cut where a template's own message is long.
pub(super) fn problem(error: &Error) -> String {
    let mut problem = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        problem += &format!(": {error}");
        cause = error.source();
    }
    match problem.char_indices().nth(LONGEST_MESSAGE) {
        Some((end, _)) => format!("{} …", &problem[..end]),
        None => problem,
    }
}

/// What a template that writes too much is told.
pub(super) fn too_large() -> Error {
    Error::new(
        ErrorKind::InvalidOperation,
        format!("writes more than {MAX_OUTPUT} bytes"),
    )
}

/// Runs `f` where deep expressions have room.
pub(super) fn on_large_stack<T: Send>(
    f: impl FnOnce() -> Result<T, Error> + Send,
) -> Result<T, Error> {
    let failed = |problem: String| Error::new(ErrorKind::InvalidOperation, problem);
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("chat template".into())
            .stack_size(STACK)
            .spawn_scoped(scope, f)
            .map_err(|e| failed(format!("no thread for it: {e}")))?
            .join()
            .unwrap_or_else(|_| Err(failed("the template library failed".into())))
    })
}

/// What a template writes, up to [`MAX_OUTPUT`].
#[derive(Debug, Default)]
pub(super) struct Output {
    bytes: Vec<u8>,
    is_full: bool,
}

impl Output {
    /// The text, if `rendered` went well.
    pub(super) fn finish(self, rendered: Result<(), Error>) -> Result<String, Error> {
        if self.is_full {
            return Err(too_large());
        }
        rendered?;
        String::from_utf8(self.bytes)
            .map_err(|e| Error::new(ErrorKind::InvalidOperation, format!("writes no UTF-8: {e}")))
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > MAX_OUTPUT {
            self.is_full = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    Name(&'a str),
    Text,
    Sign(u8),
}

impl<'a> Token<'a> {
    fn name(&self) -> Option<&'a str> {
        match self {
            Self::Name(name) => Some(name),
            _ => None,
        }
    }
}

/// The tags of a template, `{{ … }}` and `{% … %}`, as tokens.
struct Tags<'a>(&'a str);

impl<'a> Iterator for Tags<'a> {
    type Item = Vec<Token<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let start = self.0.find("{")?;
            let rest = &self.0[start + 1..];
            self.0 = rest;
            match rest.as_bytes().first() {
                Some(b'#') => self.0 = rest.find("#}").map_or("", |end| &rest[end + 2..]),
                Some(b'{' | b'%') => {
                    let (tag, rest) = tokens(&rest[1..]);
                    self.0 = rest;
                    return Some(tag);
                }
                _ => {}
            }
        }
    }
}

/// The tokens up to the end of a tag, and what follows.
fn tokens(source: &str) -> (Vec<Token<'_>>, &str) {
    let bytes = source.as_bytes();
    let is_of_name = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    let (mut tokens, mut at, mut open) = (Vec::new(), 0, 0usize);
    while at < bytes.len() {
        let byte = bytes[at];
        let is_end = matches!(byte, b'}' | b'%') && bytes.get(at + 1) == Some(&b'}');
        if is_end && open == 0 {
            return (tokens, &source[at + 2..]);
        }
        let length = match byte {
            b'"' | b'\'' => {
                tokens.push(Token::Text);
                text_length(&bytes[at..])
            }
            _ if is_of_name(&byte) => {
                let length = bytes[at..]
                    .iter()
                    .take_while(|byte| is_of_name(byte))
                    .count();
                tokens.push(Token::Name(&source[at..at + length]));
                length
            }
            _ => {
                match byte {
                    b'{' => open += 1,
                    b'}' => open = open.saturating_sub(1),
                    _ => {}
                }
                // `{%-` and `-%}` are no part of an expression.
                let is_trim = matches!(byte, b'-' | b'+') && tokens.is_empty();
                if !byte.is_ascii_whitespace() && !is_trim {
                    tokens.push(Token::Sign(byte));
                }
                1
            }
        };
        at += length;
    }
    (tokens, "")
}

/// Bytes of a quoted text at the beginning, with its quotes.
fn text_length(bytes: &[u8]) -> usize {
    let mut at = 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 1,
            byte if byte == bytes[0] => return at + 1,
            _ => {}
        }
        at += 1;
    }
    bytes.len()
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
