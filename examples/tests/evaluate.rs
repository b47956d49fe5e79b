//! Question answering as it is measured: prompts, answers, scores, and what is refused.

mod common;

use std::fs;
use std::io::Write;

use burn::prelude::*;
use burn::tensor::DType;
use common::Bench;
use flate2::Compression;
use flate2::write::GzEncoder;
use pear_models::evaluation::{AnswerRecord, AnswerScores, PromptBuilder};
use pear_models::{ChatTemplate, DecoderConfig, ModelDirectory};
use serde_json::json;

/// Tokens that are no bytes: they follow the 256 that are.
const SPECIAL: [&str; 3] = ["<s>", "</s>", "<|end|>"];
const BOS: u32 = 256;

/// A random model that reads bytes, `positions` of them at most.
fn byte_model(bench: &Bench, name: &str, positions: usize) {
    let device = Device::flex();
    device.seed(7);
    let config = json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 259, "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": positions,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": false, "bos_token_id": BOS, "eos_token_id": 257,
    });
    let folder = bench.path(name);
    DecoderConfig::from_json(&config)
        .unwrap()
        .init(&device)
        .unwrap()
        .save(&config, DType::F32, &folder)
        .unwrap();
    // GPT-2's letters for bytes: printable ones stand for themselves, the others follow from U+0100.
    let printable = |byte: u32| {
        (0x21..=0x7e).contains(&byte)
            || (0xa1..=0xac).contains(&byte)
            || (0xae..=0xff).contains(&byte)
    };
    let (mut vocabulary, mut next) = (serde_json::Map::new(), 0x100);
    for byte in 0..256 {
        let letter = if printable(byte) { byte } else { next };
        next += u32::from(!printable(byte));
        vocabulary.insert(char::from_u32(letter).unwrap().to_string(), byte.into());
    }
    let special = |(i, content): (usize, &&str)| json!({"id": 256 + i, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "pre_tokenizer": bytes, "decoder": bytes,
        "added_tokens": SPECIAL.iter().enumerate().map(special).collect::<Vec<_>>(),
        "post_processor": {
            "type": "TemplateProcessing", "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [BOS], "tokens": ["<s>"]}},
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        },
        "model": {"type": "BPE", "vocab": vocabulary, "merges": [], "dropout": null, "unk_token": null,
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false},
    });
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
}

/// Questions with the right document alone, as in the `oracle` file of the published data.
fn oracle(count: usize) -> String {
    let line = |i: usize| {
        let document = json!({"title": format!("Title {i}"), "text": format!("It is word{i}."), "isgold": true, "hasanswer": true});
        // Every third answer also stands in the document of the question after it.
        let answers = if i.is_multiple_of(3) {
            json!([format!("word{i}"), format!("word{}", i + 1)])
        } else {
            json!([format!("word{i}")])
        };
        json!({"question": format!("what is {i}"), "answers": answers, "ctxs": [document]})
            .to_string()
    };
    (0..count).map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn long_prompts_lose_their_middle_and_keep_one_bos() {
    let bench = Bench::new();
    byte_model(&bench, "model", 64);
    let directory = ModelDirectory::open(bench.path("model")).unwrap();
    let text: String = (0..100).map(|i| char::from(b'0' + i % 10)).collect();
    let prompts = PromptBuilder::new(&directory).unwrap();
    // 64 positions, 4 of them for the answer.
    let prompt = prompts.build(&text, 4).unwrap();
    assert_eq!(
        (prompt.tokens.len(), prompt.cut, prompt.tokens[0]),
        (60, true, BOS)
    );
    assert_eq!(
        prompts.decode(&prompt.tokens).unwrap(),
        format!("{}{}", &text[..29], &text[70..])
    );
    assert_eq!(bos_count(&prompt.tokens), 1);
    let short = prompts.build(&text[..20], 4).unwrap();
    assert_eq!((short.tokens.len(), short.cut), (21, false));
    let prompts = prompts.with_max_prompt_tokens(Some(10));
    let prompt = prompts.build(&text, 4).unwrap();
    // BOS and four letters, then the last five.
    assert_eq!(prompts.decode(&prompt.tokens).unwrap(), "012356789");
    let error = prompts.build(&text, 63).unwrap_err().to_string();
    assert!(error.contains("`max_new_tokens` is 63"), "{error}");

    bench.write("oracle.jsonl", oracle(3));
    let flags =
        "evaluate --model model --data oracle.jsonl --documents 1 --gold-position 0 --limit 1";
    bench.refused(
        &format!("{flags} --max-new-tokens 63"),
        &["--max-new-tokens 63", "64 tokens"],
    );
    bench.refused(
        &format!("{flags} --max-new-tokens 1 --max-prompt-tokens 1"),
        &["--max-prompt-tokens 1", "at least 2"],
    );
}

fn bos_count(tokens: &[u32]) -> usize {
    tokens.iter().filter(|token| **token == BOS).count()
}

#[test]
fn a_chat_template_stays_whole_around_a_prompt_that_is_cut() {
    let bench = Bench::new();
    byte_model(&bench, "model", 64);
    let error = ChatTemplate::open(bench.path("model"))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("tokenizer_config.json") && error.contains("no chat template"),
        "{error}"
    );
    let template = "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[bot]{% endif %}";
    bench.write(
        "model/tokenizer_config.json",
        json!({"bos_token": "<s>", "chat_template": template}).to_string(),
    );
    let directory = ModelDirectory::open(bench.path("model")).unwrap();
    let prompts = PromptBuilder::new(&directory)
        .unwrap()
        .with_chat_template(ChatTemplate::open(directory.path()).unwrap());
    let prompt = prompts.build("why?", 4).unwrap();
    assert_eq!(
        (prompts.decode(&prompt.tokens).unwrap().as_str(), prompt.cut),
        ("[user]why?[bot]", false)
    );
    assert_eq!(bos_count(&prompt.tokens), 1);
    let text: String = (0..100).map(|i| char::from(b'0' + i % 10)).collect();
    let prompt = prompts.build(&text, 4).unwrap();
    // 60 tokens: BOS, [user], [bot], 48 letters of the prompt.
    assert_eq!(
        (prompts.decode(&prompt.tokens).unwrap(), prompt.cut),
        (format!("[user]{}{}[bot]", &text[..24], &text[76..]), true)
    );
    assert_eq!((prompt.tokens.len(), prompt.tokens[0]), (60, BOS));

    bench
        .write("oracle.jsonl", oracle(3))
        .write("q.txt", "{question}{search_results}");
    bench.ok(
        "evaluate --model model --data oracle.jsonl --documents 1 --gold-position 0 --max-new-tokens 2 --chat --template q.txt",
    );
    let said = bench.ok("generate --model model --chat --prompt why --max-new-tokens 3 --ignore-eos --out chat.json");
    let ids: Vec<String> = [BOS]
        .into_iter()
        .chain("[user]why[bot]".bytes().map(u32::from))
        .map(|id| id.to_string())
        .collect();
    bench.ok(&format!(
        "generate --model model --prompt-tokens {} --max-new-tokens 3 --ignore-eos --out ids.json",
        ids.join(",")
    ));
    assert_eq!(bench.json("chat.json"), bench.json("ids.json"), "{said}");
}

#[test]
fn a_bos_that_the_template_puts_before_that_of_the_tokenizer_is_refused() {
    let bench = Bench::new();
    byte_model(&bench, "model", 512);
    bench
        .write("oracle.jsonl", oracle(12))
        .write("twice.txt", "<s>{search_results} {question}");
    let flags = "evaluate --model model --data oracle.jsonl --documents 1 --gold-position 0 --max-new-tokens 2 --limit 2";
    bench.refused(
        &format!("{flags} --template twice.txt"),
        &["question 1", "two BOS tokens (256)"],
    );
    bench.write("none.txt", "{question}");
    bench.refused(
        &format!("{flags} --template none.txt"),
        &["--template none.txt", "{search_results}"],
    );
}

#[test]
fn answers_end_at_every_end_token_of_the_model() {
    let bench = Bench::new();
    byte_model(&bench, "model", 512);
    bench
        .write("oracle.jsonl", oracle(12))
        .write("short.txt", "{question}{search_results}");
    let flags = "evaluate --model model --data oracle.jsonl --documents 1 --gold-position 0 --max-new-tokens 12 --limit 1 --template short.txt --outputs o.jsonl";
    bench.ok(flags);
    let answered = outputs(&bench, "o.jsonl");
    assert_eq!(answered[0].new_tokens, 12);
    let prompt = "what is 0Document [1](Title: Title 0) It is word0.";
    let ids: Vec<String> = [BOS]
        .into_iter()
        .chain(prompt.bytes().map(u32::from))
        .map(|id| id.to_string())
        .collect();
    bench.ok(&format!(
        "generate --model model --prompt-tokens {} --max-new-tokens 12 --ignore-eos --out g.json",
        ids.join(",")
    ));
    let tokens: Vec<u64> = bench.json("g.json")["tokens"]
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_u64().unwrap())
        .collect();
    // As if one of the tokens were the second of two that end a text.
    let place = (0..12)
        .rfind(|&i| !tokens[..i].contains(&tokens[i]))
        .unwrap();
    bench.write(
        "model/generation_config.json",
        json!({"eos_token_id": [258, tokens[place]]}).to_string(),
    );
    bench.ok(flags);
    assert_eq!(outputs(&bench, "o.jsonl")[0].new_tokens, place + 1);
}

fn outputs(bench: &Bench, name: &str) -> Vec<AnswerRecord> {
    let text = fs::read_to_string(bench.path(name)).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// A profile that changes the answers.
fn profile(bench: &Bench) {
    let coefficients =
        json!([{"layer": 1, "head": 0, "value": -9.0}, {"layer": 0, "head": 2, "value": 7.0}]);
    let model = json!({"architecture": "llama", "num_layers": 2, "num_heads": 4});
    bench.write(
        "profile.json",
        json!({"format": "pear-profile", "version": 1, "model": model, "coefficients": coefficients}).to_string(),
    );
}

#[test]
fn outputs_score_again_to_the_same_results_and_compression_changes_nothing() {
    let bench = Bench::new();
    byte_model(&bench, "model", 2048);
    profile(&bench);
    // Answers of one letter, so that some are right.
    let lines: Vec<String> = (0..30u8)
        .map(|i| {
            let letter = char::from(b'a' + i % 26).to_string();
            let document = json!({"title": "0", "text": format!("{i}"), "isgold": true});
            json!({"question": format!("q{i}"), "answers": ["zzz", letter], "ctxs": [document]})
                .to_string()
        })
        .collect();
    bench.write("data.jsonl", lines.join("\n"));
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(lines.join("\n").as_bytes()).unwrap();
    bench.write("data.jsonl.gz", packed.finish().unwrap());

    let flags = "--documents 3 --gold-position 0,2 --max-new-tokens 40 --stop-at-newline --profile profile.json";
    let said = bench.ok(&format!(
        "evaluate --model model --data data.jsonl {flags} --outputs o.jsonl --out r.json"
    ));
    assert!(
        said.contains("best sub-span EM")
            && said.contains("change")
            && said.contains("tokens a second"),
        "{said}"
    );
    bench.ok(&format!(
        "evaluate --model model --data data.jsonl.gz --format mdqa {flags} --outputs p.jsonl"
    ));
    let (answered, again) = (outputs(&bench, "o.jsonl"), outputs(&bench, "p.jsonl"));
    let key = |a: &AnswerRecord| (a.run.clone(), a.index, a.group.clone(), a.output.clone());
    assert_eq!(
        answered.iter().map(key).collect::<Vec<_>>(),
        again.iter().map(key).collect::<Vec<_>>()
    );

    let result = bench.json("r.json");
    let mut right = 0.0;
    for run in ["baseline", "pear"] {
        let own: Vec<&AnswerRecord> = answered.iter().filter(|a| a.run == run).collect();
        assert_eq!(
            (own.len(), result[run]["questions"].as_u64()),
            (60, Some(60))
        );
        let scores: Vec<[f64; 4]> = own
            .iter()
            .map(|a| AnswerScores::of(&a.output, &a.answers).values())
            .collect();
        for (column, name) in AnswerScores::NAMES.iter().enumerate() {
            let mean = scores.iter().map(|s| s[column]).sum::<f64>() / 60.0;
            assert!(
                (result[run][name].as_f64().unwrap() - mean).abs() < 1e-12,
                "{run}, {name}"
            );
            right += mean;
        }
        assert!(own.iter().all(|a| !a.output.contains('\n')));
    }
    assert!(right > 0.0, "nothing was right: nothing was tested");
    let changed = answered
        .chunks(2)
        .filter(|pair| pair[0].output != pair[1].output)
        .count();
    assert!(changed > 20, "{changed}");
    let paired = &result["paired"]["best_subspan_em"];
    let both = answered.chunks(2).map(|pair| {
        (
            pair[0].scores.best_subspan_em,
            pair[1].scores.best_subspan_em,
        )
    });
    assert_eq!(
        paired["gained"].as_u64().unwrap(),
        both.filter(|(before, after)| after > before).count() as u64
    );
    assert!(result["baseline"]["by_group"]["right document 2"]["f1"].is_f64());
}

#[test]
fn longbench_results_are_given_for_each_dataset() {
    let bench = Bench::new();
    let line = |dataset: &str| {
        json!({"input": "why?", "context": "Because {input}.", "answers": ["no", "yes"], "length": 3, "dataset": dataset})
            .to_string()
    };
    bench.write(
        "l.jsonl",
        [
            line("musique"),
            line("qasper_e"),
            line("multifieldqa_en"),
            line("narrativeqa"),
        ]
        .join("\n"),
    );
    byte_model(&bench, "model", 1024);
    let said =
        bench.ok("evaluate --model model --format longbench --data l.jsonl --max-new-tokens 3");
    assert!(
        said.contains("musique") && said.contains("qasper_e"),
        "{said}"
    );
}

#[test]
fn what_cannot_be_read_is_named() {
    let bench = Bench::new();
    byte_model(&bench, "model", 512);
    let run = |bench: &Bench, parts: &[&str]| {
        bench.refused(
            "evaluate --model model --data d.jsonl --gold-position 0 --documents 2",
            parts,
        )
    };
    bench.write("d.jsonl", oracle(3) + "\n{\"question\": 5}");
    run(&bench, &["d.jsonl, line 4"]);
    bench.write("d.jsonl", "\n\n");
    run(&bench, &["d.jsonl", "no records"]);
    bench.write(
        "d.jsonl",
        json!({"question": "q", "answers": ["a"], "ctxs": [{"title": "t", "text": "x"}]})
            .to_string(),
    );
    run(&bench, &["d.jsonl, record 1", "isgold"]);
    bench.write(
        "d.jsonl",
        json!({"question": "q", "answers": [], "ctxs": []}).to_string(),
    );
    run(&bench, &["d.jsonl, record 1", "`answers` is empty"]);
    bench.write("d.jsonl", oracle(1));
    run(&bench, &["d.jsonl, record 1", "too few other documents"]);
    bench.write("d.jsonl.gz", "not compressed");
    bench.refused(
        "evaluate --model model --data d.jsonl.gz",
        &["d.jsonl.gz, line 1"],
    );
    bench.refused(
        "evaluate --model model --data missing.jsonl",
        &["missing.jsonl", "cannot open"],
    );
    bench.refused(
        "evaluate --model model --data d.jsonl --documents 3 --gold-position 3",
        &["--gold-position 3", "--documents"],
    );
    bench.refused("evaluate --model model", &["--data"]);
    bench.refused(
        "evaluate --model model --format proxy --data d.jsonl",
        &["--data"],
    );
    bench.refused(
        "evaluate --model model --format tiny-world",
        &["tiny-world", "words"],
    );
}

#[test]
fn the_cost_on_a_plain_text_is_told_and_a_high_one_warned_of() {
    let bench = Bench::new();
    byte_model(&bench, "model", 512);
    profile(&bench);
    bench.write(
        "text.txt",
        "It is a truth universally acknowledged. ".repeat(40),
    );
    let output =
        bench.run("evaluate --model model --profile profile.json --text text.txt --window 128 --text-limit 0 --out r.json");
    assert_eq!(output.status.code(), Some(0));
    let result = bench.json("r.json")["text"].clone();
    let (before, after) = (
        result["before"].as_f64().unwrap(),
        result["after"].as_f64().unwrap(),
    );
    assert!((result["increase"].as_f64().unwrap() - (after / before - 1.0)).abs() < 1e-12);
    assert_eq!(result["within_limit"], after <= before);
    let warned = String::from_utf8(output.stderr)
        .unwrap()
        .contains("--text-limit");
    assert_eq!(warned, after > before);
    assert_eq!(result["tokens"], 1600);
    // 13 windows, the last position of each of which predicts a token that is not there.
    assert_eq!(result["positions"], 1613);
    let (kl, same) = (
        result["kl"].as_f64().unwrap(),
        result["same_top_token"].as_f64().unwrap(),
    );
    assert!(kl > 0.0 && (0.0..1.0).contains(&same), "{kl} {same}");
    // Read in one piece, as `score` does it.
    bench.ok("evaluate --model model --text text.txt --window 5000 --out w.json");
    bench.write("short.txt", "It is a truth universally acknowledged.");
    bench.ok("evaluate --model model --text short.txt --out e.json");
    bench.ok("score --model model --text short.txt --out s.json");
    let [here, there] = [
        bench.json("e.json")["text"]["before"].as_f64().unwrap(),
        bench.json("s.json")["perplexity"].as_f64().unwrap(),
    ];
    assert!((here / there - 1.0).abs() < 1e-9, "{here} {there}");
}
