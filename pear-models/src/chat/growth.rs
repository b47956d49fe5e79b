//! Lists that a template makes longer by themselves.
//!
//! The template library charges fuel for the texts that a template makes, but not for sums and multiples of lists: it keeps those unmade, up to
//! a depth at which it makes them all at once, however long they have become.

use std::collections::{BTreeMap, BTreeSet};

use super::tokens::Token;

/// Methods whose outcome is as long as what they are called on, and may be a list.
const METHODS: [&str; 5] = ["copy", "get", "items", "keys", "values"];

/// A variable or an attribute of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place<'a> {
    Variable(&'a str),
    Attribute(&'a str),
}

/// What is put into a place, as a part of a tag.
struct Assignment<'t, 'a> {
    place: Place<'a>,
    value: &'t [Token<'a>],
    /// What it reads, as often as it does.
    read: Vec<Place<'a>>,
}

/// The macros of a template.
struct Macros<'a> {
    names: BTreeSet<&'a str>,
    parameters: Vec<Place<'a>>,
    /// Whether one may be called by another name.
    have_aliases: bool,
}

impl<'a> Macros<'a> {
    fn of(tags: &[Vec<Token<'a>>]) -> Self {
        let is_definition =
            |tag: &&Vec<Token<'a>>| matches!(tag[..], [Token::Name("macro" | "call"), ..]);
        let definitions = tags.iter().filter(is_definition);
        let parameters = definitions.clone().flat_map(|tag| tag[1..].iter().skip(1));
        let names: BTreeSet<&str> = definitions
            .filter_map(|tag| tag.get(1).and_then(Token::name))
            .collect();
        let is_alias = |pair: &[Token<'a>]| {
            pair[0].name().is_some_and(|name| names.contains(name)) && pair[1] != Token::Sign(b'(')
        };
        let have_aliases = tags.iter().any(|tag| {
            let ends = tag.last().and_then(Token::name);
            tag.windows(2).any(is_alias) || ends.is_some_and(|name| names.contains(name))
        });
        Self {
            parameters: parameters
                .filter_map(Token::name)
                .map(Place::Variable)
                .collect(),
            names,
            have_aliases,
        }
    }

    /// Whether two tokens begin a call of a macro.
    fn is_called(&self, pair: &[Token<'a>]) -> bool {
        let [Token::Name(name), Token::Sign(b'(')] = pair else {
            return false;
        };
        self.names.contains(name) || self.have_aliases
    }
}

/// The name of a place into which twice its own contents may be put, or its contents and a multiple of something, over and over.
///
/// Neither the order of tags nor scopes are looked at, and places of one name are one place.
pub(super) fn doubling<'a>(tags: &[Vec<Token<'a>>]) -> Option<&'a str> {
    let macros = Macros::of(tags);
    let assignments = assignments(tags, &macros);
    let sources = sources(&assignments);
    let multiples = multiples(&assignments);
    assignments
        .iter()
        .find_map(|Assignment { place, value, read }| {
            let gets_into = |from: &Place<'a>, into: &Place<'a>| {
                sources.get(into).is_some_and(|all| all.contains(from))
            };
            let contains_it = |from: &Place<'a>| gets_into(from, place) && gets_into(place, from);
            let own = read.iter().filter(|from| contains_it(from)).count();
            // A list and a text have no sum.
            let sums = value.contains(&Token::Sign(b'+')) && !is_text(value);
            let multiplied = value.contains(&Token::Sign(b'*'));
            let grows = sums && own > 1
                || own > 0 && multiplied
                || sums && own > 0 && read.iter().any(|from| multiples.contains(from));
            grows.then_some(match *place {
                Place::Variable(name) | Place::Attribute(name) => name,
            })
        })
}

/// What is put where: by `set`, by loops, and by calls of macros, whose parameters may be given any argument of any call.
fn assignments<'t, 'a>(tags: &'t [Vec<Token<'a>>], macros: &Macros<'a>) -> Vec<Assignment<'t, 'a>> {
    let mut found = Vec::new();
    for tag in tags {
        let (into, value) = match tag[..] {
            [
                Token::Name("set"),
                Token::Name(_),
                Token::Sign(b'.'),
                Token::Name(name),
                Token::Sign(b'='),
                ..,
            ] => (vec![Place::Attribute(name)], &tag[5..]),
            [Token::Name("set" | "for"), ..] => {
                let is_end =
                    |token: &Token<'_>| matches!(token, Token::Name("in") | Token::Sign(b'='));
                let at = tag.iter().position(is_end).unwrap_or(tag.len());
                let names = tag[1..at].iter().filter_map(Token::name);
                let value = tag.get(at + 1..).unwrap_or(&[]);
                (names.map(Place::Variable).collect(), value)
            }
            [Token::Name("macro"), ..] => continue,
            _ => (Vec::new(), &tag[..]),
        };
        let mut add = |place: Place<'a>, value: &'t [Token<'a>], read: &[Place<'a>]| {
            let read = read.to_vec();
            found.push(Assignment { place, value, read });
        };
        let read = places(value, macros);
        into.into_iter().for_each(|place| add(place, value, &read));
        for at in 0..value.len() {
            let rest = &value[at..];
            // `namespace(a=b)` makes an attribute.
            if let [Token::Name(name), Token::Sign(b'='), given @ ..] = rest
                && given.first() != Some(&Token::Sign(b'='))
            {
                let given = first_argument(given);
                add(Place::Attribute(name), given, &places(given, macros));
            }
            if rest.len() > 1 && macros.is_called(&rest[..2]) {
                let mut given = &rest[2..2 + length_to_end(&rest[2..])];
                while !given.is_empty() {
                    let argument = first_argument(given);
                    given = given.get(argument.len() + 1..).unwrap_or(&[]);
                    let argument = match argument {
                        [Token::Name(_), Token::Sign(b'='), value @ ..] => value,
                        value => value,
                    };
                    let read = places(argument, macros);
                    let parameters = macros.parameters.iter();
                    parameters.for_each(|&place| add(place, argument, &read));
                }
            }
        }
    }
    found
}

/// The tokens before the first comma, or before the bracket that closes one before them.
fn first_argument<'t, 'a>(tokens: &'t [Token<'a>]) -> &'t [Token<'a>] {
    let tokens = &tokens[..length_to_end(tokens)];
    let mut at = 0;
    while at < tokens.len() {
        match tokens[at] {
            Token::Sign(b',') => break,
            Token::Sign(b'(' | b'[' | b'{') => at += 1 + length_to_end(&tokens[at + 1..]),
            _ => {}
        }
        at += 1;
    }
    &tokens[..at.min(tokens.len())]
}

/// Tokens before the bracket that closes one before them.
fn length_to_end(tokens: &[Token<'_>]) -> usize {
    let mut depth = 0;
    let is_end = |token: &Token<'_>| {
        match token {
            Token::Sign(b'(' | b'[' | b'{') => depth += 1,
            Token::Sign(b')' | b']' | b'}') => depth -= 1,
            _ => {}
        }
        depth < 0
    };
    tokens.iter().position(is_end).unwrap_or(tokens.len())
}

/// The places that an expression reads, as often as it does; not those of conditions and of arguments of macros, whose outcome is a text.
fn places<'a>(expression: &[Token<'a>], macros: &Macros<'a>) -> Vec<Place<'a>> {
    let sign = |at: Option<usize>, sign: u8| {
        at.and_then(|at| expression.get(at)) == Some(&Token::Sign(sign))
    };
    let place = |at: usize, name: &'a str| {
        if sign(at.checked_sub(1), b'.') {
            return Some(Place::Attribute(name));
        }
        let is_owner = sign(Some(at + 1), b'.');
        let method = expression.get(at + 2).and_then(Token::name);
        let is_whole = method.is_some_and(|name| METHODS.contains(&name));
        (!is_owner || is_whole).then_some(Place::Variable(name))
    };
    let (mut found, mut at, mut is_condition) = (Vec::new(), 0, false);
    while at < expression.len() {
        match expression[at] {
            Token::Name("if") => is_condition = true,
            Token::Name("else") => is_condition = false,
            Token::Name(name) if macros.names.contains(name) && sign(Some(at + 1), b'(') => {
                at += 2 + length_to_end(&expression[at + 2..]);
            }
            Token::Name(name) if !is_condition => found.extend(place(at, name)),
            _ => {}
        }
        at += 1;
    }
    found
}

/// Whether an expression is a sum of which a term is a text in quotes.
fn is_text(expression: &[Token<'_>]) -> bool {
    let mut depth = 0;
    expression.iter().enumerate().any(|(at, token)| {
        match token {
            Token::Sign(b'(' | b'[' | b'{') => depth += 1,
            Token::Sign(b')' | b']' | b'}') => depth -= 1,
            _ => {}
        }
        let is = |at: Option<usize>, signs: &[u8]| {
            at.and_then(|at| expression.get(at))
                .is_some_and(|token| signs.iter().any(|&sign| *token == Token::Sign(sign)))
        };
        let is_term = is(at.checked_sub(1), b"+") || is(Some(at + 1), b"+");
        depth == 0 && *token == Token::Text && is_term && !is(Some(at + 1), b"|.[*")
    })
}

/// The places whose contents may get into each place, over any number of steps.
fn sources<'a>(assignments: &[Assignment<'_, 'a>]) -> BTreeMap<Place<'a>, BTreeSet<Place<'a>>> {
    let mut sources: BTreeMap<Place<'a>, BTreeSet<Place<'a>>> = BTreeMap::new();
    for assignment in assignments {
        let read = assignment.read.iter().copied();
        sources.entry(assignment.place).or_default().extend(read);
    }
    loop {
        let mut is_done = true;
        let known = sources.clone();
        for all in sources.values_mut() {
            let before = all.len();
            let further: Vec<_> = all
                .iter()
                .filter_map(|from| known.get(from))
                .flatten()
                .copied()
                .collect();
            all.extend(further);
            is_done &= all.len() == before;
        }
        if is_done {
            return sources;
        }
    }
}

/// The places that may hold a multiple of something.
fn multiples<'a>(assignments: &[Assignment<'_, 'a>]) -> BTreeSet<Place<'a>> {
    let mut multiples = BTreeSet::new();
    loop {
        let before = multiples.len();
        for assignment in assignments {
            let is_multiple = assignment.value.contains(&Token::Sign(b'*'))
                || assignment.read.iter().any(|from| multiples.contains(from));
            if is_multiple {
                multiples.insert(assignment.place);
            }
        }
        if multiples.len() == before {
            return multiples;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tokens::Tags;
    use super::*;

    fn found(template: &str) -> Option<&str> {
        let tags: Vec<Vec<Token<'_>>> = Tags(template).collect();
        doubling(&tags)
    }

    #[test]
    fn lists_that_are_added_to_themselves_are_found() {
        for template in [
            "{% set n.a = n.a + n.a %}",
            "{% set n.b = n.a %}{% set n.a = n.a + n.b %}",
            "{% for x in messages %}{% set a = b + b %}{% set b = a %}{% endfor %}",
            "{% macro f(x, n) %}{% if n %}{{ f(x + x, n - 1) }}{% endif %}{% endmacro %}{{ f([1], 99) }}",
            "{% set n.a = n.a * 10 %}",
            "{% set y = [1] * 100000000 %}{% set n.a = n.a + y %}",
            "{% macro f(x) %}{{ g(x + x) }}{% endmacro %}{% set g = f %}{{ g([1]) }}",
            "{% set n.a = n.a + n.a + ''|list %}",
            "{% set n.a = n.a + n.a + {'': []}['' + x] %}",
            "{% set n = namespace(a=[1]) %}{% set n.a = n.a.copy() + n.a.copy() %}",
        ] {
            assert!(found(template).is_some(), "{template}");
        }
    }

    #[test]
    fn what_templates_do_is_left_alone() {
        for template in [
            "{% set ns.i = ns.i + 1 %}{% set ns.text = ns.text + m.content + '\n' %}",
            "{% set messages = [first] + messages[1:] %}",
            "{% set content = content.split('a')[0] + content.split('b')[1] %}",
            "{% set text = '-' * 3 %}{% set ns.text = ns.text ~ 'x' %}",
            "{% set x = a + a %}{{ x + x }}",
            "{% set ns.p = ns.p + ('\n' if ns.p else '') + 'Tools: [' %}",
            "{% macro f(v, d=0, m='-') %}{% for x in v %}{{ '  ' * d }}{{ f(x, d + 1) }}{{ f(x, d=d + 1, m='+') }}{% endfor %}{% endmacro %}",
            "{% macro f(p) %}{{ p }}{% endmacro %}{% set n.a = n.a + [x + '=' + f(x)] %}{% set n.b = n.b + [n.a | join] %}",
            "{% macro f(p) %}{% for x in p %}{{ '+' + f(x) + f(p[x]) }}{% endfor %}{% endmacro %}",
        ] {
            assert_eq!(found(template), None, "{template}");
        }
    }
}
