//! Prompts as the tokens that a model reads, cut in the middle where they are too long.

use serde::{Deserialize, Serialize};

use super::EvaluationError;
#[cfg(feature = "chat")]
use crate::{ChatTemplate, Message};
use crate::{Error, ModelDirectory, Tokenizer};

/// A prompt as tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prompt {
    /// Token ids, special tokens included.
    pub tokens: Vec<u32>,
    /// Whether tokens were cut out of the middle.
    pub cut: bool,
}

/// Makes the prompts of one model.
///
/// ```
/// # #[cfg(feature = "tiny")] {
/// use pear_models::ModelDirectory;
/// use pear_models::evaluation::PromptBuilder;
///
/// let folder = tempfile::tempdir()?;
/// pear_models::tiny::Tiny::Rope.write(folder.path())?;
/// let directory = ModelDirectory::open(folder.path())?;
/// let prompts = PromptBuilder::new(&directory)?.with_max_prompt_tokens(Some(5));
/// let prompt = prompts.build("the old dog sees a boy near the river .", 1)?;
/// assert!(prompt.cut);
/// assert_eq!(prompts.decode(&prompt.tokens)?, "the the river .");
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct PromptBuilder {
    tokenizer: Tokenizer,
    #[cfg(feature = "chat")]
    chat_template: Option<ChatTemplate>,
    vocab_size: usize,
    bos_token: Option<u32>,
    /// How many tokens the model can read, or was trained to.
    context_length: Option<usize>,
    max_prompt_tokens: Option<usize>,
}

impl PromptBuilder {
    /// For the model in a directory. Prompts are cut to what its context length leaves beside the answer.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] without a usable `tokenizer.json`; [`Error::Io`] or [`Error::Malformed`] if `config.json` cannot be read.
    pub fn new(directory: &ModelDirectory) -> Result<Self, Error> {
        let config = directory.config();
        let context_length = match config.max_positions() {
            Some(max_positions) => Some(max_positions),
            None => directory.trained_length()?,
        };
        Ok(Self {
            tokenizer: directory.tokenizer()?,
            #[cfg(feature = "chat")]
            chat_template: None,
            vocab_size: config.vocab_size,
            bos_token: config.bos_token,
            context_length,
            max_prompt_tokens: None,
        })
    }

    /// Cuts prompts to so many tokens, even where the model has room for more.
    pub fn with_max_prompt_tokens(mut self, max_prompt_tokens: Option<usize>) -> Self {
        self.max_prompt_tokens = max_prompt_tokens;
        self
    }

    /// Puts each prompt into a chat template, as a message of the user.
    #[cfg(feature = "chat")]
    pub fn with_chat_template(mut self, chat_template: ChatTemplate) -> Self {
        self.chat_template = Some(chat_template);
        self
    }

    /// Whether prompts are put into a chat template.
    pub fn is_chat(&self) -> bool {
        #[cfg(feature = "chat")]
        return self.chat_template.is_some();
        #[cfg(not(feature = "chat"))]
        return false;
    }

    /// How many tokens a prompt may have where `max_new_tokens` follow it; `None` if there is no bound.
    ///
    /// # Errors
    /// [`EvaluationError::Option`] if there is room for less than two.
    pub fn room(&self, max_new_tokens: usize) -> Result<Option<usize>, Error> {
        let beside_answer = self
            .context_length
            .map(|length| length.saturating_sub(max_new_tokens));
        if let (Some(0 | 1), Some(length)) = (beside_answer, self.context_length) {
            return Err(EvaluationError::Option {
                option: "max_new_tokens",
                value: max_new_tokens.to_string(),
                expected: format!("room for a prompt beside them in the model's {length} tokens"),
            }
            .into());
        }
        if let Some(limit @ (0 | 1)) = self.max_prompt_tokens {
            return Err(EvaluationError::Option {
                option: "max_prompt_tokens",
                value: limit.to_string(),
                expected: "at least 2".into(),
            }
            .into());
        }
        Ok(self
            .max_prompt_tokens
            .into_iter()
            .chain(beside_answer)
            .min())
    }

    /// The prompt for a text, with room for `max_new_tokens` after it.
    ///
    /// Of a prompt that is too long the first and the last half of the allowed tokens are kept, as in LongBench; but LongBench decodes
    /// the halves and tokenizes their texts again, whereas here the tokens themselves are joined, so that there is one BOS and the
    /// length is exact. With a chat template, only the text of the user is cut and its halves are decoded: the template stays whole.
    ///
    /// # Errors
    /// [`EvaluationError::Option`] if there is no room for a prompt; [`Error::Input`] if it begins with two BOS tokens or has tokens
    /// outside the vocabulary; whatever the tokenizer or the chat template fails with.
    pub fn build(&self, text: &str, max_new_tokens: usize) -> Result<Prompt, Error> {
        let room = self.room(max_new_tokens)?.unwrap_or(usize::MAX);
        let prompt = self.encode(text, room)?;
        self.check_bos(&prompt.tokens)?;
        check_vocabulary(&prompt.tokens, self.vocab_size)?;
        Ok(prompt)
    }

    /// # Errors
    /// [`Error::Input`] for a prompt that begins with two BOS tokens.
    fn check_bos(&self, tokens: &[u32]) -> Result<(), Error> {
        match (self.bos_token, tokens) {
            (Some(bos), [first, second, ..]) if (*first, *second) == (bos, bos) => {
                Err(Error::Input(format!(
                    "the prompt begins with two BOS tokens ({bos}), one of the tokenizer and one of the template: remove the latter"
                )))
            }
            _ => Ok(()),
        }
    }

    /// The prompt for a text with `lead`, the beginning of an answer, after it, and the tokens of `rest`, which follows.
    ///
    /// In a chat template the answer is tokenized on its own. In plain text it continues the prompt, so that it needs the space before it.
    /// A token that the tokenizer makes of the end of one part and the beginning of the next belongs to the rest.
    ///
    /// # Errors
    /// As [`build`](Self::build); [`Error::Input`] for an answer without a token of its own.
    pub fn build_with_answer(
        &self,
        text: &str,
        lead: &str,
        rest: &str,
    ) -> Result<(Prompt, Vec<u32>), Error> {
        let is_chat = self.is_chat();
        let encode = |answer: &str| {
            if is_chat {
                self.tokenizer.encode_rendered(answer)
            } else {
                self.tokenizer.encode(&format!("{text}{answer}"))
            }
        };
        let (mut before, rest_tokens) =
            split_at_common(encode(&format!("{lead}{rest}"))?, &encode(lead)?);
        if rest_tokens.is_empty() {
            return Err(Error::Input(format!(
                "the answer `{rest}` has no tokens of its own"
            )));
        }
        check_vocabulary(&before, self.vocab_size)?;
        check_vocabulary(&rest_tokens, self.vocab_size)?;
        let prompt = if is_chat {
            let mut prompt = self.build(text, before.len() + rest_tokens.len())?;
            prompt.tokens.append(&mut before);
            prompt
        } else {
            let room = self.room(rest_tokens.len())?.unwrap_or(usize::MAX);
            cut_middle(before, room)
        };
        self.check_bos(&prompt.tokens)?;
        Ok((prompt, rest_tokens))
    }

    /// The text of generated tokens, without special tokens.
    ///
    /// # Errors
    /// [`Error::Tokenizer`].
    pub fn decode(&self, tokens: &[u32]) -> Result<String, Error> {
        self.tokenizer.decode(tokens)
    }

    fn encode(&self, text: &str, room: usize) -> Result<Prompt, Error> {
        #[cfg(feature = "chat")]
        if let Some(chat_template) = &self.chat_template {
            return self.encode_chat(chat_template, text, room);
        }
        Ok(cut_middle(self.tokenizer.encode(text)?, room))
    }

    #[cfg(feature = "chat")]
    fn encode_chat(
        &self,
        chat_template: &ChatTemplate,
        text: &str,
        room: usize,
    ) -> Result<Prompt, Error> {
        let render = |text: &str| -> Result<Vec<u32>, Error> {
            let conversation = chat_template.render(&[Message::user(text)], true)?;
            self.tokenizer.encode_rendered(&conversation)
        };
        let whole = render(text)?;
        if whole.len() <= room {
            return Ok(Prompt {
                tokens: whole,
                cut: false,
            });
        }
        let text_tokens = self.tokenizer.encode_rendered(text)?;
        let around_text = whole.len().saturating_sub(text_tokens.len());
        let mut kept = room.saturating_sub(around_text).min(text_tokens.len());
        while kept >= 2 {
            let first = kept / 2;
            let head = self.tokenizer.decode(&text_tokens[..first])?;
            let last = text_tokens.len() - (kept - first);
            let tail = self.tokenizer.decode(&text_tokens[last..])?;
            let tokens = render(&(head + &tail))?;
            if tokens.len() <= room {
                return Ok(Prompt { tokens, cut: true });
            }
            // Joined halves may tokenize to a few tokens more.
            kept = kept.saturating_sub(tokens.len() - room);
        }
        Err(Error::Input(format!(
            "the chat template leaves no room for a prompt in {room} tokens"
        )))
    }
}

/// # Errors
/// [`Error::Input`] if a token of the tokenizer is outside the model's vocabulary.
pub(super) fn check_vocabulary(tokens: &[u32], vocab_size: usize) -> Result<(), Error> {
    match tokens.iter().find(|&&id| id as usize >= vocab_size) {
        Some(id) => Err(Error::Input(format!(
            "the tokenizer gives token {id}, which is not in the vocabulary of {vocab_size}"
        ))),
        None => Ok(()),
    }
}

/// The tokens that `tokens` and `other` begin with, and the rest of `tokens`.
fn split_at_common(mut tokens: Vec<u32>, other: &[u32]) -> (Vec<u32>, Vec<u32>) {
    let common = tokens.iter().zip(other).take_while(|(a, b)| a == b).count();
    let rest = tokens.split_off(common);
    (tokens, rest)
}

/// The first and the last half of `room` tokens.
fn cut_middle(mut tokens: Vec<u32>, room: usize) -> Prompt {
    let cut = tokens.len() > room;
    if cut {
        let first = room / 2;
        tokens.drain(first..tokens.len() - (room - first));
    }
    Prompt { tokens, cut }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_of_a_long_prompt_are_kept() {
        let cut = |room| {
            let prompt = cut_middle((0..10).collect(), room);
            (prompt.tokens, prompt.cut)
        };
        assert_eq!(cut(10), ((0..10).collect(), false));
        assert_eq!(cut(5), (vec![0, 1, 7, 8, 9], true));
        assert_eq!(cut(4), (vec![0, 1, 8, 9], true));
    }
}
