//! Prompts that are continued together.

use pear_core::forward::{check_length, not_finite, residual_cached, token_tensor};
use pear_core::{DecoderModel, HeadEdit, KvCache, NoEdit};

use super::row::Row;
use crate::error::Error;
use crate::generate_options::GenerateOptions;
use crate::score::check_tokens;

/// Positions for new tokens that the cache has room for from the start; it grows when more come.
const MOST_RESERVED: usize = 4096;

/// The prompts that are being continued, with the cache of what the model has read of them.
pub(super) struct Batch {
    rows: Vec<Row>,
    cache: KvCache,
    /// Tokens of each row that the model has not read yet: as many for every row.
    unread: Vec<Vec<u32>>,
}

impl Batch {
    /// All prompts, the shorter ones after padding.
    pub fn padded<M: DecoderModel>(
        model: &M,
        options: &GenerateOptions,
        prompts: &[impl AsRef<[u32]>],
    ) -> Result<Self, Error> {
        let longest = check(model, options, prompts)?;
        let rows: Vec<Row> = prompts
            .iter()
            .enumerate()
            .map(|(index, prompt)| Row::new(index, prompt.as_ref(), options))
            .collect();
        let cache = KvCache::new(model.shape().num_layers, capacity(longest, options));
        Ok(Self::after(cache, rows, longest))
    }

    /// Rows of which the model has read what is in the cache, with `unread` columns to come: the ends of all rows, and padding before those
    /// that are shorter.
    pub fn after(cache: KvCache, rows: Vec<Row>, unread: usize) -> Self {
        let columns = cache.len() + unread;
        let padding = rows.iter().map(|row| columns - row.tokens.len()).collect();
        // Padding holds an arbitrary token: it is masked.
        let of_row = |row: &Row| {
            let len = row.tokens.len().min(unread);
            let end = &row.tokens[row.tokens.len() - len..];
            [&vec![0; unread - len], end].concat()
        };
        Self {
            unread: rows.iter().map(of_row).collect(),
            cache: cache.padded(padding),
            rows,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter()
    }

    /// What the model has read of each row.
    pub fn cache(&self) -> &KvCache {
        &self.cache
    }

    /// Lets the model read what it has not read, and returns the logits of the next token, one row after the other.
    pub fn read<M: DecoderModel>(
        &mut self,
        model: &M,
        edit: &mut (impl HeadEdit + ?Sized),
    ) -> Result<Vec<f32>, Error> {
        let tokens = token_tensor(&self.unread, &model.device());
        let last = self.unread[0].len() - 1;
        let residual = residual_cached(model, tokens, &mut self.cache, edit)?.narrow(1, last, 1);
        let logits: Vec<f32> = model.logits(residual).into_data().iter::<f32>().collect();
        if let Some(index) = logits.iter().position(|logit| logit.is_nan()) {
            let (token, after) = (index % model.vocab_size(), self.cache.len());
            let tokens = &self.rows[index / model.vocab_size()].tokens;
            let found = format!("the logit of token {token} after {after} tokens is NaN");
            return Err(not_finite(model, tokens, edit, found).into());
        }
        Ok(logits)
    }

    /// As [`read`](Self::read), at most so many tokens at a time.
    pub fn read_in_pieces<M: DecoderModel>(
        &mut self,
        model: &M,
        tokens: usize,
    ) -> Result<Vec<f32>, Error> {
        let columns = (tokens / self.rows.len()).max(1);
        while self.unread[0].len() > columns {
            let split = |row: &mut Vec<u32>| {
                let rest = row.split_off(columns);
                std::mem::replace(row, rest)
            };
            let piece: Vec<Vec<u32>> = self.unread.iter_mut().map(split).collect();
            let tokens = token_tensor(&piece, &model.device());
            residual_cached(model, tokens, &mut self.cache, &mut NoEdit)?;
        }
        self.read(model, &mut NoEdit)
    }

    /// Chooses the next token of every row that has not ended; `is_complete` may end it there.
    pub fn choose<E>(
        &mut self,
        logits: &[f32],
        options: &GenerateOptions,
        mut is_complete: impl FnMut(&Row) -> Result<bool, E>,
    ) -> Result<(), E> {
        let vocab_size = logits.len() / self.rows.len();
        for (row, logits) in self.rows.iter_mut().zip(logits.chunks_exact(vocab_size)) {
            if !row.ended {
                row.choose(logits, options);
                row.ended |= is_complete(row)?;
            }
        }
        self.unread = self.rows.iter().map(|row| vec![row.last_token()]).collect();
        Ok(())
    }

    /// Whether it is time to drop the rows that have ended, which are read along until then.
    pub fn is_half_ended(&self) -> bool {
        let ended = self.rows.iter().filter(|row| row.ended).count();
        2 * ended >= self.rows.len()
    }

    /// Takes out the rows that have ended.
    pub fn drop_ended(&mut self) -> Vec<Row> {
        let going: Vec<usize> = (0..self.rows.len())
            .filter(|&row| !self.rows[row].ended)
            .collect();
        if going.len() < self.rows.len() && !going.is_empty() {
            self.cache.keep_rows(&going);
        }
        self.unread = going
            .iter()
            .map(|&row| std::mem::take(&mut self.unread[row]))
            .collect();
        let rows = std::mem::take(&mut self.rows).into_iter();
        let (ended, going) = rows.partition(|row| row.ended);
        self.rows = going;
        ended
    }

    /// The rows of all these batches, of each of which one token is unread.
    pub fn joined(mut batches: Vec<Self>, options: &GenerateOptions) -> Self {
        batches.retain(|batch| !batch.is_empty());
        if batches.len() < 2 {
            return batches.pop().unwrap_or_default();
        }
        let mut joined = Self::default();
        let mut caches = Vec::with_capacity(batches.len());
        for batch in batches {
            joined.rows.extend(batch.rows);
            joined.unread.extend(batch.unread);
            caches.push(batch.cache);
        }
        let longest = joined.rows.iter().map(|row| row.tokens.len()).max();
        joined.cache = KvCache::stacked(caches, capacity(longest.unwrap_or(0), options));
        joined
    }
}

impl Default for Batch {
    /// No rows: there is nothing to read.
    fn default() -> Self {
        Self {
            rows: Vec::new(),
            cache: KvCache::new(0, 0),
            unread: Vec::new(),
        }
    }
}

/// The length of the longest prompt, once the model is found to be able to read all of them and what follows.
pub(super) fn check<M: DecoderModel>(
    model: &M,
    options: &GenerateOptions,
    prompts: &[impl AsRef<[u32]>],
) -> Result<usize, Error> {
    for prompt in prompts {
        check_tokens(model, prompt.as_ref())?;
    }
    let longest = prompts
        .iter()
        .map(|prompt| prompt.as_ref().len())
        .max()
        .unwrap_or(0);
    // The last new token is never read.
    check_length(
        model,
        longest.saturating_add(options.max_new_tokens.saturating_sub(1)),
    )?;
    Ok(longest)
}

/// Positions of a cache for prompts of up to `longest` tokens.
pub(super) fn capacity(longest: usize, options: &GenerateOptions) -> usize {
    longest + options.max_new_tokens.min(MOST_RESERVED)
}
