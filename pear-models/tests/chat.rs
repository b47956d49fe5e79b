//! Conversations rendered as transformers renders them (see `fixtures/chat/chat.py`).
#![cfg(feature = "chat")]

use std::fs;
use std::path::Path;

use pear_models::{ChatTemplate, Message};
use serde_json::{Value, json};

fn fixture() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chat/chat.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn messages(case: &Value) -> Vec<Message> {
    let turns = case["messages"].as_array().unwrap().iter();
    turns
        .map(|turn| Message {
            role: turn[0].as_str().unwrap().into(),
            content: turn[1].as_str().unwrap().into(),
        })
        .collect()
}

#[test]
fn conversations_are_rendered_letter_by_letter_as_transformers_does() {
    let fixture = fixture();
    for case in fixture["cases"].as_array().unwrap() {
        let folder = tempfile::tempdir().unwrap();
        let template = &fixture["templates"][case["template"].as_str().unwrap()];
        let mut config = fixture["special"].clone();
        // Both places, and both ways to write a token.
        if case["add_generation_prompt"] == true {
            fs::write(
                folder.path().join("chat_template.jinja"),
                template.as_str().unwrap(),
            )
            .unwrap();
            config["bos_token"] = json!({"content": "<s>", "special": true});
        } else {
            config["chat_template"] = json!([{"name": "tool_use", "template": "x"}, {"name": "default", "template": template}]);
        }
        fs::write(
            folder.path().join("tokenizer_config.json"),
            config.to_string(),
        )
        .unwrap();
        let rendered = ChatTemplate::open(folder.path()).unwrap().render(
            &messages(case),
            case["add_generation_prompt"].as_bool().unwrap(),
        );
        match case["rendered"].as_str() {
            Some(expected) => assert_eq!(rendered.unwrap(), expected, "{case}"),
            None => {
                let error = rendered.unwrap_err().to_string();
                assert!(
                    error.contains(case["error"].as_str().unwrap()),
                    "{case}: {error}"
                );
            }
        }
    }
}

#[test]
fn the_date_is_todays_and_templates_that_are_none_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let write =
        |template: &str| fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    write("{{ strftime_now('%d %b %Y') }}");
    let said = ChatTemplate::open(folder.path())
        .unwrap()
        .render(&[], false)
        .unwrap();
    assert_eq!((said.len(), &said[2..3], &said[7..9]), (11, " ", "20"));
    write("{{ strftime_now('%Q') }}");
    assert!(
        ChatTemplate::open(folder.path())
            .unwrap()
            .render(&[], false)
            .is_err()
    );
    write("{% for %}");
    let error = ChatTemplate::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("chat_template.jinja"), "{error}");
    let empty = tempfile::tempdir().unwrap();
    assert!(
        ChatTemplate::open(empty.path())
            .unwrap_err()
            .to_string()
            .contains("no chat template")
    );
}
