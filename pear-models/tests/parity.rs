//! Every family and variant against transformers, in f32.

mod common;

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use burn::prelude::*;
use burn::tensor::DType;
use common::{distance, expected, fixtures, load, names, open};
use pear_core::forward::{residual_cached, token_tensor};
use pear_core::{CaptureHeads, DecoderModel, HeadCoefficients, KvCache, NoEdit, forward};
use pear_models::{
    Error, GenerateOptions, Generator, MlpConfig, generate, generate_batch, log_probs,
};
use serde::Deserialize;

/// Nats; what f32 leaves on these checkpoints is below 2e-5.
const TOLERANCE: f64 = 1e-4;
/// Errors of rounding are drawn by chance: how much larger ours may turn out than transformers' on the same text.
const WORSE: f64 = 1.25;
/// The same where experts are chosen: one that is chosen otherwise at an early position changes all that follow.
const WORSE_EXPERTS: f64 = 1.5;

/// What transformers computes in half precision: log-probabilities of some of the `prompts` of `expected.json`.
#[derive(Deserialize)]
struct Half {
    prompts: Vec<usize>,
    bf16: Vec<Vec<f64>>,
    f16: Vec<Vec<f64>>,
}

#[test]
fn log_probabilities_are_those_of_transformers_at_every_length() {
    for name in names() {
        let (model, expected) = (load(&name), expected(&name));
        for (prompt, reference) in expected.prompts.iter().zip(&expected.log_probs) {
            let ours = log_probs(&model, prompt).unwrap();
            let error = distance(&ours, reference);
            assert!(
                error < TOLERANCE,
                "{name}, {} tokens: {error}",
                prompt.len()
            );
        }
    }
}

#[test]
fn logits_are_those_of_transformers() {
    for name in names() {
        let (model, expected) = (load(&name), expected(&name));
        let prompt = expected.prompts.iter().find(|p| p.len() == 9).unwrap();
        let logits = forward::logits(
            &model,
            token_tensor(&[prompt], &model.device()),
            &mut NoEdit,
        )
        .unwrap();
        let last: Vec<f64> = logits.narrow(1, 8, 1).into_data().iter::<f64>().collect();
        let error = distance(&last, &expected.last_logits);
        assert!(error < TOLERANCE, "{name}: {error}");

        let residual = forward::residual(
            &model,
            token_tensor(&[prompt], &model.device()),
            &mut NoEdit,
        )
        .unwrap();
        let row = residual.narrow(1, 8, 1).squeeze_dim::<2>(1);
        let target = Tensor::<1, Int>::from_ints([41], &model.device());
        let alone: f64 = model
            .target_logits(row, target)
            .into_data()
            .iter::<f64>()
            .next()
            .unwrap();
        assert!(
            (alone - expected.last_logits[41]).abs() < TOLERANCE,
            "{name}: one logit alone"
        );
    }
}

#[test]
fn greedy_tokens_with_the_cache_are_those_of_transformers() {
    for name in names() {
        let (model, greedy) = (load(&name), expected(&name).greedy);
        let options = GenerateOptions {
            max_new_tokens: greedy.tokens.len(),
            ..GenerateOptions::default()
        };
        let ours = generate(&model, &greedy.prompt, &options).unwrap();
        assert_eq!(ours, greedy.tokens, "{name}");
        assert_eq!(ours.len(), 40, "{name}");
    }
}

#[test]
fn a_prompt_in_chunks_or_token_by_token_gives_what_it_gives_at_once() {
    // Dynamic NTK and LongRoPE turn keys by the length known when they were read: there the two differ by design, as in transformers.
    for name in names()
        .into_iter()
        .filter(|name| !["llama-dynamic", "phi3-longrope"].contains(&name.as_str()))
    {
        let (model, expected) = (load(&name), expected(&name));
        let prompt = expected.prompts.iter().find(|p| p.len() == 33).unwrap();
        let whole = forward::residual(
            &model,
            token_tensor(&[prompt], &model.device()),
            &mut NoEdit,
        )
        .unwrap();
        for chunk in [1, 7, 32] {
            let mut cache = KvCache::new(model.shape().num_layers, 4);
            let parts = prompt
                .chunks(chunk)
                .map(|part| {
                    residual_cached(
                        &model,
                        token_tensor(&[part], &model.device()),
                        &mut cache,
                        &mut NoEdit,
                    )
                    .unwrap()
                })
                .collect();
            let error: f32 = (Tensor::cat(parts, 1) - whole.clone())
                .abs()
                .max()
                .into_scalar();
            let largest: f32 = whole.clone().abs().max().into_scalar();
            assert!(
                error < 1e-5 * largest,
                "{name}, chunks of {chunk}: {error} of {largest}"
            );
        }
    }
}

#[test]
fn rows_of_a_batch_are_what_they_are_alone() {
    for name in names() {
        let (model, expected) = (load(&name), expected(&name));
        let sequences = &expected.locate.sequences;
        let batch = forward::residual(
            &model,
            token_tensor(sequences, &model.device()),
            &mut NoEdit,
        )
        .unwrap();
        for (row, sequence) in sequences.iter().enumerate() {
            let alone = forward::residual(
                &model,
                token_tensor(&[sequence], &model.device()),
                &mut NoEdit,
            )
            .unwrap();
            let error: f32 = (batch.clone().narrow(0, row, 1) - alone.clone())
                .abs()
                .max()
                .into_scalar();
            let largest: f32 = alone.abs().max().into_scalar();
            assert!(
                error < 1e-5 * largest,
                "{name}, row {row}: {error} of {largest}"
            );
        }
    }
}

#[test]
fn prompts_of_different_lengths_are_continued_as_each_is_alone() {
    // The longest text decides the frequencies of dynamic NTK and LongRoPE, for all.
    for name in names()
        .into_iter()
        .filter(|name| !["llama-dynamic", "phi3-longrope"].contains(&name.as_str()))
    {
        let (model, prompts) = (load(&name), expected(&name).prompts);
        let options = GenerateOptions {
            max_new_tokens: 12,
            ..GenerateOptions::default()
        };
        let alone: Vec<Vec<u32>> = prompts
            .iter()
            .map(|p| generate(&model, p, &options).unwrap())
            .collect();
        assert_eq!(
            generate_batch(&model, &prompts, &options).unwrap(),
            alone,
            "{name}"
        );

        // Some end early, at a token of their own or because they are told to; the others go on.
        let ending = GenerateOptions {
            eos_tokens: vec![alone[0][3], alone[3][1]],
            ..options
        };
        let until = |row: usize, told: usize| {
            let ends = |(at, token): (usize, &u32)| {
                (at + 1 == told || ending.eos_tokens.contains(token)).then_some(at + 1)
            };
            let end = alone[row].iter().enumerate().find_map(ends).unwrap_or(12);
            alone[row][..end].to_vec()
        };
        let mut counts = vec![0; prompts.len()];
        let generator = Generator::new(&model, ending.clone()).unwrap();
        let rows = generator.run_with(&prompts, &mut NoEdit, |row, _| {
            counts[row] += 1;
            Ok::<_, Error>(if row % 2 == 1 && counts[row] == 2 * row {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        });
        let expected: Vec<Vec<u32>> = (0..prompts.len())
            .map(|row| until(row, if row % 2 == 1 { 2 * row } else { usize::MAX }))
            .collect();
        assert_eq!(rows.unwrap(), expected, "{name}");
    }
}

#[test]
fn prompts_in_turn_are_continued_as_each_is_alone_whatever_they_have_in_common() {
    for name in names() {
        let (model, prompts) = (load(&name), expected(&name).prompts);
        let of_length = |len: usize| prompts.iter().find(|p| p.len() == len).unwrap();
        let (long, short) = (of_length(33), of_length(9));
        let mut prompts = prompts.clone();
        prompts.extend([
            long.clone(),
            [&long[..24], short].concat(),
            long[..28].to_vec(),
            [&long[..20], &short[2..]].concat(),
            [&long[..24], &short[..3], &short[..3]].concat(),
        ]);
        let options = GenerateOptions {
            max_new_tokens: 5,
            ..GenerateOptions::default()
        };
        let alone: Vec<Vec<u32>> = prompts
            .iter()
            .map(|prompt| generate(&model, prompt, &options).unwrap())
            .collect();
        let generator = Generator::new(&model, options).unwrap();
        // The longest of what stands together decides the frequencies of dynamic NTK and LongRoPE.
        let all_sizes = [1, 80, 4096];
        let sizes = match model.positions_depend_on_length() {
            true => &all_sizes[..1],
            false => &all_sizes[..],
        };
        for &batch_tokens in sizes {
            let mut found = vec![None; prompts.len()];
            let ends = |row: usize| 1 + row * 3 % 7;
            let by_tokens: Vec<Vec<u32>> = (0..prompts.len())
                .map(|row| alone[row][..ends(row).min(5)].to_vec())
                .collect();
            generator
                .run_in_turn(
                    &prompts,
                    batch_tokens,
                    |tokens| Ok::<_, Error>(by_tokens.iter().any(|all| all == tokens)),
                    |row, tokens| {
                        assert!(found[row].replace(tokens).is_none(), "ended twice");
                        Ok(())
                    },
                )
                .unwrap();
            for (row, tokens) in found.into_iter().enumerate() {
                let end = (1..=5)
                    .find(|&end| end == 5 || by_tokens.contains(&alone[row][..end].to_vec()));
                assert_eq!(
                    tokens.unwrap(),
                    alone[row][..end.unwrap()],
                    "{name}, prompt {row}, {batch_tokens} at once"
                );
            }
        }
    }
}

#[test]
fn prompts_that_the_model_cannot_read_are_refused_even_where_nothing_is_to_follow() {
    let model = load("llama-2");
    let unknown = vec![model.vocab_size() as u32];
    for max_new_tokens in [0, 1] {
        let options = GenerateOptions {
            max_new_tokens,
            ..GenerateOptions::default()
        };
        let generator = Generator::new(&model, options.clone()).unwrap();
        for prompt in [&unknown, &Vec::new()] {
            assert!(generate(&model, prompt, &options).is_err());
            let in_turn = generator.run_in_turn(
                &[prompt],
                100,
                |_| Ok::<_, Error>(false),
                |_, _| panic!("nothing can end"),
            );
            assert!(in_turn.is_err());
        }
    }
}

#[test]
fn head_outputs_are_those_before_the_output_projection() {
    for name in names() {
        let (model, expected) = (load(&name), expected(&name));
        let prompt = expected.prompts.iter().find(|p| p.len() == 9).unwrap();
        let mut capture = CaptureHeads::default();
        forward::residual(
            &model,
            token_tensor(&[prompt], &model.device()),
            &mut capture,
        )
        .unwrap();
        assert_eq!(capture.outputs.len(), expected.head_outputs.len(), "{name}");
        for (layer, (ours, reference)) in capture
            .outputs
            .into_iter()
            .zip(&expected.head_outputs)
            .enumerate()
        {
            let ours: Vec<f64> = ours.into_data().iter::<f64>().collect();
            let error = distance(&ours, reference.iter().flatten().flatten());
            assert!(error < TOLERANCE, "{name}, layer {layer}: {error}");
        }
        let error =
            forward::additivity_error(&model, token_tensor(&[prompt], &model.device())).unwrap();
        assert!(
            error < 1e-5,
            "{name}: contributions of heads and bias miss the attention's output by {error}"
        );
    }
}

#[test]
fn re_weighted_and_folded_models_follow_the_reference() {
    for name in names() {
        let (model, expected) = (load(&name), expected(&name));
        let prompt = expected.prompts.iter().find(|p| p.len() == 33).unwrap();
        let pairs = expected.reweighted.pairs();
        let coefficients = HeadCoefficients::new(&pairs, &model.shape(), &model.device()).unwrap();
        let reweighted = model.with_coefficients(&coefficients).unwrap();
        let error = distance(
            &log_probs(&reweighted, prompt).unwrap(),
            &expected.reweighted.log_probs,
        );
        assert!(error < TOLERANCE, "{name}: {error}");
        let error = distance(
            &log_probs(&reweighted.fold(), prompt).unwrap(),
            &expected.reweighted.log_probs,
        );
        assert!(error < TOLERANCE, "{name}, folded: {error}");
    }
}

#[test]
fn half_precision_errs_no_more_than_transformers_does_in_half_precision() {
    let text = std::fs::read(fixtures().join("half.json")).unwrap();
    let half: BTreeMap<String, Half> = serde_json::from_slice(&text).unwrap();
    let mut worse = Vec::new();
    for name in names() {
        let (expected, half) = (expected(&name), &half[&name]);
        let exact: Vec<f64> = half
            .prompts
            .iter()
            .flat_map(|&prompt| expected.log_probs[prompt].clone())
            .collect();
        for (dtype, theirs) in [(DType::BF16, &half.bf16), (DType::F16, &half.f16)] {
            let model = open(&name).load(&Device::flex(), dtype).unwrap();
            assert_eq!(model.dtype(), dtype);
            let ours: Vec<f64> = half
                .prompts
                .iter()
                .flat_map(|&p| log_probs(&model, &expected.prompts[p]).unwrap())
                .collect();
            let layers = &model.config().layers;
            let has_experts = layers
                .iter()
                .any(|layer| matches!(layer.mlp, MlpConfig::Experts(_)));
            // Rounding decides between experts that are nearly equal: a few large errors, in the library, too.
            let (typical, worst) = if has_experts {
                (of_three_quarters as Distance, WORSE_EXPERTS)
            } else {
                (root_mean_square as Distance, WORSE)
            };
            let (error, floor) = (typical(&ours, &exact), typical(&theirs.concat(), &exact));
            println!("| `{name}` | {dtype:?} | {floor:.4} | {error:.4} |");
            if error >= worst * floor {
                worse.push(format!(
                    "{name} in {dtype:?}: {error}, transformers {floor}"
                ));
            }
        }
    }
    assert!(worse.is_empty(), "{}", worse.join("\n"));
}

type Distance = fn(&[f64], &[f64]) -> f64;

/// The root mean square of the smaller three quarters of the differences.
fn of_three_quarters(a: &[f64], b: &[f64]) -> f64 {
    let mut errors: Vec<f64> = a.iter().zip(b).map(|(a, b)| (a - b).abs()).collect();
    errors.sort_by(f64::total_cmp);
    errors.truncate(errors.len() * 3 / 4);
    root_mean_square(&errors, &vec![0.0; errors.len()])
}

fn root_mean_square(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    (a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>() / a.len() as f64).sqrt()
}
