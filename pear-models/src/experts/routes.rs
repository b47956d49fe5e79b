//! Which experts each token goes through.

use burn::prelude::*;

/// The experts of every token, and the order in which they are computed: expert by expert.
pub(super) struct Routes {
    num_experts: usize,
    per_token: usize,
    /// The experts of the first token, the one with the highest logit first, then those of the next token.
    chosen: Vec<usize>,
    /// The router's logits, `[tokens, experts]`.
    logits: Vec<f32>,
}

impl Routes {
    /// The `per_token` experts with the highest logits, `[tokens, experts]` in f32; of equal ones those that come first.
    ///
    /// The logits are read back from the device, which waits for it once a layer: only so is it known how many tokens each expert has, and
    /// only those are computed.
    pub fn choose(logits: &Tensor<2>, per_token: usize) -> Self {
        let [_, num_experts] = logits.dims();
        let logits: Vec<f32> = logits.clone().into_data().iter().collect();
        let chosen = logits
            .chunks(num_experts)
            .flat_map(|logits| highest(logits, per_token))
            .collect();
        Self {
            num_experts,
            per_token,
            chosen,
            logits,
        }
    }

    /// The router's logits for each token.
    pub fn logits(&self) -> impl Iterator<Item = &[f32]> {
        self.logits.chunks(self.num_experts)
    }

    /// The experts of each token, the one with the highest logit first.
    pub fn chosen(&self) -> impl Iterator<Item = &[usize]> {
        self.chosen.chunks(self.per_token)
    }

    /// The same, as `[tokens, experts per token]`.
    pub fn chosen_tensor(&self, device: &Device) -> Tensor<2, Int> {
        let num_tokens = self.chosen.len() / self.per_token;
        indices(self.chosen.iter().copied(), device).reshape([num_tokens, self.per_token])
    }

    /// The experts that any token goes through, each with its tokens.
    pub fn tokens_by_expert(
        &self,
        device: &Device,
    ) -> impl Iterator<Item = (usize, Tensor<1, Int>)> {
        let by_expert = self.by_expert().into_iter().enumerate();
        by_expert
            .filter(|(_, choices)| !choices.is_empty())
            .map(move |(expert, choices)| {
                let tokens = choices.into_iter().map(|choice| choice / self.per_token);
                (expert, indices(tokens, device))
            })
    }

    /// Where each choice is among those of [`tokens_by_expert`](Self::tokens_by_expert), one expert's after the other's.
    pub fn places(&self, device: &Device) -> Tensor<1, Int> {
        let mut places = vec![0; self.chosen.len()];
        let in_order = self.by_expert().into_iter().flatten();
        for (place, choice) in in_order.enumerate() {
            places[choice] = place;
        }
        indices(places.into_iter(), device)
    }

    /// The choices that fell on each expert, as indices of [`chosen`](Self::chosen).
    fn by_expert(&self) -> Vec<Vec<usize>> {
        let mut by_expert = vec![Vec::new(); self.num_experts];
        for (choice, &expert) in self.chosen.iter().enumerate() {
            by_expert[expert].push(choice);
        }
        by_expert
    }
}

/// The indices of the highest numbers, in descending order.
fn highest(numbers: &[f32], count: usize) -> Vec<usize> {
    let mut indices: Vec<usize> = (0..numbers.len()).collect();
    // A stable sort: of equal numbers the first one comes first.
    indices.sort_by(|&a, &b| numbers[b].total_cmp(&numbers[a]));
    indices.truncate(count);
    indices
}

fn indices(indices: impl Iterator<Item = usize>, device: &Device) -> Tensor<1, Int> {
    let indices: Vec<i32> = indices.map(|index| index as i32).collect();
    let len = indices.len();
    Tensor::from_data(TensorData::new(indices, [len]), device)
}
