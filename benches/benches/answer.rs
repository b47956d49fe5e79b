//! Answers to multi-document questions: ours, transformers' and llama.cpp's, many prompts at once, side by side in one run.
//!
//! ```sh
//! PEAR_MODEL=SmolLM2-135M-Instruct.Q4_1.gguf PEAR_DATA=nq-open-oracle.jsonl.gz cargo bench --bench answer      # ours
//! PEAR_PYTHON=path/to/python …                                                                # and transformers': needs torch
//! PEAR_PYTHON=path/to/python PEAR_LLAMA_CPP=folder …                                          # and that of benches/llama_cpp.sh
//! ```
//!
//! `PEAR_MODEL` is a chat model, `PEAR_DATA` questions in the format of *Lost in the Middle*. The first twenty (or `PEAR_QUESTIONS`), each with
//! its gold document first, fifth and last of ten, in f32; up to 48 new tokens. Ours are run in turn, sharing what prompts begin with, and in
//! padded batches of similar length.

use std::env;
use std::path::Path;
use std::time::Instant;

use burn::prelude::*;
use burn::tensor::DType;
use pear_benches::{Flops, dense, matmul_rate, number_in, python};
use pear_core::DecoderModel;
use pear_models::evaluation::{PromptBuilder, mdqa};
use pear_models::{Error, GenerateOptions, Generator, ModelDirectory, generate_batch};
use serde_json::json;

const NEW: usize = 48;
const BATCH_TOKENS: usize = 16384;

fn main() {
    pear_examples::allocator::keep_pages();
    let (Ok(model), Ok(data)) = (env::var("PEAR_MODEL"), env::var("PEAR_DATA")) else {
        println!("PEAR_MODEL and PEAR_DATA name a checkpoint and questions: nothing to do without");
        return;
    };
    let directory = ModelDirectory::open(&model).expect("PEAR_MODEL: a checkpoint");
    let prompts = prompts(&directory, Path::new(&data));
    let eos_tokens = directory.eos_tokens().expect("tokens that end a text");
    let lengths: Vec<usize> = prompts.iter().map(Vec::len).collect();
    let tokens: usize = lengths.iter().sum();
    let decoder = directory
        .load(&Device::flex(), DType::F32)
        .expect("a model");
    let config = directory.config();
    let flops = Flops::of(config);
    let rate = matmul_rate(
        &Device::flex(),
        config.hidden_size,
        dense(&config.layers[0]).intermediate_size,
    );
    // Reading every prompt alone: the floor without sharing.
    let read = lengths.iter().map(|&len| flops.layers_once(len as f64));
    let floor = read.sum::<f64>() / rate;
    println!(
        "{} prompts, {tokens} tokens; {:.0} GFLOP/s in products: {floor:.0} s to read each of them alone\n",
        prompts.len(),
        rate / 1e9
    );

    let options = GenerateOptions {
        max_new_tokens: NEW,
        eos_tokens: eos_tokens.clone(),
        ..GenerateOptions::default()
    };
    let show = |name: &str, seconds: f64| {
        println!(
            "{name:<44} {seconds:>7.1} s {:>7.0} prompt tokens/s {:>6.2} of that floor",
            tokens as f64 / seconds,
            floor / seconds
        );
    };
    let start = Instant::now();
    let in_turn = in_turn(&decoder, &prompts, &options);
    let ours = start.elapsed().as_secs_f64();
    show("ours, in turn", ours);

    let start = Instant::now();
    let padded = in_padded_batches(&decoder, &prompts, &options);
    show("ours, in padded batches", start.elapsed().as_secs_f64());
    println!(
        "  same answers: {} of {}",
        same(&in_turn, &padded),
        prompts.len()
    );
    drop(decoder);

    let folder = env::temp_dir().join(format!("pear-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let [input, output] = ["prompts.json", "answers.json"].map(|name| folder.join(name));
    let request = json!({"prompts": prompts, "eos_tokens": eos_tokens, "max_new_tokens": NEW});
    std::fs::write(&input, request.to_string()).expect("a file");
    let paths = [&input, &output].map(|path| path.to_str().expect("a path"));
    let flags = ["--model", &model, "--prompts", paths[0], "--out", paths[1]];
    let theirs = |name: &str, script: &str, flags: &[&str]| {
        let Some(printed) = python(script, flags) else {
            return;
        };
        let theirs = number_in(&printed, "seconds");
        show(name, theirs);
        let answers = std::fs::read(&output).expect("their answers");
        let answers: Vec<Vec<u32>> = serde_json::from_slice(&answers).expect("their answers");
        println!(
            "  same answers: {} of {}; we are {:.2} times as fast",
            same(&in_turn, &answers),
            prompts.len(),
            theirs / ours
        );
    };
    theirs("transformers, in padded batches", "answer.py", &flags);
    if let Ok(folder) = env::var("PEAR_LLAMA_CPP") {
        let flags = [&["--llama-cpp", &folder][..], &flags].concat();
        theirs("llama.cpp's server", "answer_llama_cpp.py", &flags);
    }
    std::fs::remove_dir_all(&folder).expect("the folder of this bench");
}

fn prompts(directory: &ModelDirectory, data: &Path) -> Vec<Vec<u32>> {
    let limit = env::var("PEAR_QUESTIONS").map_or(20, |count| count.parse().expect("a number"));
    let options = mdqa::Options {
        limit: Some(limit),
        max_new_tokens: NEW,
        ..mdqa::Options::default()
    };
    let questions = mdqa::questions(data, &options)
        .expect("questions")
        .questions;
    let template = directory.chat_template().expect("a chat template");
    let builder = PromptBuilder::new(directory)
        .expect("a tokenizer")
        .with_chat_template(template);
    let build = |question: &pear_models::evaluation::Question| {
        builder
            .build(&question.prompt, NEW)
            .expect("a prompt")
            .tokens
    };
    questions.iter().map(build).collect()
}

fn in_turn(
    model: &impl DecoderModel,
    prompts: &[Vec<u32>],
    options: &GenerateOptions,
) -> Vec<Vec<u32>> {
    let mut answers = vec![Vec::new(); prompts.len()];
    let generator = Generator::new(model, options.clone()).expect("options");
    let ended = |prompt: usize, tokens| {
        answers[prompt] = tokens;
        Ok(())
    };
    generator
        .run_in_turn(prompts, BATCH_TOKENS, |_| Ok::<_, Error>(false), ended)
        .expect("answers");
    answers
}

fn in_padded_batches(
    model: &impl DecoderModel,
    prompts: &[Vec<u32>],
    options: &GenerateOptions,
) -> Vec<Vec<u32>> {
    let mut order: Vec<usize> = (0..prompts.len()).collect();
    order.sort_by_key(|&prompt| std::cmp::Reverse(prompts[prompt].len()));
    let mut answers = vec![Vec::new(); prompts.len()];
    let mut left = &order[..];
    while let Some(&longest) = left.first() {
        let rows = BATCH_TOKENS / (prompts[longest].len() + NEW);
        let (batch, rest) = left.split_at(rows.clamp(1, left.len()));
        let together: Vec<&[u32]> = batch.iter().map(|&prompt| &prompts[prompt][..]).collect();
        let found = generate_batch(model, &together, options).expect("answers");
        batch
            .iter()
            .zip(found)
            .for_each(|(&prompt, tokens)| answers[prompt] = tokens);
        left = rest;
    }
    answers
}

fn same(ours: &[Vec<u32>], theirs: &[Vec<u32>]) -> usize {
    ours.iter().zip(theirs).filter(|(a, b)| a == b).count()
}
