//! Conversations rendered as transformers renders them (see `fixtures/chat/chat.py`).
#![cfg(feature = "chat")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use pear_models::{ChatTemplate, Message};
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Role and content of each turn.
type Conversation = Vec<(String, String)>;

/// `chat.json`.
#[derive(Deserialize)]
struct Rendered {
    special_tokens: Value,
    conversations: Vec<Conversation>,
    cases: Vec<Case>,
}

#[derive(Debug, Deserialize)]
struct Case {
    template: String,
    conversation: usize,
    add_generation_prompt: bool,
    rendered: Option<String>,
    error: Option<String>,
}

/// `published.json`.
#[derive(Deserialize)]
struct Published {
    /// What stands in for every call of `strftime_now`.
    today: String,
    conversations: Vec<Conversation>,
    models: Vec<PublishedModel>,
}

#[derive(Deserialize)]
struct PublishedModel {
    /// Hash of `tokenizer_config.json` followed by `chat_template.jinja`.
    files: String,
    /// Hash of every conversation, without and with a generation prompt; `refused` where the template raises an exception, `failed`
    /// where transformers fails in another way, which is not compared.
    texts: Vec<String>,
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/chat")
        .join(name)
}

fn parse<T: for<'a> Deserialize<'a>>(name: &str) -> T {
    serde_json::from_slice(&fs::read(fixture(name)).unwrap()).unwrap()
}

fn messages(conversation: &Conversation) -> Vec<Message> {
    conversation
        .iter()
        .map(|(role, content)| Message {
            role: role.clone(),
            content: content.clone(),
        })
        .collect()
}

/// The first 12 hexadecimal digits of a text's BLAKE3 hash.
fn digest(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex()[..12].to_owned()
}

/// A model directory with these files.
fn directory(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn open(folder: &TempDir) -> ChatTemplate {
    ChatTemplate::open(folder.path()).unwrap()
}

#[test]
fn conversations_match_transformers_to_the_letter() {
    let reference: Rendered = parse("chat.json");
    assert!(reference.cases.len() > 100, "{}", reference.cases.len());
    for case in &reference.cases {
        let template = fixture("templates").join(format!("{}.jinja", case.template));
        let template = fs::read_to_string(template).unwrap();
        let mut config = reference.special_tokens.clone();
        // Both places for a template, and both ways to write a token.
        let folder = if case.add_generation_prompt {
            config["bos_token"] = json!({"content": "<s>", "special": true});
            directory(&[
                ("tokenizer_config.json", &config.to_string()),
                ("chat_template.jinja", &template),
            ])
        } else {
            config["chat_template"] = json!([{"name": "tool_use", "template": "x"}, {"name": "default", "template": template}]);
            directory(&[("tokenizer_config.json", &config.to_string())])
        };
        let conversation = messages(&reference.conversations[case.conversation]);
        let rendered = open(&folder).render(&conversation, case.add_generation_prompt);
        match (&case.rendered, &case.error) {
            (Some(expected), _) => assert_eq!(&rendered.unwrap(), expected, "{case:?}"),
            (None, expected) => {
                let error = rendered.unwrap_err().to_string();
                assert!(error.contains(expected.as_ref().unwrap()), "{error}");
            }
        }
    }
}

/// Set `PEAR_TEMPLATES` to an archive of folders with the `tokenizer_config.json` and `chat_template.jinja` of published models.
#[test]
fn published_templates_match_transformers_to_the_letter() {
    let Some(archive) = std::env::var_os("PEAR_TEMPLATES") else {
        println!("skipped: PEAR_TEMPLATES does not name an archive of published templates");
        return;
    };
    let reference: Published = parse("published.json");
    let expected: BTreeMap<&str, &[String]> = reference
        .models
        .iter()
        .map(|model| (model.files.as_str(), model.texts.as_slice()))
        .collect();
    let unpacked = tempfile::tempdir().unwrap();
    let status = Command::new("tar")
        .arg("-xzf")
        .arg(&archive)
        .arg("-C")
        .arg(unpacked.path())
        .status()
        .unwrap();
    assert!(status.success(), "{}: {status}", archive.display());

    let (mut compared, mut different) = (0, Vec::new());
    for folder in model_folders(unpacked.path()) {
        let config = fs::read_to_string(folder.join("tokenizer_config.json")).unwrap();
        let template = fs::read_to_string(folder.join("chat_template.jinja")).ok();
        let key = digest(&[config.as_str(), template.as_deref().unwrap_or("")].concat());
        let Some(&texts) = expected.get(key.as_str()) else {
            println!("{}: no reference", folder.display());
            continue;
        };
        compared += 1;
        let config = stop_clock(&config, &reference.today);
        let template = template.map(|template| stop_clock(&template, &reference.today));
        let mut files = vec![("tokenizer_config.json", config.as_str())];
        files.extend(
            template
                .as_deref()
                .map(|text| ("chat_template.jinja", text)),
        );
        let directory = directory(&files);
        let ours = ChatTemplate::open(directory.path()).map(|template| {
            let both = |conversation| {
                [false, true].map(|prompt| template.render(&messages(conversation), prompt))
            };
            let texts = reference.conversations.iter().flat_map(both);
            texts
                .map(|text| text.map_or("refused".into(), |text| digest(&text)))
                .collect::<Vec<_>>()
        });
        match ours {
            Ok(ours) => {
                assert_eq!(ours.len(), texts.len());
                let differs =
                    |(ours, theirs): (&String, &String)| theirs != "failed" && ours != theirs;
                if let Some(index) = ours.iter().zip(texts).position(differs) {
                    different.push(format!("{}: text {index}", folder.display()));
                }
            }
            Err(e) => different.push(format!("{}: {e}", folder.display())),
        }
    }
    assert!(compared >= expected.len(), "only {compared} compared");
    assert!(
        different.is_empty(),
        "{} of {compared} differ:\n{}",
        different.len(),
        different.join("\n")
    );
}

/// The folders below a folder that hold a `tokenizer_config.json`, in order.
fn model_folders(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(folder) = pending.pop() {
        if folder.join("tokenizer_config.json").exists() {
            found.push(folder);
            continue;
        }
        let entries = fs::read_dir(folder).unwrap();
        pending.extend(
            entries
                .map(|entry| entry.unwrap().path())
                .filter(|path| path.is_dir()),
        );
    }
    found.sort();
    found
}

/// A text with every call of `strftime_now` replaced.
fn stop_clock(text: &str, today: &str) -> String {
    let mut pieces = text.split("strftime_now(");
    let mut stopped = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (_, rest) = piece.split_once(')').unwrap();
        stopped.extend([today, rest]);
    }
    stopped
}

#[test]
fn strftime_now_gives_todays_date_and_refuses_unknown_formats() {
    let render =
        |template: &str| open(&directory(&[("chat_template.jinja", template)])).render(&[], false);
    let date = render("{{ strftime_now('%d %b %Y') }}").unwrap();
    assert_eq!((date.len(), &date[2..3], &date[7..9]), (11, " ", "20"));
    assert!(render("{{ strftime_now('%Q') }}").is_err());
}

#[test]
fn missing_and_malformed_templates_are_errors_that_name_the_file() {
    let broken = directory(&[("chat_template.jinja", "{% for %}")]);
    let error = ChatTemplate::open(broken.path()).unwrap_err().to_string();
    assert!(error.contains("chat_template.jinja"), "{error}");
    let empty = tempfile::tempdir().unwrap();
    let error = ChatTemplate::open(empty.path()).unwrap_err().to_string();
    assert!(error.contains("no chat template"), "{error}");
}

#[test]
fn templates_that_would_not_end_or_write_without_end_are_errors() {
    let nots = format!("{{{{ {} true }}}}", "not ".repeat(20_000));
    let loops = "{% for a in range(99999) %}".repeat(4) + "x" + &"{% endfor %}".repeat(4);
    let quoted = format!("{{{{ 'x' {}}}}}", "| tojson ".repeat(48));
    let compiled = [
        ("{% set n = namespace() %}{% set n.a = n %}{{ n }}", "`n`"),
        (&nots, "20001 parts"),
        (
            "{% set n = namespace(a=['xx']) %}{% for i in range(99) %}{% set n.a = n.a + n.a %}{% endfor %}{{ n.a | join }}",
            "`a` grows by itself",
        ),
    ];
    for (template, expected) in compiled {
        let folder = directory(&[("chat_template.jinja", template)]);
        let error = ChatTemplate::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("chat_template.jinja"), "{error}");
        assert!(error.contains(expected), "{error}");
    }
    let rendered = [
        (
            "{% macro fib(n) %}{% if n < 2 %}1{% else %}{{ fib(n - 1) }}{{ fib(n - 2) }}{% endif %}{% endmacro %}{{ fib(60) }}",
            "fuel",
        ),
        (&loops, "fuel"),
        (
            "{% set n = namespace(a='xx') %}{% for i in range(99) %}{% set n.a = n.a ~ n.a %}{% endfor %}",
            "fuel",
        ),
        (
            "{% set n = namespace(a='xx') %}{% for i in range(99) %}{% set n.a = [n.a, n.a] | join %}{% endfor %}",
            "fuel",
        ),
        (
            "{% set n = namespace(a='xx') %}{% for i in range(99) %}{% set n.a = n.a | replace('x', n.a) %}{% endfor %}",
            "fuel",
        ),
        (
            "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
            "recursion",
        ),
        ("{{ messages | tojson(indent=100000000000) }}", "indent"),
        (&quoted, "tojson: more than"),
        ("{{ ([1] * 100000000) | tojson }}", "tojson: more than"),
        (
            "{% for i in range(99999) %}{{ 'x' * 9999 }}{% endfor %}",
            "writes more than",
        ),
    ];
    for (template, expected) in rendered {
        let folder = directory(&[("chat_template.jinja", template)]);
        let error = open(&folder)
            .render(&[Message::user("?")], true)
            .unwrap_err()
            .to_string();
        assert!(error.contains("chat_template.jinja"), "{error}");
        assert!(error.contains(expected), "{template}: {error}");
    }
}
