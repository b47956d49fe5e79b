//! How much each chosen expert counts.

use burn::prelude::*;
use burn::tensor::activation::softmax;

use super::routes::Routes;
use crate::experts_config::ExpertRouting;

/// The weights of each token's experts, `[tokens, experts per token]`, from the router's logits, `[tokens, experts]`, both in f32.
///
/// Gradients flow through the logits; the choice itself has none.
pub(super) fn weights(routing: ExpertRouting, logits: Tensor<2>, routes: &Routes) -> Tensor<2> {
    let chosen = routes.chosen_tensor(&logits.device());
    match routing {
        ExpertRouting::Softmax => softmax(logits, 1).gather(1, chosen),
        ExpertRouting::SoftmaxOfChosen => softmax(logits.gather(1, chosen), 1),
        ExpertRouting::SparseMixer { jitter } => sparse_mixer(jitter as f32, logits, routes),
    }
}

/// Of each chosen expert, the softmax over the experts that are close to it, without those that were chosen before it.
fn sparse_mixer(jitter: f32, logits: Tensor<2>, routes: &Routes) -> Tensor<2> {
    let [num_tokens, num_experts] = logits.dims();
    let device = logits.device();
    let chosen = routes.chosen_tensor(&device);
    let [_, per_token] = chosen.dims();
    let of_rank = |rank: usize| {
        let rows = routes.logits().zip(routes.chosen());
        let far: Vec<bool> = rows
            .flat_map(|(logits, chosen)| far_from(logits, &chosen[..=rank], jitter))
            .collect();
        let far = TensorData::new(far, [num_tokens, num_experts]);
        let far = Tensor::<2, Bool>::from_data(far, &device);
        let close = logits.clone().mask_fill(far, f32::NEG_INFINITY);
        softmax(close, 1).gather(1, chosen.clone().narrow(1, rank, 1))
    };
    Tensor::cat((0..per_token).map(of_rank).collect(), 1)
}

/// Which experts are not close to the last one of `chosen`, or were chosen before it.
fn far_from<'a>(
    logits: &'a [f32],
    chosen: &'a [usize],
    jitter: f32,
) -> impl Iterator<Item = bool> + 'a {
    let (&last, before) = chosen.split_last().expect("at least one expert is chosen");
    let highest = logits[last];
    logits.iter().enumerate().map(move |(expert, &logit)| {
        let scale = logit.abs().max(highest);
        before.contains(&expert) || (highest - logit) / scale > 2.0 * jitter
    })
}
