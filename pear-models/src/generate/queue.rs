//! The order in which many prompts are read, and what they share.

use std::collections::VecDeque;

use pear_core::{DecoderModel, KvCache};

use super::batch::{Batch, capacity, check};
use super::row::Row;
use crate::error::Error;
use crate::generate_options::GenerateOptions;

/// Tokens that are read at once: a product of so many rows is as fast as one of more.
const READ_AT_ONCE: usize = 2048;
/// Tokens that take about as long as fewer of them.
const FEW: usize = 256;
/// Tokens at least that are worth being kept for the next prompt.
const WORTH_KEEPING: usize = 16;

/// Prompts that have not been read yet.
///
/// Prompts that begin alike follow one another, so that each has the most in common with the one before it; the longest of a run of them
/// decides where the run stands, the longest first.
pub(super) struct Queue<'a> {
    options: &'a GenerateOptions,
    waiting: VecDeque<Waiting<'a>>,
    batch_tokens: usize,
    /// Tokens that are read at once, about; without a limit where weights are read anew each time.
    read_at_once: usize,
    /// Whether a prompt has to be read whole: its keys depend on its length.
    in_one_piece: bool,
    /// Number of tokens that all prompts begin with; 0 where they are not kept.
    common_len: usize,
    /// These tokens, once the model has read them.
    common: Option<KvCache>,
    /// What the next prompt has in common with the last one that was read, if that is more.
    last: Option<KvCache>,
}

/// A prompt.
#[derive(Clone, Copy)]
pub(super) struct Waiting<'a> {
    index: usize,
    tokens: &'a [u32],
    /// Tokens in common with the prompt before it, fewer than all.
    shared: usize,
}

impl<'a> Queue<'a> {
    /// # Errors
    /// A prompt that the model cannot read.
    pub fn new<M: DecoderModel>(
        model: &M,
        options: &'a GenerateOptions,
        prompts: &'a [impl AsRef<[u32]>],
        batch_tokens: usize,
    ) -> Result<Self, Error> {
        check(model, options, prompts)?;
        let in_one_piece = model.positions_depend_on_length();
        let (mut waiting, mut common_len) = in_order(prompts);
        if in_one_piece {
            waiting.iter_mut().for_each(|prompt| prompt.shared = 0);
            common_len = 0;
        }
        Ok(Self {
            options,
            waiting: waiting.into(),
            batch_tokens,
            read_at_once: match model.layers_on_demand() {
                true => usize::MAX,
                false => READ_AT_ONCE,
            },
            in_one_piece,
            common_len,
            common: None,
            last: None,
        })
    }

    /// The next prompts to be read, beside the rows that are being continued; none, if they do not fit or there are no more.
    pub fn next<'r>(&mut self, rows: impl Iterator<Item = &'r Row>) -> Option<Vec<Waiting<'a>>> {
        let options = self.options;
        let positions = |prompt_len: usize| prompt_len.saturating_add(options.max_new_tokens);
        let (mut count, mut longest) = (0usize, 0);
        for row in rows {
            count += 1;
            longest = positions(row.prompt_len).max(longest);
        }
        let mut next: Vec<Waiting<'a>> = Vec::new();
        while let Some(&prompt) = self.waiting.front() {
            let longest_with = longest.max(positions(prompt.tokens.len()));
            let fits = count == 0 || (count + 1).saturating_mul(longest_with) <= self.batch_tokens;
            if !fits || !(next.is_empty() || self.are_read_together(&next, prompt)) {
                break;
            }
            (count, longest) = (count + 1, longest_with);
            next.push(prompt);
            self.waiting.pop_front();
        }
        (!next.is_empty()).then_some(next)
    }

    /// Whether a prompt is read together with those before it, and not after them: sharing more with them, and without padding.
    fn are_read_together(&self, before: &[Waiting<'a>], prompt: Waiting<'a>) -> bool {
        let all = before.iter().copied().chain([prompt]);
        let tokens = (before.len() + 1) * unread(all.clone());
        let alone: usize = all.map(|prompt| prompt.tokens.len() - prompt.shared).sum();
        let is_worth_it = tokens <= (alone + alone / 4).max(FEW);
        self.read_at_once == usize::MAX || (tokens <= self.read_at_once && is_worth_it)
    }

    /// Reads prompts, and returns them with the logits of the next token of each.
    ///
    /// # Errors
    /// As [`Batch::read`].
    pub fn read<M: DecoderModel>(
        &mut self,
        model: &M,
        prompts: &[Waiting<'a>],
    ) -> Result<(Batch, Vec<f32>), Error> {
        let unread = unread(prompts.iter().copied());
        let lengths = prompts.iter().map(|prompt| prompt.tokens.len());
        let capacity = capacity(lengths.clone().max().unwrap_or(0), self.options);
        let shared: Vec<usize> = lengths
            .map(|length| length.saturating_sub(unread))
            .collect();
        let cache = match self.last.take().as_ref().or(self.common.as_ref()) {
            Some(read) if shared.iter().any(|&shared| shared > 0) => {
                read.prefixes(0, &shared, capacity)
            }
            _ => KvCache::new(model.shape().num_layers, capacity),
        };
        let rows = prompts
            .iter()
            .map(|prompt| Row::new(prompt.index, prompt.tokens, self.options))
            .collect();
        let mut batch = Batch::after(cache, rows, unread);
        let at_once = if self.in_one_piece {
            usize::MAX
        } else {
            self.read_at_once
        };
        let logits = batch.read_in_pieces(model, at_once)?;
        self.keep_for_the_next(batch.cache(), prompts.len() - 1);
        Ok((batch, logits))
    }

    /// Keeps what the next prompt has in common with the last one, the `row` of this cache.
    fn keep_for_the_next(&mut self, cache: &KvCache, row: usize) {
        let first = |len: usize| Some(cache.prefixes(row, &[len], len));
        let Some(next) = self.waiting.front() else {
            return;
        };
        if self.common.is_none() && self.common_len > 0 {
            self.common = first(self.common_len);
        }
        if next.shared > self.common_len {
            self.last = first(next.shared);
        }
    }
}

/// Columns to be read for prompts that are read together: as many of each, after what all have in common with the prompt before them.
fn unread<'a>(prompts: impl Iterator<Item = Waiting<'a>> + Clone) -> usize {
    let shared = prompts.clone().map(|prompt| prompt.shared).min();
    let lengths = prompts.map(|prompt| prompt.tokens.len());
    lengths.max().unwrap_or(0) - shared.unwrap_or(0)
}

/// The prompts in the order in which they are read, with the number of tokens that all of them begin with, if these are worth keeping.
fn in_order(prompts: &[impl AsRef<[u32]>]) -> (Vec<Waiting<'_>>, usize) {
    let mut order: Vec<Waiting<'_>> = prompts
        .iter()
        .enumerate()
        .map(|(index, prompt)| Waiting {
            index,
            tokens: prompt.as_ref(),
            shared: 0,
        })
        .collect();
    order.sort_by(|a, b| a.tokens.cmp(b.tokens).then(a.index.cmp(&b.index)));
    let Some([first, last]) = order
        .first()
        .zip(order.last())
        .map(|(a, b)| [a.tokens, b.tokens])
    else {
        return (order, 0);
    };
    // The least and the greatest have in common what all have; a token of each is left to be read.
    let shortest = order
        .iter()
        .map(|prompt| prompt.tokens.len())
        .min()
        .unwrap_or(0);
    let common = match common_len(first, last).min(shortest.saturating_sub(1)) {
        common if order.len() > 1 && common >= WORTH_KEEPING => common,
        _ => 0,
    };
    let mut runs: Vec<Vec<Waiting<'_>>> = Vec::new();
    for mut prompt in order {
        let before = runs.last().and_then(|run| run.last());
        let shared = before.map_or(0, |before| common_len(before.tokens, prompt.tokens));
        let shared = shared.min(prompt.tokens.len() - 1);
        let is_worth_it = shared >= common + WORTH_KEEPING.max(prompt.tokens.len() / 8);
        prompt.shared = if is_worth_it { shared } else { common };
        match runs.last_mut() {
            Some(run) if is_worth_it => run.push(prompt),
            _ => runs.push(vec![prompt]),
        }
    }
    let longest = |run: &Vec<Waiting<'_>>| run.iter().map(|prompt| prompt.tokens.len()).max();
    runs.sort_by_key(|run| std::cmp::Reverse(longest(run)));
    let mut order = runs.concat();
    if let Some(first) = order.first_mut() {
        first.shared = 0;
    }
    (order, common)
}

/// Number of tokens that both begin with.
fn common_len(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(parts: &[(u32, usize)]) -> Vec<u32> {
        let part = |&(token, count): &(u32, usize)| vec![token; count];
        parts.iter().flat_map(part).collect()
    }

    #[test]
    fn prompts_that_begin_alike_follow_one_another_and_the_longest_runs_come_first() {
        let common = (1, 20);
        let prompts = [
            tokens(&[common, (2, 5)]),
            tokens(&[common, (3, 100), (4, 1)]),
            tokens(&[common, (5, 200)]),
            tokens(&[common, (3, 100), (6, 2)]),
            tokens(&[common, (5, 200)]),
        ];
        let (order, shared) = in_order(&prompts);
        assert_eq!(shared, 20);
        let found: Vec<(usize, usize)> = order.iter().map(|p| (p.index, p.shared)).collect();
        assert_eq!(found, [(2, 0), (4, 219), (1, 20), (3, 120), (0, 20)]);
    }

    #[test]
    fn what_all_begin_with_leaves_a_token_of_each_to_be_read() {
        let prompts = [tokens(&[(1, 20)]), tokens(&[(1, 30)])];
        let (order, shared) = in_order(&prompts);
        assert_eq!(shared, 19);
        assert_eq!(order[1].shared, 19);
        let short = [tokens(&[(1, 8)]), tokens(&[(1, 9)])];
        assert_eq!(in_order(&short).1, 0);
        assert_eq!(in_order(&short[..1]).1, 0);
        assert!(in_order(&short[..0]).0.is_empty());
    }
}
