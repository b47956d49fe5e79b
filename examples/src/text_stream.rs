//! Text that grows by one token at a time.

use pear_models::{Error, Tokenizer};

/// Turns tokens into text as they come. A character may be made of several tokens; it is given when it is complete.
#[derive(Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    tokens: Vec<u32>,
    /// Number of tokens whose text was given.
    given: usize,
    /// The given tokens from here on are decoded again with each new one, whose text depends on them.
    context: usize,
}

impl<'a> TextStream<'a> {
    /// An empty text.
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        Self {
            tokenizer,
            tokens: Vec::new(),
            given: 0,
            context: 0,
        }
    }

    /// The text that a token adds, which may be none yet.
    ///
    /// # Errors
    /// A token that cannot be decoded.
    pub fn add(&mut self, token: u32) -> Result<String, Error> {
        self.tokens.push(token);
        let (before, text) = self.decode()?;
        match text.strip_prefix(&before) {
            Some(new) if !new.is_empty() && !new.ends_with('\u{fffd}') => {
                (self.context, self.given) = (self.given, self.tokens.len());
                Ok(new.to_owned())
            }
            _ => Ok(String::new()),
        }
    }

    /// The text since `context` that was given, and all of it.
    fn decode(&self) -> Result<(String, String), Error> {
        let before = self
            .tokenizer
            .decode(&self.tokens[self.context..self.given])?;
        let text = self.tokenizer.decode(&self.tokens[self.context..])?;
        Ok((before, text))
    }
}
