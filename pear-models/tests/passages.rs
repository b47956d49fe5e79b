//! Questions with a passage and key-value retrieval: which are asked, and their measures by an independent computation.
#![cfg(all(feature = "chat", feature = "tokenizer"))]

use std::fs;
use std::path::PathBuf;

use burn::prelude::*;
use burn::tensor::DType;
use pear_core::{DecoderModel, NoEdit, forward};
use pear_models::evaluation::{PromptBuilder, kv, summarize, swap};
use pear_models::{Decoder, DecoderConfig, Error, ModelDirectory, log_probs};
use serde_json::{Value, json};
use tempfile::TempDir;

const BOS: u32 = 256;

/// A random model that reads bytes: its tokens are those of the text, after a BOS.
struct Bytes {
    folder: TempDir,
    directory: ModelDirectory,
    model: Decoder,
}

impl Bytes {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model");
        let device = Device::flex();
        device.seed(7);
        let config = json!({
            "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 257, "hidden_size": 32, "intermediate_size": 48,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5, "tie_word_embeddings": false, "bos_token_id": BOS, "eos_token_id": null,
        });
        let decoder = DecoderConfig::from_json(&config).unwrap();
        let decoder = decoder.init(&device).unwrap();
        decoder.save(&config, DType::F32, &path).unwrap();
        fs::write(path.join("tokenizer.json"), tokenizer().to_string()).unwrap();
        let directory = ModelDirectory::open(&path).unwrap();
        let model = directory.load(&device, DType::F32).unwrap();
        Self {
            folder,
            directory,
            model,
        }
    }

    fn plain(&self) -> PromptBuilder {
        assert!(self.directory.find_chat_template().unwrap().is_none());
        PromptBuilder::new(&self.directory).unwrap()
    }

    fn chat(&self) -> PromptBuilder {
        let template = "{{ bos_token }}[{{ messages[0].content }}]>";
        let config = json!({"bos_token": "<s>", "chat_template": template});
        let path = self.directory.path().join("tokenizer_config.json");
        fs::write(path, config.to_string()).unwrap();
        let template = self.directory.find_chat_template().unwrap().unwrap();
        PromptBuilder::new(&self.directory)
            .unwrap()
            .with_chat_template(template)
    }

    fn write(&self, lines: &[Value]) -> PathBuf {
        let path = self.folder.path().join("data.jsonl");
        let lines: Vec<String> = lines.iter().map(Value::to_string).collect();
        fs::write(&path, lines.join("\n")).unwrap();
        path
    }

    /// Log-probability of each byte of `text` after `prompt`, both read as one sequence.
    fn log_probs(&self, prompt: &str, text: &str) -> Vec<f64> {
        let bytes = prompt.bytes().chain(text.bytes());
        let tokens: Vec<u32> = [BOS].into_iter().chain(bytes.map(u32::from)).collect();
        let mut all = log_probs(&self.model, &tokens).unwrap();
        all.split_off(prompt.len())
    }

    /// The most likely token after a text.
    fn top(&self, prompt: &str) -> u32 {
        let tokens: Vec<u32> = [BOS]
            .into_iter()
            .chain(prompt.bytes().map(u32::from))
            .collect();
        let input = forward::token_tensor(&[&tokens], &self.model.device());
        let logits = forward::logits(&self.model, input, &mut NoEdit).unwrap();
        let last = logits.narrow(1, tokens.len() - 1, 1).into_data();
        let last: Vec<f64> = last.iter::<f64>().collect();
        let better = |top: usize, i: usize| if last[i] > last[top] { i } else { top };
        (1..last.len()).fold(0, better) as u32
    }
}

/// GPT-2's letters for bytes, without merges: printable ones stand for themselves, the others follow from U+0100.
fn tokenizer() -> Value {
    let is_printable = |byte: u32| {
        (0x21..=0x7e).contains(&byte)
            || (0xa1..=0xac).contains(&byte)
            || (0xae..=0xff).contains(&byte)
    };
    let (mut vocabulary, mut next) = (serde_json::Map::new(), 0x100);
    for byte in 0..256 {
        let letter = if is_printable(byte) { byte } else { next };
        next += u32::from(!is_printable(byte));
        vocabulary.insert(char::from_u32(letter).unwrap().to_string(), byte.into());
    }
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "pre_tokenizer": bytes, "decoder": bytes,
        "added_tokens": [{"id": BOS, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": true}],
        "post_processor": {
            "type": "TemplateProcessing", "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [BOS], "tokens": ["<s>"]}},
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        },
        "model": {"type": "BPE", "vocab": vocabulary, "merges": [], "dropout": null, "unk_token": null,
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false},
    })
}

fn unobserved() -> Result<(), Error> {
    Ok(())
}

fn close(found: f64, right: f64) {
    assert!((found - right).abs() < 1e-4, "{found}, expected {right}");
}

fn swap_record(question: &str, passages: [&str; 2], answers: [&str; 2]) -> Value {
    json!({"question": question, "org_context": passages[0], "org_answer": [answers[0], "other"], "sub_context": passages[1],
        "sub_answer": [answers[1]]})
}

#[test]
fn questions_with_long_passages_equal_first_tokens_or_asked_before_are_left_out() {
    let bytes = Bytes::new();
    let passage = |length: usize| format!("<P> {} </P>", "x".repeat(length));
    let (fits, long) = (passage(900), passage(901));
    let path = bytes.write(&[
        swap_record("who", [&long, &fits], ["Ann", "Bob"]),
        swap_record("who", [&fits, &long], ["Ann", "Bob"]),
        swap_record("who", [&fits, &fits], ["Ann", "Al"]),
        swap_record("who", [&fits, &fits], ["Ann", ""]),
        swap_record("who", [&fits, &fits], ["Ann", "Bob"]),
        swap_record("who", [&fits, &fits], ["Ann", "Cora"]),
        swap_record("where", [&fits, &fits], ["Ann", "Cora"]),
        swap_record("when", [&fits, &fits], ["Ann", "Cora"]),
    ]);
    let indices = |limit| -> Vec<usize> {
        let questions = swap::read(&path, &bytes.plain(), limit).unwrap();
        questions.iter().map(|question| question.index).collect()
    };
    assert_eq!(indices(None), [4, 6, 7]);
    assert_eq!(indices(Some(2)), [4, 6]);
}

#[test]
fn first_tokens_of_answers_are_measured_after_the_prompts_of_the_passages() {
    let bytes = Bytes::new();
    let records = [
        swap_record(
            "who found the well",
            [
                "<P> Ida 's well , found by Ann , is deep . </P>",
                "<P> Ida 's well , found by Bob , is deep . </P>",
            ],
            ["Ann", "Bob"],
        ),
        swap_record(
            "where is it",
            ["<P> It is in Oslo . </P>", "<P> It is in Rome . </P>"],
            ["Oslo", "Rome"],
        ),
    ];
    let ask = "\n\nUsing only the text above, answer in a few words.\nQuestion: ";
    let prompts = [
        [
            format!("Ida's well, found by Bob, is deep.{ask}who found the well?"),
            format!("Ida's well, found by Ann, is deep.{ask}who found the well?"),
            "Answer in a few words.\nQuestion: who found the well?".to_owned(),
        ],
        [
            format!("It is in Rome.{ask}where is it?"),
            format!("It is in Oslo.{ask}where is it?"),
            "Answer in a few words.\nQuestion: where is it?".to_owned(),
        ],
    ];
    let path = bytes.write(&records);
    for is_chat in [false, true] {
        let builder = if is_chat { bytes.chat() } else { bytes.plain() };
        // In plain text, a space is read before the answer.
        let dress = |prompt: &str| {
            if is_chat {
                format!("[{prompt}]>")
            } else {
                format!("{prompt}\nAnswer: ")
            }
        };
        let questions = swap::read(&path, &builder, None).unwrap();
        let results = swap::evaluate(&bytes.model, &questions, 400, unobserved).unwrap();
        for ((result, prompts), answers) in
            results.iter().zip(&prompts).zip([["A", "B"], ["O", "R"]])
        {
            let [substituted, agreeing, closed_book] =
                prompts.each_ref().map(|prompt| dress(prompt));
            let of = |prompt: &str, answer: &str| bytes.log_probs(prompt, answer)[0];
            close(result.substituted, of(&substituted, answers[1]));
            close(result.memory, of(&substituted, answers[0]));
            close(result.agreeing, of(&agreeing, answers[0]));
            close(result.closed_book, of(&closed_book, answers[0]));
            let first = bytes.top(&agreeing) == u32::from(answers[0].as_bytes()[0]);
            assert_eq!(result.agreeing_first, first);
        }
        let shares: Vec<f64> = summarize(&results)
            .iter()
            .map(|(_, estimate)| estimate.mean)
            .collect();
        let over = results.iter().filter(|r| r.substituted > r.memory).count() as f64 / 2.0;
        assert_eq!(shares[4], over);
        let asked = swap::questions(&questions, 9, true);
        assert_eq!(asked.len(), 6);
        assert!(
            swap::questions(&questions, 9, false)[5]
                .prompt
                .ends_with("is it?\nAnswer:")
        );
        assert_eq!(
            [&asked[0].prompt, &asked[1].prompt, &asked[2].prompt],
            prompts[0].each_ref()
        );
        assert_eq!(asked[0].answers, ["Bob"]);
        assert_eq!(asked[1].answers, ["Ann", "other"]);
        assert_eq!(asked[2].group, "closed book");
    }
}

/// Pairs of which the one at `place` is asked for.
fn kv_record(count: usize, place: usize) -> Value {
    let pairs: Vec<[String; 2]> = (0..count)
        .map(|i| [format!("k{i}"), format!("v{i}w")])
        .collect();
    json!({"ordered_kv_records": pairs, "key": format!("k{place}"), "value": format!("v{place}w")})
}

#[test]
fn values_are_measured_within_quotes_after_the_published_prompt() {
    let bytes = Bytes::new();
    let path = bytes.write(&[kv_record(3, 1), kv_record(3, 2)]);
    let text = "Extract the value corresponding to the specified key in the JSON object below.\n\nJSON data:\n{\"k0\": \"v0w\",\n \"k1\": \
                \"v1w\",\n \"k2\": \"v2w\"}\n\nKey: \"k1\"\nCorresponding value:";
    for is_chat in [false, true] {
        let builder = if is_chat { bytes.chat() } else { bytes.plain() };
        let questions = kv::read(&path, &builder, &kv::Options::default()).unwrap();
        assert_eq!(questions[0].prompt, text);
        let results = kv::evaluate(&bytes.model, &questions, 4096, unobserved).unwrap();
        let before = if is_chat {
            format!("[{text}]>\"")
        } else {
            format!("{text} \"")
        };
        let expected = bytes.log_probs(&before, "v1w");
        assert_eq!(expected.len(), 3);
        close(results[0].log_prob, expected.iter().sum());
        close(
            results[0].log_prob_per_token,
            expected.iter().sum::<f64>() / 3.0,
        );
        assert!(!results[0].greedy);
        let asked = kv::questions(&questions, 5);
        assert_eq!(
            (asked[1].answers[0].as_str(), asked[1].max_new_tokens),
            ("v2w", 5)
        );
    }
}

#[test]
fn a_value_is_greedy_exactly_where_the_model_would_write_it() {
    let bytes = Bytes::new();
    let prompt = |value: &str| format!("{{\"k\": \"{value}\"}}k \"");
    let letters = (b'!'..=b'~').filter(|letter| ![b'"', b'\\'].contains(letter));
    let values: Vec<String> = letters
        .map(|letter| char::from(letter).to_string())
        .collect();
    let records: Vec<Value> = values
        .iter()
        .map(|value| json!({"ordered_kv_records": [["k", value]], "key": "k", "value": value}))
        .collect();
    let options = kv::Options {
        template: pear_models::evaluation::PromptTemplate::new("{json}{key}", kv::FIELDS).unwrap(),
        ..kv::Options::default()
    };
    let questions = kv::read(bytes.write(&records), &bytes.plain(), &options).unwrap();
    let results = kv::evaluate(&bytes.model, &questions, 4096, unobserved).unwrap();
    for (value, result) in values.iter().zip(&results) {
        let is_top = bytes.top(&prompt(value)) == u32::from(value.as_bytes()[0]);
        assert_eq!(result.greedy, is_top, "{value}");
    }
}

#[test]
fn places_are_grouped_and_fewer_pairs_keep_the_place_in_proportion() {
    let bytes = Bytes::new();
    let path = bytes.write(&[0, 3, 4, 8, 9].map(|place| kv_record(10, place)));
    let read = |options: kv::Options| -> Vec<(usize, String)> {
        let questions = kv::read(&path, &bytes.plain(), &options).unwrap();
        questions.into_iter().map(|q| (q.place, q.group)).collect()
    };
    let groups = |num_groups| {
        let options = kv::Options {
            num_groups,
            ..kv::Options::default()
        };
        read(options)
            .into_iter()
            .map(|(_, group)| group)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        groups(2),
        [
            "pairs 0-4",
            "pairs 0-4",
            "pairs 0-4",
            "pairs 5-9",
            "pairs 5-9"
        ]
    );
    // Groups of four places, the last one smaller.
    assert_eq!(
        groups(3),
        [
            "pairs 0-3",
            "pairs 0-3",
            "pairs 4-7",
            "pairs 8-9",
            "pairs 8-9"
        ]
    );
    let fewer = kv::Options {
        max_pairs: Some(4),
        ..kv::Options::default()
    };
    let places: Vec<usize> = read(fewer.clone())
        .into_iter()
        .map(|(place, _)| place)
        .collect();
    assert_eq!(places, [0, 1, 1, 3, 3]);
    let questions = kv::read(&path, &bytes.plain(), &fewer).unwrap();
    assert!(
        questions[1]
            .prompt
            .contains("{\"k0\": \"v0w\",\n \"k3\": \"v3w\",\n \"k1\": \"v1w\",\n \"k2\": \"v2w\"}")
    );
}

#[test]
fn records_that_cannot_be_asked_are_named() {
    let bytes = Bytes::new();
    let read = |record: Value, options: &kv::Options| {
        let path = bytes.write(&[record]);
        kv::read(&path, &bytes.plain(), options)
            .unwrap_err()
            .to_string()
    };
    let options = kv::Options::default();
    let mut record = kv_record(3, 1);
    record["key"] = json!("k2");
    let error = read(record, &options);
    assert!(
        error.ends_with(
            "data.jsonl, record 1: no pair of `ordered_kv_records` is that of `key` and `value`"
        ),
        "{error}"
    );
    let none = kv::Options {
        max_pairs: Some(0),
        ..options
    };
    assert_eq!(
        read(kv_record(3, 1), &none),
        "`max_pairs` is 0: expected at least 1"
    );
    let path = bytes.write(&[]);
    assert!(
        swap::read(&path, &bytes.plain(), None)
            .unwrap_err()
            .to_string()
            .contains("no records")
    );
    let path = bytes.write(&[json!({"question": "who"})]);
    let error = swap::read(&path, &bytes.plain(), None)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("data.jsonl, line 1") && error.contains("org_context"),
        "{error}"
    );
}
