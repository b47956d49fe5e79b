//! Questions in text as tokens.

use anyhow::Result;
use pear_models::evaluation::PromptBuilder;
use pear_models::{ModelDirectory, Tokenizer};

/// The longest prompt, in tokens; longer ones are left out.
const LONGEST_PROMPT: usize = 1024;

/// The tokenizer of a model, as questions need it.
pub struct Encoder {
    tokenizer: Tokenizer,
    /// Where the model has a chat template.
    chat: Option<PromptBuilder>,
    eos_tokens: Vec<u32>,
    vocab_size: usize,
    longest: usize,
}

/// A prompt, and the token that an answer to it begins with.
pub type Encoded = (Vec<u32>, u32);

impl Encoder {
    /// For the model in a directory or file.
    ///
    /// # Errors
    /// A model without a tokenizer.
    pub fn new(directory: &ModelDirectory) -> Result<Self> {
        let config = directory.config();
        let longest = config.max_positions().unwrap_or(LONGEST_PROMPT);
        Ok(Self {
            tokenizer: directory.tokenizer()?,
            chat: match directory.find_chat_template()? {
                Some(template) => Some(PromptBuilder::new(directory)?.with_chat_template(template)),
                None => None,
            },
            eos_tokens: directory.eos_tokens()?,
            vocab_size: config.vocab_size,
            longest: longest.min(LONGEST_PROMPT),
        })
    }

    /// A text as tokens, without an end-of-text token that the tokenizer may put after it.
    ///
    /// # Errors
    /// A text that the tokenizer cannot read.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let mut tokens = self.tokenizer.encode(text)?;
        if tokens.len() > 1
            && tokens
                .last()
                .is_some_and(|last| self.eos_tokens.contains(last))
        {
            tokens.pop();
        }
        Ok(tokens)
    }

    /// A prompt, and the first token of an answer after a space; nothing where the prompt is too long or its tokens change when the answer
    /// follows.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn question(&self, prompt: &str, answer: &str) -> Result<Option<Encoded>> {
        let tokens = self.encode(prompt)?;
        let whole = self.encode(&format!("{prompt} {}", answer.trim()))?;
        let is_usable = (1..=self.longest).contains(&tokens.len())
            && whole.starts_with(&tokens)
            && whole.iter().all(|&id| (id as usize) < self.vocab_size);
        let first = whole.get(tokens.len()).copied();
        Ok(first.filter(|_| is_usable).map(|first| (tokens, first)))
    }

    /// What a user says, in the model's chat template, and the first token of an answer to it; nothing for a model without a template, or
    /// where the prompt is too long.
    ///
    /// # Errors
    /// A text that the tokenizer or the template cannot read.
    pub fn reply(&self, text: &str, answer: &str) -> Result<Option<Encoded>> {
        let Some(chat) = &self.chat else {
            return Ok(None);
        };
        let (prompt, answer) = chat.build_with_answer(text, "", answer.trim())?;
        let is_usable = !prompt.cut && prompt.tokens.len() <= self.longest;
        Ok(is_usable.then(|| (prompt.tokens, answer[0])))
    }

    /// Tokens as text.
    ///
    /// # Errors
    /// Tokens that the tokenizer does not know.
    pub fn decode(&self, tokens: &[u32]) -> Result<String> {
        Ok(self.tokenizer.decode(tokens)?)
    }
}
