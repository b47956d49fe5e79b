//! Prompts of different lengths, padded on the right and run together.

use burn::prelude::*;
use pear_core::DecoderModel;
use pear_core::HeadEdit;
use pear_core::forward::{token_tensor, training_residual};

use super::items::Item;
use crate::Result;

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

/// The residual stream after the last layer at the last token of each prompt: `[prompts, hidden]`, tracked if `edit` is.
pub(super) fn last_residuals<M: DecoderModel>(
    model: &M,
    prompts: &[&[u32]],
    edit: &mut dyn HeadEdit,
) -> Result<Tensor<2>> {
    let longest = prompts.iter().map(|prompt| prompt.len()).max().unwrap_or(0);
    // Any token will do: no token before it attends to it, and nothing after it is looked at.
    let padded: Vec<Vec<u32>> = prompts
        .iter()
        .map(|prompt| {
            let mut padded = prompt.to_vec();
            padded.resize(longest, prompt.last().copied().unwrap_or(0));
            padded
        })
        .collect();
    let last: Vec<i32> = prompts
        .iter()
        .enumerate()
        .map(|(row, prompt)| (row * longest + prompt.len() - 1) as i32)
        .collect();
    let device = model.device();
    let residual = training_residual(model, token_tensor(&padded, &device), edit)?;
    let [batch, seq, hidden] = residual.dims();
    let last = Tensor::<1, Int>::from_data(TensorData::new(last, [batch]), &device);
    Ok(residual.reshape([batch * seq, hidden]).select(0, last))
}
