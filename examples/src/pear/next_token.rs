//! What a model says next, after many prompts at once.

use anyhow::Result;
use pear_core::DecoderModel;
use pear_models::next_token_logits;

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
/// # Errors
/// A prompt longer than the model can read; logits that are not numbers.
pub fn next_tokens<M: DecoderModel>(
    model: &M,
    prompts: &[&[u32]],
    wanted: impl Fn(usize) -> Vec<u32>,
) -> Result<Vec<NextToken>> {
    let mut found = vec![None; prompts.len()];
    next_token_logits(
        model,
        prompts,
        TOKENS_AT_ONCE,
        |index, next| -> Result<()> {
            let total = next.log_sum_exp();
            let wanted = wanted(index);
            found[index] = Some(NextToken {
                top: next.top_token(),
                log_probs: wanted.iter().map(|&id| next.logit(id) - total).collect(),
            });
            Ok(())
        },
    )?;
    Ok(found.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use burn::prelude::*;
    use burn::tensor::DType;
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
