//! Files that were changed at random: each is read or refused in one line, without a panic, in little time and memory, and what is written
//! of it is whole or not there.
//!
//! 10,000 changes by default; for a long run:
//!
//! ```sh
//! PEAR_MUTATIONS=1000000 cargo test --release -p pear-examples --test mutations -- --nocapture
//! ```

mod common;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use burn::prelude::Device;
use burn::tensor::DType;
use pear_core::{HeadCoefficients, HeadId, ModelShape, Profile, ProxyTask};
use pear_examples::memory::peak_memory;
use pear_examples::random::Random;
use pear_examples::tokens::TokenFile;
use pear_locate::{LocateOptions, Scores, locate, proxy_batches};
use pear_models::evaluation::{PromptBuilder, conflict, kv, longbench, mdqa, swap};
use pear_models::tiny::Tiny;
use pear_models::{ChatTemplate, Decoder, Message, ModelDirectory, Tokenizer};
use pear_train::{Sequences, TrainOptions, Trainer};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// What a changed file may cost, on a busy machine.
const LONGEST: Duration = Duration::from_secs(20);
const MOST_MEMORY: u64 = 1 << 30;
const LONGEST_MESSAGE: usize = 4000;

/// Values that lie.
const VALUES: [&str; 24] = [
    "-1",
    "0",
    "1",
    "2",
    "3.5",
    "1e308",
    "-1e308",
    "1e-320",
    "1e999",
    "18446744073709551615",
    "9223372036854775807",
    "4294967296",
    "null",
    "true",
    "\"\"",
    "\"../../etc/passwd\"",
    "\"/dev/zero\"",
    "\"\\u0000\"",
    "[]",
    "{}",
    "[[]]",
    "[0]",
    "NaN",
    "\"linear\"",
];

/// A file, and what reads it.
struct Target<'a> {
    name: &'static str,
    path: PathBuf,
    read: Box<dyn Fn() -> Result<(), String> + 'a>,
}

/// Models and files to be changed.
struct Bench {
    folder: TempDir,
    llama: PathBuf,
    sharded: PathBuf,
    tiny: PathBuf,
    model: Decoder,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [llama, sharded, tiny] =
            ["llama", "sharded", "tiny"].map(|name| folder.path().join(name));
        common::copy_model("llama-2", &llama);
        common::copy_model("llama-rope-parameters", &sharded);
        fs::create_dir(&tiny).unwrap();
        Tiny::Rope.write(&tiny).unwrap();
        fs::write(tiny.join("tokenizer.json"), bytes_as_tokens().to_string()).unwrap();
        let model = ModelDirectory::open(&llama)
            .and_then(|directory| directory.load(&Device::flex(), DType::F32))
            .unwrap();
        Self {
            folder,
            llama,
            sharded,
            tiny,
            model,
        }
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn targets(&self) -> Vec<Target<'_>> {
        let target = |name, path: PathBuf, read: Box<dyn Fn() -> Result<(), String>>| Target {
            name,
            path,
            read,
        };
        let load = |directory: &Path| {
            let directory = directory.to_owned();
            move || {
                let directory = ModelDirectory::open(&directory).map_err(text)?;
                directory.special_tokens().map_err(text)?;
                directory.eos_tokens().map_err(text)?;
                directory.load(&Device::flex(), DType::F32).map_err(text)?;
                Ok(())
            }
        };
        let encode = |directory: &Path| {
            let directory = directory.to_owned();
            move || {
                let tokenizer = Tokenizer::open(&directory).map_err(text)?;
                let tokens = tokenizer.encode("Where does Anna live ?").map_err(text)?;
                tokenizer.decode(&tokens).map_err(text)?;
                Ok(())
            }
        };
        let mut targets = vec![
            target(
                "config",
                self.llama.join("config.json"),
                Box::new(load(&self.llama)),
            ),
            target(
                "weights",
                self.llama.join("model.safetensors"),
                Box::new(load(&self.llama)),
            ),
            target(
                "index",
                self.sharded.join("model.safetensors.index.json"),
                Box::new(load(&self.sharded)),
            ),
            target(
                "shard",
                self.sharded.join("model-00002-of-00003.safetensors"),
                Box::new(load(&self.sharded)),
            ),
            target(
                "tokenizer",
                self.tiny.join("tokenizer.json"),
                Box::new(encode(&self.tiny)),
            ),
            target(
                "generation",
                self.tiny.join("generation_config.json"),
                Box::new(load(&self.tiny)),
            ),
        ];
        targets.push(self.gguf());
        targets.extend(self.exported());
        targets.push(self.template());
        targets.extend(self.results());
        targets.extend(self.questions());
        targets.push(self.checkpoint());
        targets
    }

    fn gguf(&self) -> Target<'_> {
        let path = self.folder.path().join("model.gguf");
        fs::copy(common::model("gguf/llama-2.gguf"), &path).unwrap();
        let file = path.clone();
        Target {
            name: "gguf",
            path,
            read: Box::new(move || {
                let directory = ModelDirectory::open(&file).map_err(text)?;
                directory.load(&Device::flex(), DType::F32).map_err(text)?;
                Ok(())
            }),
        }
    }

    /// A changed model or profile that is written again: what is there afterwards is whole, or nothing is.
    fn exported(&self) -> Vec<Target<'_>> {
        let folder = self.folder.path().join("exports");
        let model = folder.join("model");
        fs::create_dir(&folder).unwrap();
        common::copy_model("llama-2", &model);
        let profile = folder.join("profile.json");
        let pairs = [(HeadId::new(0, 1), 0.5), (HeadId::new(1, 4), 1.5)];
        let shape = pear_core::DecoderModel::shape(&self.model);
        let coefficients = HeadCoefficients::new(&pairs, &shape, &Device::flex()).unwrap();
        let given = Profile::new(&coefficients, None).unwrap();
        given.write(&profile).unwrap();
        let export = |name, changed: PathBuf| {
            let (folder, model, profile) = (folder.clone(), model.clone(), profile.clone());
            let read = move || {
                let out = folder.join("out");
                let directory = ModelDirectory::open(&model).map_err(text)?;
                let profile = Profile::read(&profile).map_err(text)?;
                let written = directory.export(&profile, &out);
                let names = fs::read_dir(&folder).unwrap().count();
                if written.is_err() {
                    assert_eq!(names, 2, "something was left behind");
                } else {
                    assert_eq!(names, 3, "something was left behind");
                    ModelDirectory::open(&out).expect("what was written is whole");
                    fs::remove_dir_all(&out).unwrap();
                }
                written.map(drop).map_err(text)
            };
            Target {
                name,
                path: changed,
                read: Box::new(read),
            }
        };
        vec![
            export("exported weights", model.join("model.safetensors")),
            export("exported config", model.join("config.json")),
            export("exported profile", profile.clone()),
        ]
    }

    fn template(&self) -> Target<'_> {
        let folder = self.folder.path().join("template");
        fs::create_dir(&folder).unwrap();
        let path = folder.join("chat_template.jinja");
        let template = "{%- set ns = namespace(first=true) -%}{% for m in messages %}{% if loop.first and m.role != 'system' %}\
                        <|system|>{{ 'x' * 3 }}{% endif %}{% macro f(a, b=2) %}{{ a ~ b }}{% endmacro %}<|{{ m['role'] }}|>\
                        {{ f(m.content | trim, b=[1, 2] | tojson(indent=2)) }}{% set ns.first = not ns.first %}\
                        {% for i in range(3) %}{{ i + 1 }}{% endfor %}{% endfor %}{% if add_generation_prompt %}<|a|>{% endif %}";
        fs::write(&path, template).unwrap();
        Target {
            name: "template",
            path,
            read: Box::new(move || {
                let template = ChatTemplate::open(&folder).map_err(text)?;
                template
                    .render(&[Message::user("Why?")], true)
                    .map_err(text)?;
                Ok(())
            }),
        }
    }

    fn results(&self) -> Vec<Target<'_>> {
        let task = ProxyTask::new(50, &[], 0).unwrap();
        let batches = proxy_batches(&task, &[(4, 3), (6, 3)]).unwrap();
        let scores = locate(&self.model, &batches, &LocateOptions::default()).unwrap();
        let scores_path = self.folder.path().join("scores.json");
        scores.scores.write(&scores_path).unwrap();
        let mut trainer = self.trainer();
        trainer.run(&Sequences::Drawn(task)).unwrap();
        let profile_path = self.folder.path().join("profile.json");
        trainer.profile().unwrap().write(&profile_path).unwrap();
        let (of_scores, of_profile) = (scores_path.clone(), profile_path.clone());
        let shape: ModelShape = pear_core::DecoderModel::shape(&self.model);
        vec![
            Target {
                name: "scores",
                path: scores_path,
                read: Box::new(move || {
                    let scores = Scores::read(&of_scores).map_err(text)?;
                    Scores::merge(&[&of_scores]).map_err(text)?;
                    scores.top(3);
                    scores.significant();
                    Ok(())
                }),
            },
            Target {
                name: "profile",
                path: profile_path,
                read: Box::new(move || {
                    let profile = Profile::read(&of_profile).map_err(text)?;
                    profile.for_model(&shape, &Device::flex()).map_err(text)?;
                    Ok(())
                }),
            },
        ]
    }

    fn questions(&self) -> Vec<Target<'_>> {
        let prompts =
            |tiny: &Path| PromptBuilder::new(&ModelDirectory::open(tiny).unwrap()).unwrap();
        let tokens = self.write("tokens.jsonl", "[1, 2, 1, 2]\n[4, 5, 4, 5]\n[6, 7, 6, 7]\n");
        let mdqa_file = self.write(
            "mdqa.jsonl",
            &(0..3)
                .map(|i| {
                    let context = json!({"title": "t", "text": format!("text {i}"), "isgold": true, "hasanswer": true});
                    json!({"question": format!("what is {i}"), "answers": ["a"], "ctxs": [context]}).to_string() + "\n"
                })
                .collect::<String>(),
        );
        let kv_file = self.write(
            "kv.jsonl",
            &(json!({"ordered_kv_records": [["a", "b"], ["c", "d"]], "key": "a", "value": "b"})
                .to_string()
                + "\n"),
        );
        let longbench_file = self.write(
            "longbench.jsonl",
            &(json!({"input": "why", "context": "because", "answers": ["x"], "length": 3, "dataset": "qasper", "language": "en", "all_classes": null, "_id": "1"}).to_string() + "\n"),
        );
        let fact = json!({"base_prompt": "Anna lives in", "prompt": "Redefine: Anna lives in Rome. Anna lives in", "target_true": " Paris", "target_new": " Rome"});
        let facts = self.write("facts.jsonl", &(fact.to_string() + "\n"));
        let swap = json!({"question": "where", "org_context": "<P> Anna lives in Paris . </P>", "org_answer": ["Paris"], "sub_context": "<P> Anna lives in Rome . </P>", "sub_answer": ["Rome"]});
        let passages = self.write("passages.jsonl", &(swap.to_string() + "\n"));
        let (a, b, c, d, e, f) = (
            tokens.clone(),
            mdqa_file.clone(),
            kv_file.clone(),
            longbench_file.clone(),
            facts.clone(),
            passages.clone(),
        );
        let (of_kv, of_facts, of_passages) = (
            prompts(&self.tiny),
            prompts(&self.tiny),
            prompts(&self.tiny),
        );
        let boxed =
            |name, path, read: Box<dyn Fn() -> Result<(), String>>| Target { name, path, read };
        vec![
            boxed(
                "tokens",
                tokens,
                Box::new(move || {
                    TokenFile::read(&a, 97).map_err(text)?;
                    TokenFile::read_proxy(&a, 97).map_err(text)?;
                    Ok(())
                }),
            ),
            boxed(
                "mdqa",
                mdqa_file,
                Box::new(move || {
                    let options = mdqa::Options {
                        num_documents: 2,
                        gold_positions: vec![0, 1],
                        ..mdqa::Options::default()
                    };
                    mdqa::questions(&b, &options).map_err(text)?;
                    Ok(())
                }),
            ),
            boxed(
                "kv",
                kv_file,
                Box::new(move || {
                    kv::read(&c, &of_kv, &kv::Options::default()).map_err(text)?;
                    Ok(())
                }),
            ),
            boxed(
                "longbench",
                longbench_file,
                Box::new(move || {
                    let options = longbench::Options {
                        template: None,
                        max_new_tokens: None,
                        limit: None,
                    };
                    longbench::questions(&d, &options).map_err(text)?;
                    Ok(())
                }),
            ),
            boxed(
                "facts",
                facts,
                Box::new(move || {
                    conflict::read(&e, &of_facts, None).map_err(text)?;
                    Ok(())
                }),
            ),
            boxed(
                "passages",
                passages,
                Box::new(move || {
                    swap::read(&f, &of_passages, None).map_err(text)?;
                    Ok(())
                }),
            ),
        ]
    }

    fn trainer(&self) -> Trainer<&Decoder> {
        let heads = [HeadId::new(0, 1), HeadId::new(1, 0)];
        let options = TrainOptions {
            steps: 2,
            batch_size: 2,
            length: 4,
            ..TrainOptions::default()
        };
        Trainer::new(&self.model, &heads, options).unwrap()
    }

    fn checkpoint(&self) -> Target<'_> {
        let path = self.folder.path().join("checkpoint.json");
        let mut trainer = self.trainer();
        let task = ProxyTask::new(50, &[], 0).unwrap();
        trainer.run(&Sequences::Drawn(task)).unwrap();
        trainer.save(&path).unwrap();
        let file = path.clone();
        Target {
            name: "checkpoint",
            path,
            read: Box::new(move || self.trainer().restore(&file).map_err(text)),
        }
    }
}

/// A tokenizer each of whose tokens is a byte, written as GPT-2's tokenizer writes bytes.
fn bytes_as_tokens() -> Value {
    let is_itself = |byte: &u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let others = (0..256).filter(|byte| !is_itself(byte)).zip(256..);
    let letters = (0..256)
        .filter(is_itself)
        .map(|byte| (byte, byte))
        .chain(others);
    let vocab: Map<String, Value> = letters
        .map(|(byte, letter)| (char::from_u32(letter).unwrap().to_string(), byte.into()))
        .collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null, "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "vocab": vocab, "merges": [], "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
        },
    })
}

fn text(error: impl std::fmt::Display) -> String {
    format!("{error:#}")
}

/// The bytes with some changes: bits, lengths, pieces, values of JSON.
fn changed(original: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = original.to_vec();
    for _ in 0..random.between(1, 3) {
        // Headers stand in front: half of the changes are there.
        let end = if random.chance(0.5) {
            bytes.len().min(2000)
        } else {
            bytes.len()
        };
        let at = random.below(end.max(1));
        match random.below(8) {
            0 if !bytes.is_empty() => {
                let at = at.min(bytes.len() - 1);
                bytes[at] ^= 1 << random.below(8);
            }
            1 if !bytes.is_empty() => {
                let at = at.min(bytes.len() - 1);
                bytes[at] = random.below(256) as u8;
            }
            2 => bytes.truncate(at),
            3 => {
                let length = random.below(64).min(bytes.len().saturating_sub(at));
                bytes.drain(at.min(bytes.len())..at.min(bytes.len()) + length);
            }
            4 => {
                let length = random.below(64).min(bytes.len().saturating_sub(at));
                let piece = bytes[at.min(bytes.len())..][..length].repeat(random.between(1, 50));
                let at = at.min(bytes.len());
                bytes.splice(at..at, piece);
            }
            5 => {
                let value = random.choose(&VALUES);
                let at = at.min(bytes.len());
                bytes.splice(at..at, value.bytes());
            }
            _ => bytes = with_other_value(&bytes, random).unwrap_or(bytes),
        }
    }
    bytes
}

/// A JSON text, or the line of one, with another value somewhere.
fn with_other_value(bytes: &[u8], random: &mut Random) -> Option<Vec<u8>> {
    let lines: Vec<&[u8]> = bytes.split(|&byte| byte == b'\n').collect();
    let (start, line) = if serde_json::from_slice::<Value>(bytes).is_ok() {
        (0, bytes)
    } else {
        let index = random.below(lines.len());
        let start = lines[..index].iter().map(|line| line.len() + 1).sum();
        (start, lines[index])
    };
    let mut json: Value = serde_json::from_slice(line).ok()?;
    let mut place = &mut json;
    // Down to a value that is no list or map, or not quite.
    loop {
        let count = match place {
            Value::Array(items) => items.len(),
            Value::Object(fields) => fields.len(),
            _ => 0,
        };
        if count == 0 || random.chance(0.1) {
            break;
        }
        let index = random.below(count);
        place = match place {
            Value::Array(items) => &mut items[index],
            Value::Object(fields) => fields.values_mut().nth(index)?,
            _ => break,
        };
    }
    *place = json!("\u{1}");
    let marked = json.to_string();
    let changed = marked.replacen("\"\\u0001\"", random.choose(&VALUES), 1);
    Some(
        [
            &bytes[..start],
            changed.as_bytes(),
            &bytes[start + line.len()..],
        ]
        .concat(),
    )
}

#[test]
fn changed_files_are_read_or_refused_in_one_line() {
    let cases: usize = std::env::var("PEAR_MUTATIONS")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(10_000);
    let bench = Bench::new();
    let targets = bench.targets();
    let originals: Vec<Vec<u8>> = targets
        .iter()
        .map(|target| fs::read(&target.path).unwrap())
        .collect();
    for target in &targets {
        let outcome = (target.read)();
        println!("{} as it is: {outcome:?}", target.name);
        assert!(outcome.is_ok());
    }
    // A panic of the tokenizers library is caught and told as an error.
    set_hook(Box::new(|_| {}));
    let mut refused = vec![0; targets.len()];
    for case in 0..cases {
        let index = case % targets.len();
        let (target, original) = (&targets[index], &originals[index]);
        let bytes = changed(original, &mut Random::new(case as u64, 500));
        fs::write(&target.path, &bytes).unwrap();
        let start = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| (target.read)()));
        let problem = match outcome {
            Err(_) => Some("a panic".to_owned()),
            Ok(Err(error)) => {
                refused[index] += 1;
                let is_readable = error.len() <= LONGEST_MESSAGE && !error.is_empty();
                (!is_readable).then(|| format!("a message of {} bytes", error.len()))
            }
            Ok(Ok(())) => None,
        };
        let problem = problem
            .or_else(|| (start.elapsed() > LONGEST).then(|| format!("{:?}", start.elapsed())))
            .or_else(|| (peak_memory() > MOST_MEMORY).then(|| format!("{} bytes", peak_memory())));
        if let Some(problem) = problem {
            let kept = std::env::temp_dir().join(format!("pear-mutation-{}-{case}", target.name));
            fs::write(&kept, &bytes).unwrap();
            // The hook prints no panic.
            println!(
                "case {case}, {}: {problem}: {}",
                target.name,
                kept.display()
            );
            panic!("see above");
        }
        fs::write(&target.path, original).unwrap();
    }
    for (target, refused) in targets.iter().zip(&refused) {
        let tried = cases.div_ceil(targets.len());
        println!("{}: {refused} of about {tried} refused", target.name);
        assert!(
            *refused > 0 && *refused < tried,
            "{}: {refused} of {tried}",
            target.name
        );
    }
}
