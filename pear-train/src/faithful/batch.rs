//! Prompts of different lengths, padded on the right and run together.

use burn::prelude::*;
use pear_core::forward::token_tensor;

use super::items::Item;

/// Padding takes at most half as much as the prompts themselves.
const MOST_PADDED: f64 = 1.5;

/// Divides items into parts of similar lengths, each of at most `tokens_at_once` tokens with its padding, but of at least one item.
/// Indices of `items`; each part has its preferences in front.
pub(super) fn parts(items: &[&Item], tokens_at_once: usize) -> Vec<Vec<usize>> {
    let length = |index: usize| items[index].prompt.len();
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by_key(|&index| (length(index), index));
    let mut parts: Vec<Vec<usize>> = Vec::new();
    let mut tokens = 0;
    for index in order {
        // The longest so far.
        let longest = length(index);
        let open = parts.last_mut().filter(|part| {
            let padded = (part.len() + 1) * longest;
            padded <= tokens_at_once && padded as f64 <= MOST_PADDED * (tokens + longest) as f64
        });
        match open {
            Some(part) => {
                part.push(index);
                tokens += longest;
            }
            None => {
                parts.push(vec![index]);
                tokens = longest;
            }
        }
    }
    for part in &mut parts {
        part.sort_by_key(|&index| !items[index].is_preference());
    }
    parts
}

/// Prompts that run together.
pub(super) struct Prompts {
    /// All of one length.
    padded: Vec<Vec<u32>>,
    /// Where the last token of each prompt stands among the tokens of all rows.
    last: Vec<i32>,
}

impl Prompts {
    pub(super) fn new<'a>(prompts: impl Iterator<Item = &'a [u32]> + Clone) -> Self {
        let longest = prompts.clone().map(<[u32]>::len).max().unwrap_or(0);
        // Any token will do: no token before it attends to it, and nothing after it is looked at.
        let pad = |prompt: &[u32]| {
            let mut padded = prompt.to_vec();
            padded.resize(longest, prompt.last().copied().unwrap_or(0));
            padded
        };
        let last = |(row, prompt): (usize, &[u32])| (row * longest + prompt.len() - 1) as i32;
        Self {
            padded: prompts.clone().map(pad).collect(),
            last: prompts.enumerate().map(last).collect(),
        }
    }

    /// Token ids `[prompts, longest]`.
    pub(super) fn tokens(&self, device: &Device) -> Tensor<2, Int> {
        token_tensor(&self.padded, device)
    }

    /// A residual stream `[prompts, longest, hidden]` at the last token of each prompt: `[prompts, hidden]`.
    pub(super) fn last(&self, residual: Tensor<3>) -> Tensor<2> {
        let [batch, seq, hidden] = residual.dims();
        let last = TensorData::new(self.last.clone(), [batch]);
        let last = Tensor::<1, Int>::from_data(last, &residual.device().inner());
        residual.reshape([batch * seq, hidden]).select(0, last)
    }
}
