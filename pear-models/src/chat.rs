//! Chat templates: what a conversation looks like to the model that was trained on it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, ValueKind};
use minijinja::{Environment, ErrorKind, Value as Jinja};
use serde::Serialize;
use serde_json::Value;

use crate::error::Error;
use crate::regular_file;

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Message {
    /// `system`, `user`, `assistant`.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl Message {
    /// What a user says.
    pub fn user(content: impl Into<String>) -> Self {
        Self {
            role: "user".into(),
            content: content.into(),
        }
    }
}

/// The chat template of a model directory, rendered as transformers renders it.
///
/// ```
/// use pear_models::{ChatTemplate, Message};
///
/// let folder = tempfile::tempdir()?;
/// let template = "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m['content'].strip() }}\n{% endfor %}";
/// let config = serde_json::json!({"bos_token": "<s>", "chat_template": template});
/// std::fs::write(folder.path().join("tokenizer_config.json"), config.to_string())?;
/// let template = ChatTemplate::open(folder.path())?;
/// assert_eq!(template.render(&[Message::user(" Why? ")], true)?, "<s><user>Why?\n");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct ChatTemplate {
    path: PathBuf,
    environment: Environment<'static>,
    /// `bos_token`, `eos_token` and their like, by name.
    special: BTreeMap<String, String>,
}

/// What the template is called within its environment.
const NAME: &str = "chat_template";

impl ChatTemplate {
    /// The template of `chat_template.jinja`, or else of `tokenizer_config.json`: its only one, or the one called `default`.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Malformed`] for files that cannot be read; [`Error::Malformed`] where there is no template, or one that
    /// is none.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let config_path = directory.join("tokenizer_config.json");
        let config: Value = match read(&config_path)? {
            Some(text) => serde_json::from_str(&text)
                .map_err(|e| Error::malformed(&config_path, format!("not valid JSON: {e}")))?,
            None => Value::Null,
        };
        let file = directory.join("chat_template.jinja");
        let (path, source) = match read(&file)? {
            Some(source) => (file, source),
            None => match chosen(&config["chat_template"]) {
                Some(source) => (config_path, source),
                None => {
                    let problem = "no chat template: neither `chat_template` here nor a file chat_template.jinja beside it";
                    return Err(Error::malformed(&config_path, problem));
                }
            },
        };
        let special = config
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(key, _)| key.ends_with("_token"));
        let special = special
            .filter_map(|(key, token)| Some((key.clone(), content(token)?)))
            .collect();
        let mut environment = environment();
        environment
            .add_template_owned(NAME, source)
            .map_err(|e| Error::malformed(&path, format!("not a chat template: {e:#}")))?;
        Ok(Self {
            path,
            environment,
            special,
        })
    }

    /// The text of a conversation, special tokens and all: to be encoded as it is (`Tokenizer::encode_rendered`). With
    /// `add_generation_prompt` it ends where the assistant is to speak.
    ///
    /// # Errors
    /// [`Error::Malformed`] with what the template says of a conversation that it does not take, such as one with a system message.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, Error> {
        let fail =
            |e: minijinja::Error| Error::malformed(&self.path, format!("the chat template: {e:#}"));
        let mut context: BTreeMap<&str, Jinja> = self
            .special
            .iter()
            .map(|(name, token)| (name.as_str(), Jinja::from(token.as_str())))
            .collect();
        context.insert("messages", Jinja::from(Serde(messages)));
        context.insert("add_generation_prompt", add_generation_prompt.into());
        // Templates ask for these whether there are any or not.
        context.insert("tools", ().into());
        context.insert("documents", ().into());
        self.environment
            .get_template(NAME)
            .map_err(fail)?
            .render(context)
            .map_err(fail)
    }
}

fn read(path: &Path) -> Result<Option<String>, Error> {
    let Some(text) = regular_file::read_if_present(path)? else {
        return Ok(None);
    };
    String::from_utf8(text)
        .map(Some)
        .map_err(|e| Error::malformed(path, format!("is not UTF-8: {e}")))
}

/// A template, or the one called `default` of several.
fn chosen(template: &Value) -> Option<String> {
    match template {
        Value::String(template) => Some(template.clone()),
        Value::Array(several) => several.iter().find(|one| one["name"] == "default")?["template"]
            .as_str()
            .map(str::to_owned),
        _ => None,
    }
}

/// A token, written plainly or with its properties.
fn content(token: &Value) -> Option<String> {
    token
        .as_str()
        .or_else(|| token["content"].as_str())
        .map(str::to_owned)
}

/// What transformers gives templates beside Jinja itself.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_syntax(
        SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .expect("Jinja's own delimiters"),
    );
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", to_json);
    environment.add_function(
        "raise_exception",
        |message: String| -> Result<Jinja, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        },
    );
    environment.add_function(
        "strftime_now",
        |format: String| -> Result<String, minijinja::Error> {
            use std::fmt::Write;
            let mut text = String::new();
            match write!(text, "{}", chrono::Local::now().format(&format)) {
                Ok(()) => Ok(text),
                Err(_) => Err(minijinja::Error::new(
                    ErrorKind::InvalidOperation,
                    format!("strftime_now: `{format}` is no format"),
                )),
            }
        },
    );
    environment
}

/// `json.dumps` of Python with `ensure_ascii=False`: spaces after colons and commas; with `indent`, lines.
fn to_json(value: Jinja, options: Kwargs) -> Result<String, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    for other in ["ensure_ascii", "separators", "sort_keys"] {
        let _: Option<Jinja> = options.get(other)?;
    }
    let mut text = String::new();
    write_json(&value, indent, 0, &mut text)?;
    Ok(text)
}

fn write_json(
    value: &Jinja,
    indent: Option<usize>,
    depth: usize,
    text: &mut String,
) -> Result<(), minijinja::Error> {
    let line = |depth: usize| indent.map(|indent| format!("\n{}", " ".repeat(indent * depth)));
    let between = |index: usize| match (line(depth + 1), index) {
        (Some(line), 0) => line,
        (Some(line), _) => format!(",{line}"),
        (None, 0) => String::new(),
        (None, _) => ", ".into(),
    };
    let is_map = value.kind() == ValueKind::Map;
    if !is_map && !matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) {
        let number_or_text = serde_json::to_string(value);
        *text += &number_or_text.map_err(|e| {
            minijinja::Error::new(ErrorKind::BadSerialization, format!("tojson: {e}"))
        })?;
        return Ok(());
    }
    text.push(if is_map { '{' } else { '[' });
    let mut empty = true;
    for (index, item) in value.try_iter()?.enumerate() {
        empty = false;
        *text += &between(index);
        if is_map {
            *text += &format!("{}: ", Value::from(item.to_string()));
            write_json(&value.get_item(&item)?, indent, depth + 1, text)?;
        } else {
            write_json(&item, indent, depth + 1, text)?;
        }
    }
    if let Some(line) = line(depth).filter(|_| !empty) {
        *text += &line;
    }
    text.push(if is_map { '}' } else { ']' });
    Ok(())
}
