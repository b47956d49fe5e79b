//! The tags of a template as tokens.

/// A part of a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    Name(&'a str),
    Text,
    Sign(u8),
}

impl<'a> Token<'a> {
    pub(super) fn name(&self) -> Option<&'a str> {
        match self {
            Self::Name(name) => Some(name),
            _ => None,
        }
    }
}

/// The tags of a template, `{{ … }}` and `{% … %}`, as tokens.
pub(super) struct Tags<'a>(pub &'a str);

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
