//! Facts with a statement that contradicts them: which are asked, and their measures by an independent computation.
#![cfg(all(feature = "tiny", feature = "tokenizer"))]

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use burn::prelude::*;
use burn::tensor::DType;
use pear_core::{DecoderModel, HeadCoefficients, HeadId, NoEdit, forward};
use pear_models::evaluation::{PromptBuilder, compare, conflict, summarize};
use pear_models::tiny::Tiny;
use pear_models::{Decoder, Error, ModelDirectory};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A small model that reads words, and the ids of its words.
struct World {
    folder: TempDir,
    directory: ModelDirectory,
    model: Decoder,
    ids: HashMap<String, u32>,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Tiny::Rope.write(folder.path()).unwrap();
        let directory = ModelDirectory::open(folder.path()).unwrap();
        let model = directory.load(&Device::flex(), DType::F32).unwrap();
        let tokenizer: Value =
            serde_json::from_slice(&fs::read(folder.path().join("tokenizer.json")).unwrap())
                .unwrap();
        let words = tokenizer["model"]["vocab"].as_object().unwrap();
        let ids = words
            .iter()
            .map(|(word, id)| (word.clone(), id.as_u64().unwrap() as u32))
            .collect();
        Self {
            folder,
            directory,
            model,
            ids,
        }
    }

    fn prompts(&self) -> PromptBuilder {
        PromptBuilder::new(&self.directory).unwrap()
    }

    fn write(&self, lines: &[Value]) -> PathBuf {
        let path = self.folder.path().join("data.jsonl");
        let lines: Vec<String> = lines.iter().map(Value::to_string).collect();
        fs::write(&path, lines.join("\n")).unwrap();
        path
    }

    fn id(&self, word: &str) -> u32 {
        self.ids[word]
    }

    fn word(&self, id: usize) -> &str {
        let known = self.ids.iter().find(|(_, own)| **own as usize == id);
        known.unwrap().0
    }

    /// BOS and the words.
    fn tokens(&self, text: &str) -> Vec<u32> {
        let words = text.split_whitespace().map(|word| self.id(word));
        [1].into_iter().chain(words).collect()
    }

    /// Log-probabilities of the next token, of a prompt that is read alone, in double precision.
    fn next(&self, model: &Decoder, tokens: &[u32]) -> Vec<f64> {
        let input = forward::token_tensor(&[tokens], &model.device());
        let logits = forward::logits(model, input, &mut NoEdit).unwrap();
        let logits = logits.narrow(1, tokens.len() - 1, 1).into_data();
        let logits: Vec<f64> = logits.iter::<f64>().collect();
        let total = logits.iter().map(|logit| logit.exp()).sum::<f64>().ln();
        logits.iter().map(|logit| logit - total).collect()
    }

    fn reweighted(&self) -> Decoder {
        let values: Vec<(HeadId, f32)> = (0..8).map(|head| (HeadId::new(2, head), 0.2)).collect();
        let shape = self.model.shape();
        let coefficients = HeadCoefficients::new(&values, &shape, &Device::flex()).unwrap();
        self.model.clone().with_coefficients(&coefficients).unwrap()
    }
}

fn top(log_probs: &[f64]) -> usize {
    (1..log_probs.len()).fold(0, |top, i| {
        if log_probs[i] > log_probs[top] {
            i
        } else {
            top
        }
    })
}

fn unobserved() -> Result<(), Error> {
    Ok(())
}

/// Facts of which every second one is what the model says anyway.
fn facts(world: &World) -> Vec<Value> {
    const NAMES: [&str; 8] = [
        "Amara", "Cora", "Emil", "Gita", "Hugh", "Ingrid", "Lars", "Nora",
    ];
    let fact = |(i, name): (usize, &&str)| {
        let base = format!("question : what is the colour of {name} ? answer :");
        let says = top(&world.next(&world.model, &world.tokens(&base)));
        let target_true = if i % 2 == 0 {
            world.word(says)
        } else {
            "wagon"
        };
        let statement = format!("the colour of {name} is copper . {base}");
        json!({"base_prompt": base, "prompt": format!("Redefine: {statement}"), "target_true": format!(" {target_true}"),
            "target_new": " copper"})
    };
    NAMES.iter().enumerate().map(fact).collect()
}

#[test]
fn facts_are_measured_as_each_prompt_alone_says() {
    let world = World::new();
    let lines = facts(&world);
    let path = world.write(&lines);
    let facts = conflict::read(&path, &world.prompts(), None).unwrap();
    assert_eq!(facts.len(), 8);
    let known = conflict::known(&world.model, facts.clone(), 100, unobserved).unwrap();
    let indices: Vec<usize> = known.iter().map(|fact| fact.index).collect();
    assert_eq!(indices, [0, 2, 4, 6]);
    for model in [&world.model, &world.reweighted()] {
        let mut observed = 0;
        let results = conflict::evaluate(model, &facts, 100, || {
            observed += 1;
            unobserved()
        })
        .unwrap();
        assert_eq!(observed, 16);
        for (line, result) in lines.iter().zip(&results) {
            let text = |key: &str| line[key].as_str().unwrap();
            let (old, new) = (
                world.id(text("target_true").trim()) as usize,
                world.id("copper") as usize,
            );
            let statement = text("prompt").strip_prefix("Redefine: ").unwrap();
            let context = world.next(model, &world.tokens(statement));
            let closed_book = world.next(model, &world.tokens(text("base_prompt")));
            let difference = context[new] - context[old];
            assert!(
                (result.log_prob_difference - difference).abs() < 1e-4,
                "{result:?}"
            );
            assert_eq!(result.context_over_memory, difference > 0.0);
            assert_eq!(result.context_first, top(&context) == new);
            assert_eq!(result.closed_book_first, top(&closed_book) == old);
        }
        let share = results.iter().filter(|r| r.context_over_memory).count() as f64 / 8.0;
        assert_eq!(summarize(&results)[0].1.mean, share);
    }
}

#[test]
fn two_models_are_compared_fact_by_fact() {
    let world = World::new();
    let path = world.write(&facts(&world));
    let facts = conflict::read(&path, &world.prompts(), None).unwrap();
    let results = [&world.model, &world.reweighted()]
        .map(|model| conflict::evaluate(model, &facts, 4096, unobserved).unwrap());
    let differences = results.each_ref().map(|results| {
        let values = results.iter().map(|result| result.log_prob_difference);
        values.collect::<Vec<f64>>()
    });
    let changes: Vec<f64> = differences[1]
        .iter()
        .zip(&differences[0])
        .map(|(a, b)| a - b)
        .collect();
    let mean = changes.iter().sum::<f64>() / 8.0;
    let variance = changes.iter().map(|c| (c - mean).powi(2)).sum::<f64>() / 7.0;
    let (measure, change) = compare(&results[0], &results[1])[1];
    assert_eq!(measure.name, "log_prob_difference");
    assert!(
        (change.difference - mean).abs() < 1e-9 && mean.abs() > 0.01,
        "{mean}"
    );
    assert!((change.standard_error - (variance / 8.0).sqrt()).abs() < 1e-9);
}

#[test]
fn facts_of_several_tokens_or_asked_before_are_left_out() {
    let world = World::new();
    let fact = |name: &str, old: &str, new: &str| {
        let base = format!("the pet of {name} is a");
        json!({"base_prompt": base, "prompt": format!("Redefine: {base}{new} . {base}"), "target_true": old, "target_new": new})
    };
    let path = world.write(&[
        fact("Olga", " red dog", " cat"),
        fact("Olga", " dog", " old cat"),
        fact("Olga", " dog", " dog"),
        fact("Olga", " dog", " cat"),
        fact("Olga", " dog", " frog"),
        fact("Otto", " dog", " frog"),
        fact("Rosa", " dog", " frog"),
    ]);
    let facts = conflict::read(&path, &world.prompts(), Some(2)).unwrap();
    let used: Vec<(usize, u32)> = facts
        .iter()
        .map(|fact| (fact.index, fact.target_new))
        .collect();
    assert_eq!(used, [(3, world.id("cat")), (5, world.id("frog"))]);
    assert_eq!(facts[0].closed_book, world.tokens("the pet of Olga is a"));
    let context = "the pet of Olga is a cat . the pet of Olga is a";
    assert_eq!(facts[0].context, world.tokens(context));

    let questions = conflict::questions(&facts, 3);
    let first = [&questions[0], &questions[1]];
    assert_eq!(first.map(|q| q.group.as_str()), ["context", "closed book"]);
    assert_eq!(first.map(|q| q.answers[0].as_str()), ["cat", "dog"]);
    assert_eq!(first[0].prompt, context);
}
