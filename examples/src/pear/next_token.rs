//! What a model says next, after many prompts at once.

use anyhow::Result;
use burn::prelude::*;
use burn::tensor::DType;
use burn::tensor::activation::log_softmax;
use pear_core::forward::{check_length, residual, token_tensor};
use pear_core::{DecoderModel, NoEdit};

/// Tokens that are run together.
const TOKENS_AT_ONCE: usize = 2048;

/// The distribution of the next token, as far as it is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct NextToken {
    /// The likeliest token.
    pub top: u32,
    /// Natural-log probabilities of the tokens that were asked for.
    pub log_probs: Vec<f64>,
}

/// What follows each prompt. `wanted` names the tokens whose log-probabilities are asked for, by the number of the prompt.
///
/// Prompts of similar lengths are run together, padded on the right, which changes nothing before the padding.
///
/// # Errors
/// A prompt longer than the model can read.
pub fn next_tokens<M: DecoderModel>(
    model: &M,
    prompts: &[&[u32]],
    wanted: impl Fn(usize) -> Vec<u32>,
) -> Result<Vec<NextToken>> {
    let mut order: Vec<usize> = (0..prompts.len()).collect();
    order.sort_by_key(|&index| (prompts[index].len(), index));
    let mut found = vec![None; prompts.len()];
    let mut rest = &order[..];
    while !rest.is_empty() {
        let count = num_at_once(rest.iter().map(|&index| prompts[index].len()));
        let (part, later) = rest.split_at(count);
        let rows: Vec<&[u32]> = part.iter().map(|&index| prompts[index]).collect();
        for (&index, row) in part.iter().zip(log_probs_after(model, &rows)?) {
            let wanted = wanted(index);
            let log_probs = wanted.iter().map(|&id| f64::from(row[id as usize]));
            found[index] = Some(NextToken {
                top: likeliest(&row),
                log_probs: log_probs.collect(),
            });
        }
        rest = later;
    }
    Ok(found.into_iter().flatten().collect())
}

/// How many of the next prompts fit together; lengths are ascending.
fn num_at_once(lengths: impl Iterator<Item = usize>) -> usize {
    let fitting = (1usize..)
        .zip(lengths)
        .take_while(|(count, length)| *count == 1 || count * length <= TOKENS_AT_ONCE);
    fitting.count()
}

/// Log-probabilities `[vocab]` of the token after each row.
fn log_probs_after<M: DecoderModel>(model: &M, rows: &[&[u32]]) -> Result<Vec<Vec<f32>>> {
    let len = rows.iter().map(|row| row.len()).max().unwrap_or(0);
    check_length(model, len)?;
    let padded: Vec<Vec<u32>> = rows
        .iter()
        .map(|row| {
            let mut row = row.to_vec();
            row.resize(len, 0);
            row
        })
        .collect();
    let device = model.device();
    let hidden = residual(model, token_tensor(&padded, &device), &mut NoEdit)?;
    let width = hidden.dims()[2];
    let last: Vec<i32> = rows
        .iter()
        .enumerate()
        .map(|(index, row)| (index * len + row.len() - 1) as i32)
        .collect();
    let last = Tensor::<1, Int>::from_data(TensorData::new(last, [rows.len()]), &device);
    let hidden = hidden.reshape([rows.len() * len, width]).select(0, last);
    let logits = model.logits(hidden.unsqueeze_dim(0));
    let vocab_size = logits.dims()[2];
    let log_probs = log_softmax(logits.reshape([rows.len(), vocab_size]).cast(DType::F32), 1);
    let values: Vec<f32> = log_probs.into_data().iter::<f32>().collect();
    Ok(values.chunks(vocab_size).map(<[f32]>::to_vec).collect())
}

/// The first of the largest.
fn likeliest(row: &[f32]) -> u32 {
    let best = row
        .iter()
        .enumerate()
        .fold((0, f32::NEG_INFINITY), |best, (id, &value)| {
            if value > best.1 { (id, value) } else { best }
        });
    best.0 as u32
}

#[cfg(test)]
mod tests {
    use pear_models::tiny::Tiny;
    use pear_models::{ModelDirectory, log_probs};

    use super::*;

    #[test]
    fn prompts_that_are_run_together_get_what_they_get_alone() {
        let folder = tempfile::tempdir().unwrap();
        Tiny::Rope.write(folder.path()).unwrap();
        let directory = ModelDirectory::open(folder.path()).unwrap();
        let model = directory.load(&Device::flex(), DType::F32).unwrap();
        let prompts: [&[u32]; 3] = [&[1, 50, 60, 70, 80], &[1, 9], &[1, 200, 3]];
        let together = next_tokens(&model, &prompts, |index| vec![index as u32 + 30, 100]).unwrap();
        for (index, (prompt, next)) in prompts.iter().zip(&together).enumerate() {
            for (id, found) in [index as u32 + 30, 100].into_iter().zip(&next.log_probs) {
                let alone = log_probs(&model, &[prompt, &[id][..]].concat()).unwrap();
                assert!((alone[alone.len() - 1] - found).abs() < 1e-4);
            }
        }
    }
}
