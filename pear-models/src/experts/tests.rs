use burn::tensor::Distribution;
use pear_core::kernels::Activation;

use super::*;
use crate::dense_mlp_config::DenseMlpConfig;
use crate::experts_config::SharedExpertConfig;

const HIDDEN: usize = 6;

fn config(routing: ExpertRouting) -> ExpertsConfig {
    let expert = DenseMlpConfig {
        intermediate_size: 5,
        activation: Activation::Silu,
        gated: true,
        bias: true,
    };
    ExpertsConfig {
        num_experts: 7,
        num_experts_per_token: 2,
        expert,
        routing,
        router_bias: true,
        shared: Some(SharedExpertConfig {
            mlp: expert,
            gated: true,
        }),
    }
}

fn random(shape: [usize; 3]) -> Tensor<3> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Device::flex())
}

/// Every expert on every token, weighted by a table that is zero where the expert was not chosen.
fn all_experts(mixture: &MixtureOfExperts, x: Tensor<3>) -> Tensor<3> {
    let [batch, seq, _] = x.dims();
    let logits = linear_forward(&mixture.router, x.clone()).reshape([batch * seq, 7]);
    let routes = Routes::choose(&logits, 2);
    let weights = weights::weights(mixture.routing, logits.clone(), &routes);
    let chosen = routes.chosen_tensor(&x.device());
    let table = Tensor::zeros([batch * seq, 7], &x.device());
    let table = table.scatter(1, chosen, weights, burn::tensor::IndexingUpdateOp::Add);
    let experts = mixture.experts.iter().enumerate().map(|(index, expert)| {
        let weight = table.clone().narrow(1, index, 1);
        expert.forward(x.clone()) * weight.reshape([batch, seq, 1])
    });
    let sum = experts.reduce(|sum, output| sum + output).unwrap();
    sum + mixture.shared_output(x).unwrap()
}

fn error(a: Tensor<3>, b: Tensor<3>) -> f32 {
    (a - b).abs().max().into_scalar()
}

#[test]
fn values_and_gradients_are_those_of_all_experts_on_all_tokens() {
    for routing in [
        ExpertRouting::Softmax,
        ExpertRouting::SoftmaxOfChosen,
        ExpertRouting::SparseMixer { jitter: 0.3 },
    ] {
        let mixture = MixtureOfExperts::new(HIDDEN, &config(routing), &Device::flex());
        // A single token, as in decoding, has experts that nothing goes through.
        for [batch, seq] in [[1, 1], [3, 4]] {
            let (x, factor) = (random([batch, seq, HIDDEN]), random([batch, seq, HIDDEN]));
            let run = |forward: fn(&MixtureOfExperts, Tensor<3>) -> Tensor<3>| {
                let x = x.clone().autodiff().require_grad();
                let output = forward(&mixture, x.clone());
                let value = output.clone().inner();
                let gradients = (output * factor.clone()).sum().backward();
                (value, x.grad(&gradients).unwrap())
            };
            let (value, gradient) = run(MixtureOfExperts::forward);
            let (expected, expected_gradient) = run(all_experts);
            assert!(error(value.clone(), expected) < 1e-5, "{routing:?}");
            assert!(error(gradient, expected_gradient) < 1e-5, "{routing:?}");
            // Without a graph the numbers are the same.
            assert!(error(mixture.forward(x.clone()), value) < 1e-6);
        }
    }
}

#[test]
fn of_equal_logits_the_first_experts_are_chosen() {
    let logits = Tensor::<2>::from_floats(
        [[0.0, 1.0, 1.0, 1.0], [2.0, 2.0, 3.0, 2.0]],
        &Device::flex(),
    );
    let routes = Routes::choose(&logits, 2);
    let chosen: Vec<_> = routes.chosen().collect();
    assert_eq!(chosen, [[1, 2], [2, 0]]);
    let device = Device::flex();
    let by_expert: Vec<(usize, Vec<i32>)> = routes
        .tokens_by_expert(&device)
        .map(|(expert, tokens)| (expert, tokens.into_data().iter().collect()))
        .collect();
    assert_eq!(by_expert, [(0, vec![1]), (1, vec![0]), (2, vec![0, 1])]);
    let places: Vec<i32> = routes.places(&Device::flex()).into_data().iter().collect();
    assert_eq!(places, [1, 2, 3, 0]);
}

#[test]
fn nothing_is_mixed_where_there_is_nothing() {
    let mixture = config(ExpertRouting::Softmax);
    let mixture = MixtureOfExperts::new(HIDDEN, &mixture, &Device::flex());
    let empty = Tensor::<3>::empty([2, 0, HIDDEN], &Device::flex());
    assert_eq!(mixture.forward(empty).dims(), [2, 0, HIDDEN]);
}

#[test]
fn a_mixture_that_cannot_be_is_refused_by_its_field() {
    type Change = fn(&mut ExpertsConfig);
    let cases: [(&str, Change); 6] = [
        ("intermediate_size", |c| c.expert.intermediate_size = 0),
        ("intermediate_size", |c| {
            c.shared.as_mut().unwrap().mlp.intermediate_size = 0
        }),
        ("num_experts_per_token", |c| c.num_experts_per_token = 0),
        ("num_experts_per_token", |c| c.num_experts_per_token = 8),
        ("num_experts_per_token", |c| {
            c.num_experts_per_token = 3;
            c.routing = ExpertRouting::SparseMixer { jitter: 0.01 };
        }),
        ("jitter", |c| {
            c.routing = ExpertRouting::SparseMixer { jitter: f64::NAN }
        }),
    ];
    assert!(config(ExpertRouting::Softmax).validate().is_ok());
    for (field, change) in cases {
        let mut config = config(ExpertRouting::Softmax);
        change(&mut config);
        let error = config.validate().unwrap_err().to_string();
        assert!(error.contains(&format!("`{field}`")), "{error}");
    }
}
