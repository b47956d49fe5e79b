//! The tokenizers of GGUF files, against llama.cpp on awkward strings.

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use common::fixtures;
use flate2::read::GzDecoder;
use pear_models::{ChatTemplate, Error, Message, Tokenizer};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

type Metadata = BTreeMap<String, Value>;

#[derive(Deserialize)]
struct Expected {
    texts: Vec<String>,
    vocabularies: BTreeMap<String, Metadata>,
    cases: Vec<Case>,
}

/// The same ids, whichever of the changes is made to the metadata.
#[derive(Deserialize)]
struct Case {
    vocabulary: String,
    changes: Vec<Metadata>,
    /// With what stands around a text; without it for all texts.
    texts: Option<Vec<String>>,
    ids: Vec<Vec<u32>>,
}

#[derive(Deserialize)]
struct SmolLm2 {
    texts: Vec<String>,
    ids: Vec<Vec<u32>>,
}

fn read<T: DeserializeOwned>(name: &str) -> T {
    let path = fixtures().join(format!("gguf-tokenizer/{name}.json.gz"));
    serde_json::from_reader(GzDecoder::new(File::open(path).unwrap())).unwrap()
}

/// A GGUF file without tensors.
fn write(path: &Path, metadata: &Metadata) {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    for count in [0, metadata.len() as u64] {
        bytes.extend(count.to_le_bytes());
    }
    for (key, value) in metadata {
        bytes.extend(text(key));
        match value {
            Value::Array(items) => {
                bytes.extend(9u32.to_le_bytes());
                bytes.extend(type_of(&items[0]).to_le_bytes());
                bytes.extend((items.len() as u64).to_le_bytes());
                bytes.extend(items.iter().flat_map(encoded));
            }
            value => {
                bytes.extend(type_of(value).to_le_bytes());
                bytes.extend(encoded(value));
            }
        }
    }
    fs::write(path, bytes).unwrap();
}

fn type_of(value: &Value) -> u32 {
    match value {
        Value::String(_) => 8,
        Value::Bool(_) => 7,
        Value::Number(number) if number.is_f64() => 6,
        _ => 5,
    }
}

fn encoded(value: &Value) -> Vec<u8> {
    match value {
        Value::String(value) => text(value),
        Value::Bool(value) => vec![u8::from(*value)],
        Value::Number(number) if number.is_f64() => {
            (number.as_f64().unwrap() as f32).to_le_bytes().to_vec()
        }
        value => (value.as_i64().unwrap() as i32).to_le_bytes().to_vec(),
    }
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// The vocabularies of the fixture, changed and written to a file that is removed in the end.
struct Vocabularies {
    folder: tempfile::TempDir,
    vocabularies: BTreeMap<String, Metadata>,
}

impl Vocabularies {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            vocabularies: read::<Expected>("expected").vocabularies,
        }
    }

    /// A file with these changes: keys with null are left out.
    fn file(&self, vocabulary: &str, changes: Metadata) -> PathBuf {
        let mut metadata = self.vocabularies[vocabulary].clone();
        metadata.extend(changes);
        metadata.retain(|_, value| !value.is_null());
        let path = self.folder.path().join("vocabulary.gguf");
        write(&path, &metadata);
        path
    }

    fn open(&self, vocabulary: &str, changes: Metadata) -> Result<Tokenizer, Error> {
        Tokenizer::open(self.file(vocabulary, changes))
    }
}

fn changes(value: Value) -> Metadata {
    serde_json::from_value(value).unwrap()
}

/// Checks each text and says which are wrong.
fn differences(
    name: &str,
    texts: &[String],
    expected: &[Vec<u32>],
    encode: impl Fn(&str) -> Result<Vec<u32>, Error>,
) -> Vec<String> {
    assert_eq!(texts.len(), expected.len());
    let of_text = |(text, expected): (&String, &Vec<u32>)| {
        let ids = encode(text).unwrap();
        (ids != *expected).then(|| format!("{name}: {text:?}: {ids:?}, expected {expected:?}"))
    };
    texts.iter().zip(expected).filter_map(of_text).collect()
}

#[test]
fn token_ids_are_those_of_llama_cpp_whatever_rule_divides_texts_into_words() {
    let Expected { texts, cases, .. } = read("expected");
    let vocabularies = Vocabularies::new();
    let (mut problems, mut tried) = (Vec::new(), 0);
    for case in &cases {
        for changes in &case.changes {
            let name = format!("{} {}", case.vocabulary, json!(changes));
            let tokenizer = vocabularies
                .open(&case.vocabulary, changes.clone())
                .unwrap();
            problems.extend(match &case.texts {
                Some(texts) => differences(&name, texts, &case.ids, |text| tokenizer.encode(text)),
                None => differences(&name, &texts, &case.ids, |text| {
                    tokenizer.encode_rendered(text)
                }),
            });
            tried += 1;
        }
    }
    assert!(tried >= 100, "only {tried} tokenizers");
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn decoding_gives_the_text_without_its_special_tokens() {
    let vocabularies = Vocabularies::new();
    let pre = |name| changes(json!({"tokenizer.ggml.pre": name}));
    for (vocabulary, changes) in [
        ("bytes", pre("llama-bpe")),
        ("bytes", pre("smollm")),
        ("scores", changes(json!({}))),
        (
            "scores",
            changes(json!({"tokenizer.ggml.add_space_prefix": false})),
        ),
    ] {
        let tokenizer = vocabularies.open(vocabulary, changes).unwrap();
        for text in [
            "",
            " ",
            "Hello world",
            "  two  spaces\n",
            "naïve 😀 \u{1f469}\u{200d}\u{1f469} 世界",
        ] {
            let ids = tokenizer.encode(text).unwrap();
            assert_eq!(tokenizer.decode(&ids).unwrap(), text, "{vocabulary}");
        }
        let ids = tokenizer
            .encode("<|im_start|>user hello<|im_end|>")
            .unwrap();
        let text = tokenizer.decode(&ids).unwrap();
        assert_eq!(text.trim_start(), "user hello");
        // A part of a letter, and an id that the vocabulary lacks.
        let letter = tokenizer.encode_rendered("𓀀").unwrap();
        let broken = [letter.last().copied().unwrap(), 1_000_000];
        let text = tokenizer.decode(&broken).unwrap();
        assert_eq!(text.trim_matches('\u{fffd}'), "");
        assert!(!text.is_empty());
    }
}

#[test]
fn a_gguf_file_without_a_usable_tokenizer_is_an_error_that_names_the_key() {
    let vocabularies = Vocabularies::new();
    for (vocabulary, change, expected) in [
        (
            "bytes",
            json!({"tokenizer.ggml.pre": "brand-new"}),
            "`tokenizer.ggml.pre`: is \"brand-new\", which is unknown",
        ),
        (
            "bytes",
            json!({"tokenizer.ggml.model": "bert"}),
            "`tokenizer.ggml.model`: is \"bert\": expected gpt2, gemma4 or llama",
        ),
        (
            "bytes",
            json!({"tokenizer.ggml.model": null}),
            "`tokenizer.ggml.model`: is missing",
        ),
        (
            "bytes",
            json!({"tokenizer.ggml.tokens": null}),
            "`tokenizer.ggml.tokens`: is missing",
        ),
        (
            "bytes",
            json!({"tokenizer.ggml.merges": null}),
            "`tokenizer.ggml.merges`: is missing",
        ),
        (
            "bytes",
            json!({"tokenizer.ggml.merges": ["a b", "ab"]}),
            "`tokenizer.ggml.merges`: has \"ab\" at 1: expected two parts",
        ),
        (
            "bytes",
            json!({"tokenizer.ggml.token_type": [1]}),
            "`tokenizer.ggml.token_type`: has 1 values for",
        ),
        (
            "scores",
            json!({"tokenizer.ggml.scores": [0.5]}),
            "`tokenizer.ggml.scores`: has 1 values for",
        ),
        (
            "bytes",
            json!({"tokenizer.ggml.pre": "glm4", "tokenizer.ggml.bos_token_id": null, "tokenizer.ggml.add_bos_token": true}),
            "`tokenizer.ggml.bos_token_id`: is missing, but the tokenizer adds the bos token",
        ),
    ] {
        let error = vocabularies.open(vocabulary, changes(change)).unwrap_err();
        let message = error.to_string();
        assert!(
            matches!(error, Error::Config { .. }) && message.contains(expected),
            "{message}"
        );
    }
}

#[test]
fn the_chat_template_of_the_metadata_knows_the_names_of_special_tokens() {
    let vocabularies = Vocabularies::new();
    let template = "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}{{ unk_token }}";
    let file = vocabularies.file(
        "scores",
        changes(json!({"tokenizer.chat_template": template})),
    );
    let template = ChatTemplate::open(&file).unwrap();
    let text = template.render(&[Message::user("Why?")], true).unwrap();
    assert_eq!(text, "<s><user>Why?</s><unk>");

    let file = vocabularies.file("scores", changes(json!({})));
    let message = ChatTemplate::open(&file).unwrap_err().to_string();
    assert!(
        message.ends_with("`tokenizer.chat_template`: is missing: the file has no chat template"),
        "{message}"
    );
}

#[test]
fn token_ids_of_smollm2_are_those_of_llama_cpp() {
    let Some(path) = std::env::var_os("PEAR_SMOLLM2") else {
        println!("skipped: PEAR_SMOLLM2 names no SmolLM2-135M-Instruct.Q4_1.gguf");
        return;
    };
    let SmolLm2 { texts, ids } = read("smollm2");
    assert!(texts.len() >= 2000, "only {} texts", texts.len());
    let tokenizer = Tokenizer::open(path).unwrap();
    let problems = differences("SmolLM2", &texts, &ids, |text| {
        tokenizer.encode_rendered(text)
    });
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
