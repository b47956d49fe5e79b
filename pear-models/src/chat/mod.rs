//! Chat templates: what a conversation looks like to the model that was trained on it.

mod growth;
mod json;
mod limits;
mod source;
mod tokens;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, Value as Jinja};
use serde::Serialize;
use serde_json::Value;

use crate::error::Error;
use crate::gguf::{GgufFile, GgufMetadata};
use crate::regular_file::{self, SETTINGS};

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

/// The chat template of a model, rendered as transformers renders it.
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

/// Where GGUF files hold it.
const GGUF_KEY: &str = "tokenizer.chat_template";

impl ChatTemplate {
    /// The template of a model directory, which is that of `chat_template.jinja`, or else of `tokenizer_config.json`: its only one, or the
    /// one called `default`; or that of a GGUF file.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Malformed`] for files that cannot be read; [`Error::Malformed`] or, of a GGUF file, [`Error::Config`] where
    /// there is no template, or one that is none.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        if path.is_file() {
            return Self::from_metadata(GgufFile::open(path)?.metadata());
        }
        Self::find(path)?.ok_or_else(|| {
            let problem = "no chat template: neither `chat_template` here nor a file chat_template.jinja beside it";
            Error::malformed(&path.join("tokenizer_config.json"), problem)
        })
    }

    /// As [`open`](Self::open), but `None` where a model has no template.
    ///
    /// # Errors
    /// As [`open`](Self::open), for files that cannot be read and templates that are none.
    pub fn find(path: impl AsRef<Path>) -> Result<Option<Self>, Error> {
        let directory = path.as_ref();
        if directory.is_file() {
            return Self::find_in_metadata(GgufFile::open(directory)?.metadata());
        }
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
                None => return Ok(None),
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
        Self::new(path, &source, special).map(Some)
    }

    /// The template of a GGUF file.
    ///
    /// # Errors
    /// [`Error::Config`] where there is no template, [`Error::Malformed`] where it is none.
    pub(crate) fn from_metadata(metadata: &GgufMetadata) -> Result<Self, Error> {
        Self::find_in_metadata(metadata)?
            .ok_or_else(|| metadata.error(GGUF_KEY, "is missing: the file has no chat template"))
    }

    /// The template of a GGUF file, if it has one.
    ///
    /// # Errors
    /// [`Error::Malformed`] for a template that is none.
    pub(crate) fn find_in_metadata(metadata: &GgufMetadata) -> Result<Option<Self>, Error> {
        let Some(source) = metadata.text(GGUF_KEY)? else {
            return Ok(None);
        };
        let tokens = metadata.texts("tokenizer.ggml.tokens")?.unwrap_or_default();
        let mut special = BTreeMap::new();
        for name in ["bos", "eos", "unknown", "padding"] {
            let id = metadata.integer(&format!("tokenizer.ggml.{name}_token_id"))?;
            let id = id.and_then(|id| usize::try_from(id).ok());
            if let Some(&token) = id.and_then(|id| tokens.get(id)) {
                let name = match name {
                    "unknown" => "unk",
                    "padding" => "pad",
                    name => name,
                };
                special.insert(format!("{name}_token"), token.to_owned());
            }
        }
        Self::new(metadata.path().into(), source, special).map(Some)
    }

    fn new(path: PathBuf, source: &str, special: BTreeMap<String, String>) -> Result<Self, Error> {
        let malformed =
            |problem: String| Error::malformed(&path, format!("not a chat template: {problem}"));
        source::check(source).map_err(malformed)?;
        let mut environment = environment();
        limits::on_large_stack(|| environment.add_template_owned(NAME, scoped_generation(source)))
            .map_err(|e| malformed(limits::problem(&e)))?;
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
        let fail = |e: minijinja::Error| {
            Error::malformed(
                &self.path,
                format!("the chat template: {}", limits::problem(&e)),
            )
        };
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
        let template = self.environment.get_template(NAME).map_err(fail)?;
        let mut text = limits::Output::default();
        let rendered =
            limits::on_large_stack(|| template.render_captured_to(context, &mut text).map(drop));
        text.finish(rendered).map_err(fail)
    }
}

fn read(path: &Path) -> Result<Option<String>, Error> {
    let Some(text) = regular_file::read_if_present(path, SETTINGS)? else {
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

/// A template whose `generation` blocks are `with` blocks.
///
/// Transformers' own tag marks what the assistant wrote, for training; to rendering it is a scope like any other.
fn scoped_generation(source: &str) -> String {
    let (mut scoped, mut rest) = (String::with_capacity(source.len()), source);
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else {
            break;
        };
        let (before, tag) = rest[..start + length].split_at(start);
        scoped += before;
        match tag[2..].trim_matches(|c: char| c.is_whitespace() || "-+".contains(c)) {
            name @ ("generation" | "endgeneration") => {
                scoped += &tag.replace(name, &name.replace("generation", "with"));
            }
            _ => scoped += tag,
        }
        rest = &rest[start + length..];
    }
    scoped + rest
}

/// What transformers gives templates beside Jinja itself.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_fuel(Some(limits::FUEL));
    environment.set_syntax(
        SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .expect("Jinja's own delimiters"),
    );
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", json::to_json);
    // As in Python, `none` is not iterable: templates ask this of `tools` before they count them.
    environment.add_test("iterable", |value: Jinja| {
        !value.is_none() && value.try_iter().is_ok()
    });
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
