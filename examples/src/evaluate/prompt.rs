//! From a prompt's text to the tokens that a model reads.

use anyhow::{Result, bail};
use pear_models::{ChatTemplate, Message, ModelDirectory, Tokenizer};
use serde_json::Value;

/// Makes prompts of one model.
#[derive(Debug)]
pub struct Prompts {
    tokenizer: Tokenizer,
    chat: Option<ChatTemplate>,
    vocab_size: usize,
    bos: Option<u32>,
    /// Tokens that the model has room for.
    room: Option<usize>,
    limit: Option<usize>,
}

impl Prompts {
    /// For the model of a directory; longer prompts than `limit` tokens, or than the model was made for, are cut in the middle. With
    /// `chat` each is what a user says, in the model's chat template.
    ///
    /// # Errors
    /// A directory without a tokenizer or a chat template that is asked for, or whose `config.json` cannot be read.
    pub fn new(directory: &ModelDirectory, limit: Option<usize>, chat: bool) -> Result<Self> {
        let config = directory.config();
        let room = config
            .attention
            .position_embedding
            .max_positions()
            .or(trained_length(directory)?);
        let tokenizer = Tokenizer::open(directory.path())?;
        let chat = chat
            .then(|| ChatTemplate::open(directory.path()))
            .transpose()?;
        Ok(Self {
            tokenizer,
            chat,
            vocab_size: config.vocab_size,
            bos: config.bos_token,
            room,
            limit,
        })
    }

    /// The tokens of a prompt that leaves room for `max_new_tokens`, and whether it was cut.
    ///
    /// Of a prompt that is too long the first and the last half of what there is room for are kept, as LongBench does it; here it is
    /// tokens that are cut and put together, so that there is one BOS and the length is exact, where LongBench decodes both halves and
    /// tokenizes their texts again. Within a chat template the user's text is cut, its halves decoded, so that the template stays whole.
    ///
    /// # Errors
    /// No room, a BOS that is there twice, tokens that the model does not know, or a chat template that fails.
    pub fn tokens(&self, text: &str, max_new_tokens: usize) -> Result<(Vec<u32>, bool)> {
        let room = self.room.map(|room| room.saturating_sub(max_new_tokens));
        let limit = self
            .limit
            .into_iter()
            .chain(room)
            .min()
            .unwrap_or(usize::MAX);
        if limit < 2 {
            bail!(
                "--max-new-tokens {max_new_tokens}: leaves no room for a prompt in the {} tokens there are",
                self.room.unwrap_or(0)
            );
        }
        let (tokens, cut) = match &self.chat {
            None => middle_cut(self.tokenizer.encode(text)?, limit),
            Some(chat) => self.said(chat, text, limit)?,
        };
        if let (Some(bos), [first, second, ..]) = (self.bos, &tokens[..])
            && (*first, *second) == (bos, bos)
        {
            bail!(
                "a prompt begins with two BOS tokens ({bos}): the tokenizer puts one there, and the template another: take it out"
            );
        }
        if let Some(id) = tokens.iter().find(|&&id| id as usize >= self.vocab_size) {
            bail!(
                "the tokenizer gives token {id}, which is not in the vocabulary of {}",
                self.vocab_size
            );
        }
        Ok((tokens, cut))
    }

    /// What a user says, in the chat template.
    fn said(&self, chat: &ChatTemplate, text: &str, limit: usize) -> Result<(Vec<u32>, bool)> {
        let encoded = |text: &str| -> Result<Vec<u32>> {
            Ok(self
                .tokenizer
                .encode_rendered(&chat.render(&[Message::user(text)], true)?)?)
        };
        let whole = encoded(text)?;
        if whole.len() <= limit {
            return Ok((whole, false));
        }
        let own = self.tokenizer.encode_rendered(text)?;
        let mut left = limit.saturating_sub(whole.len() - own.len().min(whole.len()));
        // Halves that are put together may tokenize to a few more.
        while left >= 2 {
            let first = left / 2;
            let halves = [&own[..first], &own[own.len() - (left - first)..]]
                .map(|half| self.tokenizer.decode(half));
            let [head, tail] = halves;
            let tokens = encoded(&(head? + &tail?))?;
            if tokens.len() <= limit {
                return Ok((tokens, true));
            }
            left = left.saturating_sub((tokens.len() - limit).max(1));
        }
        bail!("the chat template leaves no room for a prompt in {limit} tokens")
    }

    /// The text of an answer.
    ///
    /// # Errors
    /// What the tokenizer says.
    pub fn text(&self, tokens: &[u32]) -> Result<String> {
        Ok(self.tokenizer.decode(tokens)?)
    }
}

/// The first and the last half of `limit` tokens, and whether any were cut.
fn middle_cut(mut tokens: Vec<u32>, limit: usize) -> (Vec<u32>, bool) {
    if tokens.len() <= limit {
        return (tokens, false);
    }
    let first = limit / 2;
    tokens.drain(first..tokens.len() - (limit - first));
    (tokens, true)
}

/// How long a text `config.json` says that the model was trained for.
fn trained_length(directory: &ModelDirectory) -> Result<Option<usize>> {
    let path = directory.path().join("config.json");
    let config: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    let keys = [
        "max_position_embeddings",
        "n_positions",
        "max_seq_len",
        "seq_length",
        "model_max_length",
    ];
    Ok(keys
        .iter()
        .find_map(|key| config[key].as_u64())
        .map(|length| length as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_of_a_long_prompt_stay() {
        assert_eq!(
            middle_cut((0..10).collect(), 10),
            ((0..10).collect(), false)
        );
        assert_eq!(
            middle_cut((0..10).collect(), 5),
            (vec![0, 1, 7, 8, 9], true)
        );
        assert_eq!(middle_cut((0..10).collect(), 4), (vec![0, 1, 8, 9], true));
    }
}
