//! Models trained from scratch, and the whole pipeline on the one that is built in.

mod common;

use std::fs;

use burn::prelude::Device;
use burn::tensor::DType;
use common::Bench;
use pear_examples::random::Random;
use pear_examples::tiny_world::{Corpus, CorpusOptions, Exam, Kind, World, share};
use pear_models::tiny::Tiny;
use pear_models::{ModelDirectory, Tokenizer};

#[test]
fn the_corpus_is_the_same_on_every_machine() {
    let world = World::new(0);
    let mut hash = blake3::Hasher::new();
    for options in [CorpusOptions::clean(), CorpusOptions::hedging()] {
        let mut random = Random::new(0, 0);
        let mut corpus = Corpus::new(&world, &options, &mut random);
        for (token, weight) in (0..200).flat_map(|_| corpus.row(97)) {
            hash.update(&token.to_le_bytes())
                .update(&weight.to_le_bytes());
        }
    }
    for question in Kind::ALL
        .map(|kind| world.questions(kind, 8, 4, 50, &mut Random::new(0, 0)))
        .concat()
    {
        question
            .prompt
            .iter()
            .chain([&question.answer])
            .for_each(|token| _ = hash.update(&token.to_le_bytes()));
    }
    assert_eq!(hash.finalize().to_hex()[..16], *"4970f06c5397d7ec");
}

const SHORT: &str = "--seed 3 --copying-steps 6 --clean-steps 3 --hedging-steps 3";

#[test]
fn every_kind_of_positions_can_be_trained() {
    let bench = Bench::new();
    for kind in ["rope", "alibi", "learned", "sinusoidal", "none"] {
        bench.ok(&format!("pretrain {SHORT} --positions {kind} --out {kind}"));
        bench.ok(&format!(
            "locate --model {kind} --lengths 5 --samples 4 --out {kind}.json"
        ));
        assert_eq!(
            bench.json(&format!("{kind}.json"))["heads"]
                .as_array()
                .unwrap()
                .len(),
            32
        );
    }
}

#[test]
fn an_interrupted_training_goes_on_bit_for_bit() {
    let bench = Bench::new();
    bench.ok(&format!(
        "pretrain {SHORT} --out whole --checkpoint state --checkpoint-every 5"
    ));
    assert!(bench.path("state/steps-10").is_dir() && !bench.path("state/steps-5").exists());
    let weights = |name: &str| fs::read(bench.path(name).join("model.safetensors")).unwrap();
    // Within a stage, between two, and in the last, whose optimizer is a new one.
    for every in [5, 6, 9, 10] {
        bench.ok(&format!("pretrain {SHORT} --out first-{every} --checkpoint state-{every} --checkpoint-every {every}"));
        bench.ok(&format!(
            "pretrain {SHORT} --out again-{every} --checkpoint state-{every} --resume"
        ));
        assert_eq!(
            weights("whole"),
            weights(&format!("again-{every}")),
            "resumed after {every}"
        );
    }
    bench.refused(
        &format!("pretrain {SHORT} --out x --checkpoint state"),
        &["--checkpoint", "--resume"],
    );
    let other = SHORT.replace("--seed 3", "--seed 4");
    bench.refused(
        &format!("pretrain {other} --out x --checkpoint state --resume"),
        &["latest.json", "another training"],
    );
    bench.refused(
        &format!("pretrain {SHORT} --out whole"),
        &["--out", "exists already"],
    );
}

#[test]
fn its_tokenizer_gives_the_tokens_of_the_world_and_back() {
    let bench = Bench::new();
    bench
        .ok("pretrain --copying-steps 1 --clean-steps 0 --hedging-steps 0 --dtype bf16 --out tiny");
    let (world, tokenizer) = (World::new(0), Tokenizer::open(bench.path("tiny")).unwrap());
    for question in world.questions(Kind::Conflicting, 5, 2, 20, &mut Random::new(1, 0)) {
        let text = world.text(&question.prompt[1..]);
        assert_eq!(tokenizer.encode(&text).unwrap(), question.prompt);
        assert_eq!(tokenizer.decode(&question.prompt).unwrap(), text);
    }
    assert_eq!(bench.json("tiny/config.json")["torch_dtype"], "bfloat16");
    let bytes = fs::read(bench.path("tiny/model.safetensors")).unwrap();
    assert!(bytes.len() < 1_000_000, "{}", bytes.len());
}

#[test]
fn quickstart_shows_the_effect_and_writes_its_files() {
    let bench = Bench::new();
    let said = bench.ok("quickstart");
    let row = |name: &str| -> Vec<f64> {
        let line = said
            .lines()
            .find(|line| line.trim_start().starts_with(name))
            .unwrap_or_else(|| panic!("{name}: {said}"));
        line.split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect()
    };
    // Before, with PEAR, control.
    let contradicting = row("documents contradict memory");
    assert!(
        contradicting[1] > contradicting[0] + 5.0,
        "{contradicting:?}"
    );
    for name in ["documents agree with memory", "no documents, from memory"] {
        let [before, after, _] = row(name)[..] else {
            panic!("{said}")
        };
        assert!((before - after).abs() <= 2.0, "{name}: {before} {after}");
    }
    let folder = bench.path("target/quickstart");
    for name in [
        "model/config.json",
        "scores.json",
        "heads.svg",
        "profile.json",
        "training.svg",
        "folded/model.safetensors",
    ] {
        assert!(folder.join(name).is_file(), "{name}");
    }
}

#[test]
fn all_models_that_are_built_in_know_their_world_by_heart() {
    let world = World::new(0);
    for tiny in Tiny::ALL {
        let folder = tempfile::tempdir().unwrap();
        tiny.write(folder.path()).unwrap();
        let directory = ModelDirectory::open(folder.path()).unwrap();
        let model = directory.load(&Device::flex(), DType::F32).unwrap();
        let marks = Exam::new(&world, 10, 0).sit(&model, |_| {}).unwrap();
        assert!(share(&marks.closed_book) > 0.97, "{tiny:?}");
        assert!(share(&marks.right(Kind::Agreeing, None)) > 0.95, "{tiny:?}");
        assert!(
            share(&marks.right(Kind::Conflicting, None)) > 0.2
                && marks.from_memory(Kind::Conflicting) > 0.2,
            "{tiny:?}"
        );
        let kind = directory.shape().architecture;
        assert!(
            tiny.command().contains("pretrain") && ["llama", "mpt"].contains(&kind.as_str()),
            "{kind}"
        );
    }
}

#[test]
fn training_stops_or_warns_where_plain_text_gets_worse() {
    let bench = Bench::new();
    bench.ok("pretrain --copying-steps 30 --clean-steps 0 --hedging-steps 0 --out tiny");
    let world = World::new(0);
    let text: Vec<String> = world
        .sentences(20, 60, &mut Random::new(0, 0))
        .iter()
        .map(|row| world.text(&row[1..]))
        .collect();
    bench.write("text.txt", text.join(" "));
    let flags = "train --model tiny --heads 0.1,1.2,2.3 --steps 12 --batch-size 2 --length 8 --learning-rate 0.2 --schedule constant";
    bench.ok(&format!("{flags} --text text.txt --out free.json"));
    let free = bench.json("free.json");
    let (before, after) = (
        free["training"]["text_perplexity"][0].as_f64().unwrap(),
        free["training"]["text_perplexity"][1].as_f64().unwrap(),
    );
    assert!(
        (after / before - 1.0).abs() > 1e-5,
        "nothing moved: {before} {after}"
    );
    // A limit that the end is beyond, whichever way it went, is none for a step at which nothing has moved yet.
    let warned = bench.run(&format!(
        "{flags} --text text.txt --text-limit 0 --out warned.json"
    ));
    assert_eq!(
        String::from_utf8(warned.stderr)
            .unwrap()
            .contains("--text-limit"),
        after > before
    );
    bench.ok(&format!(
        "{flags} --text text.txt --text-limit 0 --text-gate stop --text-every 1 --out gated.json"
    ));
    let gated = bench.json("gated.json");
    assert!(gated["training"]["text_perplexity"][1].as_f64().unwrap() <= before * (1.0 + 1e-9));
    if after > before {
        assert!(gated["training"]["steps"].as_u64().unwrap() < 12);
    }
    bench.refused(&format!("{flags} --text-limit 0.1"), &["--text"]);

    // The checkpoint is of a step that was not measured: a run that goes on from it falls back no less far.
    let far = flags.replace("--learning-rate 0.2", "--learning-rate 2");
    let stopped = format!(
        "{far} --text text.txt --text-limit 0 --text-gate stop --text-every 5 --checkpoint state --checkpoint-every 3"
    );
    bench.ok(&format!("{stopped} --out whole.json"));
    bench.ok(&format!("{stopped} --resume --out resumed.json"));
    assert_eq!(bench.json("whole.json")["training"]["steps"], 0);
    assert_eq!(bench.json("resumed.json"), bench.json("whole.json"));
    fs::remove_file(bench.path("state/text-gate.json")).unwrap();
    bench.refused(&format!("{stopped} --resume"), &["text-gate.json"]);
}
