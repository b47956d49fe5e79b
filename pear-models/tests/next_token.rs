//! Many prompts read together: what a model expects after each is what it expects alone.

mod common;

use std::cell::RefCell;

use burn::prelude::*;
use common::{device, distance, expected, load, names};
use pear_core::position::Positions;
use pear_core::{DecoderModel, ModelShape, NoEdit, forward};
use pear_models::{
    ContinuationScore, Decoder, DecoderConfig, DecoderSizes, Error, continuation_scores,
    next_token_logits,
};

/// Nats; what f32 leaves is below 2e-5.
const TOLERANCE: f64 = 1e-4;
/// The longest text decides the frequencies of dynamic NTK and LongRoPE, for all that are read together.
const OF_THE_LONGEST: [&str; 2] = ["llama-dynamic", "phi3-longrope"];

fn model() -> Decoder {
    let device = device();
    device.seed(3);
    let sizes = DecoderSizes {
        vocab_size: 61,
        hidden_size: 24,
        intermediate_size: 40,
        num_hidden_layers: 2,
        num_attention_heads: 3,
    };
    DecoderConfig::llama(sizes).init(&device).unwrap()
}

/// Prompts of 1 to 40 tokens, not in the order of their lengths.
fn prompts() -> Vec<Vec<u32>> {
    let length = |i: u32| 1 + (i * 17) % 40;
    (0..30)
        .map(|i| (0..length(i)).map(|k| (i * 7 + k * k * 3) % 61).collect())
        .collect()
}

/// The logits after each prompt, read in batches.
fn together(model: &impl DecoderModel, prompts: &[Vec<u32>], batch_tokens: usize) -> Vec<Vec<f64>> {
    let mut all = vec![Vec::new(); prompts.len()];
    next_token_logits(model, prompts, batch_tokens, |prompt, next| {
        assert!(all[prompt].is_empty(), "prompt {prompt} twice");
        all[prompt] = next
            .logits()
            .iter()
            .map(|&logit| f64::from(logit))
            .collect();
        Ok::<_, Error>(())
    })
    .unwrap();
    all
}

/// The logits after a prompt that is read alone.
fn alone(model: &Decoder, prompt: &[u32]) -> Vec<f64> {
    let tokens = forward::token_tensor(&[prompt], &model.device());
    let logits = forward::logits(model, tokens, &mut NoEdit).unwrap();
    let last = logits.narrow(1, prompt.len() - 1, 1).into_data();
    last.iter::<f64>().collect()
}

#[test]
fn logits_of_a_batch_are_those_of_each_prompt_alone_in_every_family() {
    for name in names() {
        if OF_THE_LONGEST.contains(&name.as_str()) {
            continue;
        }
        let (model, prompts) = (load(&name), expected(&name).prompts);
        for (prompt, logits) in prompts.iter().zip(together(&model, &prompts, 1 << 12)) {
            let error = distance(&logits, &alone(&model, prompt));
            assert!(
                error < TOLERANCE,
                "{name}, {} tokens: {error}",
                prompt.len()
            );
        }
    }
}

#[test]
fn continuations_are_as_probable_as_transformers_finds_them() {
    for name in names() {
        if OF_THE_LONGEST.contains(&name.as_str()) {
            continue;
        }
        let (model, expected) = (load(&name), expected(&name));
        // Every prompt of more than one token, cut in two at a place of its own.
        let long = expected.prompts.iter().zip(&expected.log_probs);
        let (pairs, references): (Vec<_>, Vec<_>) = long
            .filter(|(prompt, _)| prompt.len() > 1)
            .enumerate()
            .map(|(i, (prompt, log_probs))| {
                let cut = 1 + (i * 5) % (prompt.len() - 1);
                (prompt.split_at(cut), &log_probs[cut - 1..])
            })
            .unzip();
        let mut seen = vec![false; pairs.len()];
        let scores = continuation_scores(&model, &pairs, 1 << 12, |index, score| {
            seen[index] = score.log_probs.len() == pairs[index].1.len();
            Ok::<_, Error>(())
        })
        .unwrap();
        assert!(seen.iter().all(|&seen| seen), "{name}");
        for (score, reference) in scores.iter().zip(references) {
            let error = distance(&score.log_probs, reference);
            assert!(error < TOLERANCE, "{name}: {error}");
        }
    }
}

#[test]
fn batches_of_every_size_give_the_same() {
    let (model, prompts) = (model(), prompts());
    let reference: Vec<Vec<f64>> = prompts.iter().map(|prompt| alone(&model, prompt)).collect();
    for batch_tokens in [0, 1, 41, 200, usize::MAX] {
        for (logits, reference) in together(&model, &prompts, batch_tokens)
            .iter()
            .zip(&reference)
        {
            assert!(distance(logits, reference) < 1e-5, "{batch_tokens}");
        }
    }
}

#[test]
fn a_continuation_is_greedy_where_each_token_is_the_likeliest() {
    let (model, prompts) = (model(), prompts());
    let top = |tokens: &[u32]| {
        let logits = alone(&model, tokens);
        (1..logits.len()).fold(0, |top, i| if logits[i] > logits[top] { i } else { top }) as u32
    };
    let mut pairs = Vec::new();
    for prompt in &prompts[..6] {
        let mut text = prompt.clone();
        for _ in 0..3 {
            text.push(top(&text));
        }
        let greedy = text[prompt.len()..].to_vec();
        let mut other = greedy.clone();
        other[1] = (other[1] + 1) % 61;
        pairs.extend([(prompt.clone(), greedy), (prompt.clone(), other)]);
    }
    let scores = continuation_scores(&model, &pairs, 64, |_, _| Ok::<_, Error>(())).unwrap();
    for pair in scores.chunks(2) {
        assert!(pair[0].is_greedy && !pair[1].is_greedy, "{pair:?}");
        // The first token is the same, the second less likely.
        assert!((pair[0].log_probs[0] - pair[1].log_probs[0]).abs() < 1e-5);
        assert!(pair[0].log_probs[1] > pair[1].log_probs[1]);
    }
}

/// A model that remembers how many rows and columns it embeds, and of how many positions it is asked the logits.
struct Recording {
    model: Decoder,
    embedded: RefCell<Vec<[usize; 2]>>,
    logit_rows: RefCell<Vec<usize>>,
}

impl DecoderModel for Recording {
    type Layer<'a> = <Decoder as DecoderModel>::Layer<'a>;

    fn shape(&self) -> ModelShape {
        self.model.shape()
    }

    fn hidden_size(&self) -> usize {
        self.model.hidden_size()
    }

    fn vocab_size(&self) -> usize {
        self.model.vocab_size()
    }

    fn device(&self) -> Device {
        self.model.device()
    }

    fn embed(&self, tokens: Tensor<2, Int>, positions: Positions) -> Tensor<3> {
        self.embedded.borrow_mut().push(tokens.dims());
        self.model.embed(tokens, positions)
    }

    fn layer(&self, index: usize) -> pear_core::Result<Self::Layer<'_>> {
        self.model.layer(index)
    }

    fn logits(&self, residual: Tensor<3>) -> Tensor<3> {
        let [batch, rows, _] = residual.dims();
        self.logit_rows.borrow_mut().push(batch * rows);
        self.model.logits(residual)
    }
}

#[test]
fn few_batches_within_the_bound_are_read_and_only_wanted_logits_computed() {
    let model = Recording {
        model: model(),
        embedded: RefCell::default(),
        logit_rows: RefCell::default(),
    };
    let prompts = prompts();
    together(&model, &prompts, 120);
    assert_eq!(model.logit_rows.take().iter().sum::<usize>(), prompts.len());
    let embedded = model.embedded.take();
    assert!(embedded.iter().all(|[rows, columns]| rows * columns <= 120));
    let read: usize = embedded.iter().map(|[rows, columns]| rows * columns).sum();
    let tokens: usize = prompts.iter().map(Vec::len).sum();
    assert!(
        embedded.len() <= 10 && 4 * read < 5 * tokens,
        "{embedded:?}, {tokens} tokens"
    );

    let pairs: Vec<(&[u32], [u32; 3])> = prompts.iter().map(|p| (&p[..], [5, 6, 7])).collect();
    continuation_scores(&model, &pairs, 120, |_, _| Ok::<_, Error>(())).unwrap();
    assert_eq!(
        model.logit_rows.take().iter().sum::<usize>(),
        3 * prompts.len()
    );
}

#[test]
fn what_cannot_be_read_is_an_error_and_that_of_the_caller_ends_the_work() {
    let model = model();
    let read = |prompts: &[Vec<u32>]| {
        let mut count = 0;
        let result = next_token_logits(&model, prompts, 64, |_, _| {
            count += 1;
            Ok::<_, Error>(())
        });
        (result.map_err(|e| e.to_string()), count)
    };
    let (error, count) = read(&[vec![1, 2], vec![]]);
    assert_eq!((error, count), (Err("no tokens given".into()), 0));
    let (error, count) = read(&[vec![1, 2], vec![61]]);
    assert!(error.unwrap_err().contains("61") && count == 0);
    assert_eq!(read(&[]), (Ok(()), 0));
    let no_text = continuation_scores(&model, &[([1], [])], 64, |_, _| Ok::<_, Error>(()));
    assert!(no_text.is_err());

    let mut count = 0;
    let stopped = next_token_logits(&model, &prompts(), 64, |_, _| {
        count += 1;
        if count == 4 {
            return Err(Error::Input("enough".into()));
        }
        Ok(())
    });
    assert_eq!(
        (stopped.unwrap_err().to_string(), count),
        ("enough".into(), 4)
    );
}

#[test]
fn the_probability_of_a_text_is_the_product_of_its_tokens() {
    let score = ContinuationScore {
        log_probs: vec![0.5f64.ln(), 0.25f64.ln()],
        is_greedy: false,
    };
    assert!((score.log_prob() - 0.125f64.ln()).abs() < 1e-12);
}
